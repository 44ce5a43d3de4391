"""Values in, tables of text out."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.table import Table

from nodebudget.calibration.memory_model import CONFIDENCE, Calibration, coefficient_name
from nodebudget.errors import printable
from nodebudget.report.console import PlainConsole
from nodebudget.utils.byte_units import format_bytes
from nodebudget.utils.size_labels import per_unit, size_label

if TYPE_CHECKING:
    from rich.console import RenderableType

    from nodebudget.analysis.device_budget import DeviceBudget
    from nodebudget.analysis.equivalent_batch_size import Suggestion
    from nodebudget.datasets.size_table import SizeTable


def render(table: RenderableType, width: int = 100) -> str:
    """Return a table as plain text without trailing spaces."""
    buffer = io.StringIO()
    PlainConsole(file=buffer, width=width, color_system=None, legacy_windows=False).print(table)
    return "\n".join(line.rstrip() for line in buffer.getvalue().rstrip().splitlines())


def table_of(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Make a table: the first column to the left, the others to the right."""
    table = Table()
    for place, name in enumerate(head):
        table.add_column(name, justify="left" if place == 0 else "right", no_wrap=place > 0)
    for row in rows:
        table.add_row(*row)
    return table


def calibration_text(
    calibration: Calibration, sizes: SizeTable | None = None, batch_size: int = 64, whose: str = "your data"
) -> str:
    """Describe a calibration for people: what each size costs, how good it is, what a batch of theirs takes."""
    weak = () if calibration.determination is None else calibration.determination.undetermined
    rows = [["fixed per step", format_bytes(calibration.fixed)]]
    for column in calibration.columns:
        cost = calibration.coefficients.get(coefficient_name(column), 0.0)
        rows.append([per_unit(column), format_bytes(cost)])
    device = calibration.context.get("device", {})
    title = f"A training step on {device.get('device', 'the device')} ({device.get('name', 'unknown')})"
    text = [printable(title), render(table_of(["what", "memory"], rows))]
    if sizes is not None and len(sizes):
        text.append(_batch_sentence(calibration, sizes, batch_size, whose))
    held = calibration.holdout
    text.append(
        f"Held-out error over {held.n} batches: {held.mape:.2%} mean, never under by more than {held.max_under:.2%}."
    )
    noise = calibration.context.get("noise")
    if noise is not None:
        text.append(f"The same step measured twice differs by {noise:.2%}.")
    bound = calibration.bound
    margin, largest = float(bound.margin(0.0, CONFIDENCE)), format_bytes(bound.max_measured)
    text.append(f"Budgets add {margin:.2%} to be {CONFIDENCE:.0%} sure, more beyond {largest}.")
    if weak:
        text.append(
            f"Not told apart by this data: {', '.join(weak)}. Their part is in the others: right for data like this."
        )
    lost = sum(entry.role == "out-of-memory" for entry in calibration.observations)
    if lost:
        text.append(f"{lost} probe{'s' if lost > 1 else ''} ran out of memory and are not in the fit.")
    return "\n".join(text)


def _batch_sentence(calibration: Calibration, sizes: SizeTable, batch_size: int, whose: str) -> str:
    mean = float(calibration.graph_bytes(sizes).mean()) * batch_size + calibration.fixed
    spread = float(np.std(calibration.graph_bytes(sizes))) * batch_size**0.5
    return (
        f"A batch of {batch_size} of {whose}: mean {format_bytes(mean)}, "
        f"typically {format_bytes(max(mean - 2 * spread, calibration.fixed))} to {format_bytes(mean + 2 * spread)}."
    )


def budget_text(budget: DeviceBudget) -> str:
    """Show line by line what is left of a device for a training step."""
    rows = [["the device", format_bytes(budget.capacity)]]
    rows += [[what, f"- {format_bytes(count)}"] for what, count in budget.lines]
    rows.append(["left for a training step", format_bytes(budget.memory)])
    text = render(table_of([f"{budget.setting} segments", "memory"], rows))
    return f"{text}\n{budget.advice}" if budget.advice else text


def suggestion_text(suggestion: Suggestion) -> str:
    """Describe a suggestion for people."""
    rows = [[size_label(name), "not known" if value is None else str(value)] for name, value in suggestion.by.items()]
    return f"{render(table_of(['equal in', 'batch size'], rows))}\n{suggestion.sentence}"


def runs_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Describe measured runs side by side: one row a run, as `nodebudget.analysis.quickstart` makes them."""
    head = ["run", "batches", "graphs a batch", "predicted mean", "max", "CV", "measured mean", "max", "CV"]
    body = [
        [
            f"{row['dataset']}, {row['batching']}",
            str(row["batches"]),
            f"{row['graphs_per_batch']['mean']:.1f} ± {row['graphs_per_batch']['std']:.1f}",
            *_peak_cells(row["predicted_bytes"]),
            *_peak_cells(row["measured_bytes"]),
        ]
        for row in rows
    ]
    return render(table_of(head, body), width=140)


def _peak_cells(summary: Mapping[str, float]) -> list[str]:
    return [format_bytes(summary["mean"]), format_bytes(summary["max"]), f"{summary['cv']:.1%}"]
