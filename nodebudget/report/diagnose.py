"""Two runs side by side, as text."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.table import Table

from nodebudget.analysis.run_diff.diff import Diagnosis, Difference
from nodebudget.report.text import render
from nodebudget.utils.byte_units import format_bytes

_WIDTH = 120

#: Longer values are cut: paths and lists can be.
_LONGEST = 24

_HEADS = {
    True: "Differences that affect device memory, the strongest first:",
    False: "Differences that do not affect device memory:",
    None: "Unknown settings:",
}


def diagnosis_text(diagnosis: Diagnosis) -> str:
    """Describe the differences of two runs for people, the most likely cause last."""
    if not diagnosis.differences:
        return f"{diagnosis.likely_cause} ({diagnosis.settings} of them)"
    parts = [f"A: {diagnosis.a}", f"B: {diagnosis.b}"]
    for moves, head in _HEADS.items():
        rows = [entry for entry in diagnosis.differences if entry.affects_device_memory is moves]
        if rows:
            parts += ["", head, render(_table(rows, moves), width=_WIDTH)]
    parts.append("")
    if diagnosis.predicted_bytes is not None:
        first, second = (format_bytes(count) for count in diagnosis.predicted_bytes)
        parts.append(f"A step on a mean batch, with the model that was calibrated: {first} in A, {second} in B.")
    return "\n".join([*parts, diagnosis.likely_cause])


def _table(rows: Iterable[Difference], moves: bool | None) -> Table:
    table = Table()
    for name in ("setting", "A", "B"):
        table.add_column(name, justify="left" if name == "setting" else "right", overflow="fold")
    rows = list(rows)
    on_host = any(row.host_bytes is not None for row in rows)
    if moves or on_host:
        table.add_column("bytes" if moves else "host memory", justify="right", no_wrap=True)
    if moves is not None:
        table.add_column("why", overflow="fold")
    for row in rows:
        cells = [row.name, _value(row.a), _value(row.b)]
        cells += [_bytes(row.bytes)] if moves else []
        cells += ["" if row.host_bytes is None else _bytes(row.host_bytes)] if on_host else []
        table.add_row(*cells, *([row.reason] if moves is not None else []))
    return table


def _bytes(count: int | None) -> str:
    if count is None:
        return "not known"
    return f"{'+' if count >= 0 else '-'}{format_bytes(abs(count))}"


def _value(value: Any) -> str:
    text = "not set" if value is None else str(value)
    # The end of a path tells more than its beginning.
    return text if len(text) <= _LONGEST else f"…{text[1 - _LONGEST :]}"
