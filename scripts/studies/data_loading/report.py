"""What an experiment measured, as a table and verdicts."""

from __future__ import annotations

from data_loading import Experiment
from data_loading.pairs import Finding
from nodebudget.report.text import render, table_of
from nodebudget.utils.byte_units import format_bytes

_WIDTH = 150


def experiment_text(experiment: Experiment) -> str:
    """Describe the pairs and the verdicts for people."""
    noise = experiment.noise
    parts = [
        _where(experiment),
        "What the second value takes more than the first:",
        _table(experiment.findings),
        f"Two runs of the same settings differ by {format_bytes(noise.device)} of device memory and "
        f"{format_bytes(noise.host)} of host memory.",
        "",
    ]
    for claim in experiment.claims:
        host = f"; for host memory {claim.host}" if claim.host else ""
        parts.append(f"Claim {claim.number}, {claim.text}: for device memory {claim.device}{host}.")
        parts.append(f"  {claim.reason[:1].upper()}{claim.reason[1:]}.")
    parts += [f"Not measured here: {what}." for what in experiment.not_measured]
    return "\n".join(parts)


def _where(experiment: Experiment) -> str:
    about = experiment.device
    if about["device"] == "cpu":
        device = f"the tensors of a training step, traced on the CPU ({about['name']}): what a device would hold"
    else:
        device = f"the peak of PyTorch's allocator on {about['device']} ({about['name']})"
    host = "private memory of the process and its workers, and shared memory between them"
    if about["device"] == "cpu":
        host += ", without what a device would hold"
    what = f"Batches of {experiment.batch_size} of {experiment.crystals} crystals with texts"
    return f"{what}, each run in a process of its own.\nDevice memory: {device}.\nHost memory: {host}."


def _table(findings: tuple[Finding, ...]) -> str:
    head = ["setting", "from", "to", "device", "more", "host", "more", "formula"]
    rows = [
        [
            finding.pair.name,
            *finding.pair.shown,
            format_bytes(finding.a.device),
            _signed(finding.device),
            format_bytes(finding.a.host),
            _signed(finding.host),
            _formula(finding),
        ]
        for finding in findings
    ]
    return render(table_of(head, rows), width=_WIDTH)


def _formula(finding: Finding) -> str:
    if finding.expected_device is not None:
        return f"device {_signed(finding.expected_device)}"
    return "" if finding.expected_host is None else f"host {_signed(finding.expected_host)}"


def _signed(count: int) -> str:
    return f"{'-' if count < 0 else '+'}{format_bytes(abs(count))}"
