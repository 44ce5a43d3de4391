"""The verdict on each claim, for device memory and for host memory, and the figures behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from data_loading.pairs import Finding
from nodebudget.utils.byte_units import format_bytes

REFUTED, CONFIRMED, UNMEASURED = "refuted", "confirmed", "not measured"

#: Device memory counts as unchanged within this fraction of a step.
_SAME = 0.005

#: Host memory follows a formula within this fraction of it.
_NEAR = 0.25

#: Expected host memory, bytes, under which a formula can't be refuted: other code leaves some MiB behind.
_REFUTABLE = 32 * 2**20


@dataclass(frozen=True)
class Claim:
    """A claim and its verdicts.

    Attributes:
        number: Number of the claim; claim 1, the mean size of the crystals, is answered by 'nodebudget compare'.
        text: The claim.
        device: Verdict for device memory: "refuted", "confirmed" or "not measured".
        host: Verdict for host memory; "" if the claim is not about it, "not measured" also if the expected difference
            is too small to measure.
        reason: The figures behind the verdicts, in a sentence.
    """

    number: int
    text: str
    device: str
    host: str
    reason: str

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Noise:
    """Difference between two runs with the same settings, bytes."""

    device: int
    host: int


def judge(findings: Sequence[Finding], noise: Noise, *, cuda: bool) -> tuple[Claim, ...]:
    """Return the verdicts on claims 2 to 5.

    Args:
        findings: All pairs.
        noise: Difference between two runs with the same settings.
        cuda: Whether the runs used a GPU. Without one device memory is "not measured": a CPU run shows the tensors of a
            step, but not whether anything else would be put on a GPU.
    """
    usual = {finding.pair.name: finding for finding in findings if finding.pair.device is None}
    moved = {finding.pair.name: finding for finding in findings if finding.pair.device is not None}
    claims = (
        _pinned(usual["pin_memory"], noise),
        _workers(usual["num_workers"], usual["prefetch_factor"], moved.get("collate function"), noise),
        _graphs(usual["graph cache"], noise),
        _text(usual["text cache"], moved.get("text cache"), noise),
    )
    return claims if cuda else tuple(replace(claim, device=UNMEASURED) for claim in claims)


def _pinned(finding: Finding, noise: Noise) -> Claim:
    text = "pin_memory=True raises GPU memory"
    if not finding.b.pinned:
        warning = next((text for text in finding.b.warnings if "pin_memory" in text), "nothing was pinned")
        return Claim(2, text, UNMEASURED, "", f"no memory was pinned; PyTorch says: {warning.rstrip('.')}")
    reason = (
        f"the loader pinned {format_bytes(finding.b.pinned)} of host memory for batches of "
        f"{format_bytes(finding.b.batch)}; {_device(finding)}; host memory {_change(finding.host)}"
    )
    if not finding.b.pinned_graph:
        reason += "; a batched DGL graph is not pinned, because it has no method pin_memory"
    return Claim(2, text, _grows(finding, noise), "", reason)


def _workers(number: Finding, ahead: Finding, moved: Finding | None, noise: Noise) -> Claim:
    text = "num_workers: extra memory is workers × prefetched batches × batch"
    device = CONFIRMED if CONFIRMED in (_grows(number, noise), _grows(ahead, noise)) else REFUTED
    workers = number.b.processes - 1
    batches = workers * number.pair.b.prefetch_factor * number.b.batch
    reason = (
        f"{_device(ahead)}; with prefetch_factor {' → '.join(ahead.pair.shown)} host memory {_change(ahead.host)} "
        f"(formula: {format_bytes(ahead.expected_host or 0)}); with {workers} worker{'s' if workers > 1 else ''} "
        f"instead of none it {_change(number.host)}: {format_bytes(batches)} of batches and "
        f"{format_bytes((number.host - batches) / max(workers, 1))} per worker process"
    )
    moved_reason = _moved(moved, "if the collate function moves batches to the device")
    return Claim(3, text, device, _follows(ahead), reason + moved_reason)


def _graphs(finding: Finding, noise: Noise) -> Claim:
    text = "a graph cache (dgl.save_graphs, dgl.load_graphs) puts graphs on the GPU"
    devices = finding.b.graph_devices
    reason = (
        f"all graphs from dgl.load_graphs are on {', '.join(devices)}; {_device(finding)}; host memory "
        f"{_change(finding.host)}, and the tensors of the graphs are {format_bytes(finding.b.graphs)}"
    )
    refuted = devices == ("cpu",) and _grows(finding, noise) == REFUTED
    return Claim(4, text, REFUTED if refuted else CONFIRMED, "", reason)


def _text(finding: Finding, moved: Finding | None, noise: Noise) -> Claim:
    text = "a cache of text encodings takes 768 floats × tokens of GPU memory"
    reason = (
        f"a step took {format_bytes(finding.b.device)} of device memory with the cache and "
        f"{format_bytes(finding.a.device)} without it, because the encoder then runs on the device; host memory "
        f"{_change(finding.host)} (formula: {format_bytes(finding.expected_host or 0)})"
    )
    moved_reason = _moved(moved, "if the cache is moved to the device")
    return Claim(5, text, _grows(finding, noise), _follows(finding), reason + moved_reason)


def _moved(finding: Finding | None, condition: str) -> str:
    if finding is None:
        return ""
    expected = format_bytes(finding.expected_device or 0)
    return f"; {condition}, device memory {_change(finding.device)} (formula: {expected})"


def _grows(finding: Finding, noise: Noise) -> str:
    return CONFIRMED if finding.device > max(2 * noise.device, _SAME * finding.a.device) else REFUTED


def _follows(finding: Finding) -> str:
    formula = finding.expected_host or 0
    if abs(finding.host - formula) <= _NEAR * formula:
        return CONFIRMED
    return REFUTED if formula >= _REFUTABLE else UNMEASURED


def _device(finding: Finding) -> str:
    first, second = format_bytes(finding.a.device), format_bytes(finding.b.device)
    if first == second:
        return f"a step took {first} of device memory in both runs"
    return f"a step took {first} and {second} of device memory"


def _change(count: int) -> str:
    return f"{'grew' if count >= 0 else 'shrank'} by {format_bytes(abs(count))}"
