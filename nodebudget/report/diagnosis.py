"""Two runs side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nodebudget.analysis.run_diff.diff import Diagnosis, Difference
from nodebudget.analysis.run_diff.measured import MAX_GRAPHS
from nodebudget.report.formats import or_dash
from nodebudget.report.report import Advice, Report, Table
from nodebudget.utils.byte_units import format_bytes, format_change

_LONGEST = 24  #: Longer values are cut: paths and lists can be.

_TITLES = {
    True: "Differences that affect device memory, the largest first",
    None: "Differences that can affect device memory: not measured",
    False: "Differences that do not affect device memory",
}


def diagnosis_report(diagnosis: Diagnosis) -> Report:
    """Report on the differences of two runs and what they change."""
    if not diagnosis.differences:
        return Report("Diagnosis", f"{diagnosis.likely_cause} ({diagnosis.settings} of them)")
    tables = []
    for affects, title in _TITLES.items():
        rows = [entry for entry in diagnosis.differences if entry.affects_device_memory is affects]
        if rows:
            tables.append(_table(rows, title))
    notes = []
    if diagnosis.predicted_bytes is not None:
        first, second = map(format_bytes, diagnosis.predicted_bytes)
        notes.append(f"A step on a mean batch, with the calibrated model: {first} in A, {second} in B.")
    if diagnosis.measured_bytes is not None:
        first, second = map(format_bytes, diagnosis.measured_bytes)
        graphs = f"up to {MAX_GRAPHS} in a batch of A"
        notes.append(f"A step on the same crystals, {graphs}, measured: {first} in A, {second} in B.")
    cause = Advice("note", diagnosis.likely_cause)
    return Report("Diagnosis", f"A: {diagnosis.a}, B: {diagnosis.b}", tables=tables, notes=notes, advice=[cause])


def _table(entries: Sequence[Difference], title: str) -> Table:
    columns = {"setting": [entry.name for entry in entries]}
    columns |= {"A": [_value(entry.a) for entry in entries], "B": [_value(entry.b) for entry in entries]}
    for name, counts in (
        ("change", [entry.bytes for entry in entries]),
        ("host memory", [entry.host_bytes for entry in entries]),
    ):
        if any(count is not None for count in counts):
            columns[name] = [or_dash(count, format_change) for count in counts]
    columns["why"] = [entry.reason for entry in entries]
    return Table(list(columns), [list(row) for row in zip(*columns.values(), strict=True)], title, ["why"])


def _value(value: Any) -> str:
    text = "not set" if value is None else str(value)
    # The end of a path says more than its beginning.
    return text if len(text) <= _LONGEST else f"…{text[1 - _LONGEST :]}"
