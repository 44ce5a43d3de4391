"""What the pairs say of the usual suspects: a verdict for device memory, one for host memory, and the figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from data_loading.pairs import Finding
from nodebudget.utils.byte_units import format_bytes

REFUTED, CONFIRMED, UNMEASURED = "refuted", "confirmed", "not measured"

#: Device memory is the same within this part of a step; host memory follows a formula within this part of it.
_SAME = 0.005
_NEAR = 0.25

#: Less host memory than this, by the formula, does not refute it.
_TELLS = 32 * 2**20


@dataclass(frozen=True)
class Claim:
    """A claim and what became of it.

    Attributes:
        number: Its number among the causes that are usually given.
        text: What is claimed.
        device: Verdict for device memory: "refuted", "confirmed" or "not measured".
        host: Verdict for host memory, "" where nothing is claimed of it; "not measured" also where there was too little
            of it to tell.
        reason: The figures behind it, in a sentence.
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
    """By how much two runs of the same settings differ, bytes."""

    device: int
    host: int


def judge(findings: Sequence[Finding], noise: Noise, *, cuda: bool) -> tuple[Claim, ...]:
    """Return the verdicts on claims 2 to 5.

    Args:
        findings: All pairs.
        noise: Of two runs of the same settings.
        cuda: Whether there was a device. Without one nothing is said of device memory: what a step asks for is seen on
            the CPU too, but not whether something else is put on a device.
    """
    usual = {found.pair.name: found for found in findings if found.pair.device is None}
    moved = {found.pair.name: found for found in findings if found.pair.device is not None}
    claims = (
        _pinned(usual["pin_memory"], noise),
        _workers(usual["num_workers"], usual["prefetch_factor"], moved.get("collate function"), noise),
        _graphs(usual["graph cache"], noise),
        _text(usual["text cache"], moved.get("text cache"), noise),
    )
    return claims if cuda else tuple(replace(claim, device=UNMEASURED) for claim in claims)


def _pinned(found: Finding, noise: Noise) -> Claim:
    text = "pin_memory=True raises GPU memory"
    if not found.b.pinned:
        said = next((warning for warning in found.b.warnings if "pin_memory" in warning), "nothing was pinned")
        return Claim(2, text, UNMEASURED, "", f"there was nothing to measure; PyTorch says: {said.rstrip('.')}")
    reason = (
        f"{format_bytes(found.b.pinned)} of pinned memory held a batch of {format_bytes(found.b.batch)}, on the host; "
        f"{_asks(found)}; the host took {_more(found.host)}"
    )
    if not found.b.pinned_graph:
        reason += "; of a batched DGL graph pin_memory pins nothing, since it has no such method"
    return Claim(2, text, _grows(found, noise), "", reason)


def _workers(number: Finding, ahead: Finding, moved: Finding | None, noise: Noise) -> Claim:
    text = "num_workers: extra memory is workers × prefetched batches × batch"
    device = CONFIRMED if CONFIRMED in (_grows(number, noise), _grows(ahead, noise)) else REFUTED
    workers = number.b.processes - 1
    batches = workers * number.pair.b.prefetch_factor * number.b.batch
    reason = (
        f"{_asks(ahead)}; prefetch_factor {' → '.join(ahead.pair.shown)} took {_more(ahead.host)} of the host, and the "
        f"formula says {format_bytes(ahead.expected_host or 0)}; {workers} worker{'s' if workers > 1 else ''} "
        f"instead of none took "
        f"{format_bytes(number.host)}: {format_bytes(batches)} of batches, and "
        f"{format_bytes((number.host - batches) / max(workers, 1))} for each worker itself"
    )
    return Claim(3, text, device, _follows(ahead), reason + _moved(moved, "where the collate function moves batches"))


def _graphs(found: Finding, noise: Noise) -> Claim:
    text = "a graph cache (dgl.save_graphs, dgl.load_graphs) puts graphs on the GPU"
    places = found.b.graph_devices
    reason = (
        f"all graphs that dgl.load_graphs gave are on {', '.join(places)}; {_asks(found)}; the host took "
        f"{_more(found.host)}, and the tensors of the graphs are {format_bytes(found.b.graphs)}"
    )
    return Claim(4, text, REFUTED if places == ("cpu",) and _grows(found, noise) == REFUTED else CONFIRMED, "", reason)


def _text(found: Finding, moved: Finding | None, noise: Noise) -> Claim:
    text = "a cache of text encodings takes 768 floats × tokens of GPU memory"
    reason = (
        f"a step asked for {format_bytes(found.b.device)} of the device with the cache and for "
        f"{format_bytes(found.a.device)} without it, since the encoder is there then; the host took "
        f"{_more(found.host)}, and the formula says {format_bytes(found.expected_host or 0)}"
    )
    return Claim(5, text, _grows(found, noise), _follows(found), reason + _moved(moved, "where the cache is moved"))


def _moved(found: Finding | None, where: str) -> str:
    if found is None:
        return ""
    expected = format_bytes(found.expected_device or 0)
    return f"; {where} to the device, it took {_more(found.device)} there, and the formula says {expected}"


def _grows(found: Finding, noise: Noise) -> str:
    return CONFIRMED if found.device > max(2 * noise.device, _SAME * found.a.device) else REFUTED


def _follows(found: Finding) -> str:
    formula = found.expected_host or 0
    if abs(found.host - formula) <= _NEAR * formula:
        return CONFIRMED
    # What other code leaves behind is some MiB, whatever the noise of equal runs: too little says nothing.
    return REFUTED if formula >= _TELLS else UNMEASURED


def _asks(found: Finding) -> str:
    first, second = format_bytes(found.a.device), format_bytes(found.b.device)
    return f"a step asked for {first} of the device " + ("either way" if first == second else f"and for {second}")


def _more(count: int) -> str:
    return f"{format_bytes(abs(count))} {'more' if count >= 0 else 'less'}"
