"""The results of the study as text: a table and the verdicts."""

from __future__ import annotations

from data_loading import Study
from data_loading.pairs import Finding
from nodebudget.report.report import Table
from nodebudget.report.text.render import as_text
from nodebudget.utils.byte_units import format_bytes

_WIDTH = 150


def study_text(study: Study) -> str:
    """Return the pairs and the verdicts as text for a terminal."""
    noise = study.noise
    parts = [
        _header(study),
        "Memory of each pair of runs, and the difference of the second run from the first:",
        _table(study.findings),
        f"Two runs with the same settings differ by {format_bytes(noise.device)} of device memory and "
        f"{format_bytes(noise.host)} of host memory.",
        "",
    ]
    for claim in study.claims:
        host = f", host memory: {claim.host}" if claim.host else ""
        parts.append(f"Claim {claim.number}, {claim.text}. Device memory: {claim.device}{host}.")
        parts.append(f"  {claim.reason[:1].upper()}{claim.reason[1:]}.")
    parts += [f"Not measured on this machine: {item}." for item in study.not_measured]
    return "\n".join(parts)


def _header(study: Study) -> str:
    about = study.device
    if about["device"] == "cpu":
        device = f"the tensors of a training step, traced on the CPU ({about['name']})"
    else:
        device = f"the peak of PyTorch's allocator on {about['device']} ({about['name']})"
    host = "private memory of the process and its workers, and shared memory between them"
    if about["device"] == "cpu":
        host += ", without the model, which a GPU would hold"
    data = f"{study.crystals} crystals with texts, in batches of {study.batch_size}"
    return f"{data}; each run is a separate process.\nDevice memory: {device}.\nHost memory: {host}."


def _table(findings: tuple[Finding, ...]) -> str:
    head = ["setting", "first run", "second run", "device", "difference", "host", "difference", "formula"]
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
    return as_text(Table(head, rows), _WIDTH)


def _formula(finding: Finding) -> str:
    if finding.expected_device is not None:
        return f"device {_signed(finding.expected_device)}"
    return "" if finding.expected_host is None else f"host {_signed(finding.expected_host)}"


def _signed(count: int) -> str:
    return f"{'-' if count < 0 else '+'}{format_bytes(abs(count))}"
