"""Two runs side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nodebudget.analysis.run_diff.diff import Diagnosis, Difference
from nodebudget.report.report import Advice, Report, Table
from nodebudget.utils.byte_units import format_bytes

#: Longer values are cut: paths and lists can be.
_LONGEST = 24

_TITLES = {
    True: "Differences that affect device memory, the strongest first",
    False: "Differences that do not affect device memory",
    None: "Unknown settings",
}


def diagnosis_report(diagnosis: Diagnosis) -> Report:
    """Report on the differences of two runs and the most likely cause."""
    if not diagnosis.differences:
        return Report("Diagnosis", f"{diagnosis.likely_cause} ({diagnosis.settings} of them)")
    tables = []
    for affects in _TITLES:
        rows = [entry for entry in diagnosis.differences if entry.affects_device_memory is affects]
        if rows:
            tables.append(_table(rows, affects))
    notes = []
    if diagnosis.predicted_bytes is not None:
        first, second = map(format_bytes, diagnosis.predicted_bytes)
        notes.append(f"A step on a mean batch, with the calibrated model: {first} in A, {second} in B.")
    cause = Advice("note", diagnosis.likely_cause)
    return Report("Diagnosis", f"A: {diagnosis.a}, B: {diagnosis.b}", tables=tables, notes=notes, advice=[cause])


def _table(differences: Sequence[Difference], affects: bool | None) -> Table:
    on_host = any(entry.host_bytes is not None for entry in differences)
    columns = {"setting": [entry.name for entry in differences]}
    columns |= {"A": [_value(entry.a) for entry in differences], "B": [_value(entry.b) for entry in differences]}
    if affects:
        columns["change"] = [_bytes(entry.bytes) for entry in differences]
    if on_host:
        columns["host memory"] = ["" if entry.host_bytes is None else _bytes(entry.host_bytes) for entry in differences]
    if affects is not None:
        columns["why"] = [entry.reason for entry in differences]
    return Table(list(columns), [list(row) for row in zip(*columns.values(), strict=True)], _TITLES[affects], ["why"])


def _bytes(count: int | None) -> str:
    return "not known" if count is None else f"{'+' if count >= 0 else '-'}{format_bytes(abs(count))}"


def _value(value: Any) -> str:
    text = "not set" if value is None else str(value)
    # The end of a path says more than its beginning.
    return text if len(text) <= _LONGEST else f"…{text[1 - _LONGEST :]}"
