"""Datasets side by side, as tables and as a picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, BinaryIO

import numpy as np

from nodebudget.analysis.batch_statistics import Totals
from nodebudget.analysis.dataset_comparison import Comparison, Row
from nodebudget.report.text import render, table_of
from nodebudget.utils.byte_units import format_bytes
from nodebudget.utils.optional_imports import require
from nodebudget.utils.size_labels import size_label

# Colours that stay apart for colour-blind eyes (Okabe and Ito, 2008), the darkest first for grey print.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")

_BINS = 60


def compare_text(comparison: Comparison) -> str:
    """Describe datasets for people: sizes a graph, sizes a batch, and why they differ."""
    rows = comparison.rows
    parts = [
        "What the graphs hold:",
        _sizes_table(rows),
        f"What a batch of {comparison.batch_size} holds, and the worst batch of a shuffled epoch on average:",
        _batches_table(rows),
        *(row.sentence for row in rows[1:]),
    ]
    return "\n".join(parts)


def _sizes_table(rows: Sequence[Row]) -> str:
    head = ["dataset", "samples", "of", "mean", "median", "min", "max", "std"]
    body = []
    for row in rows:
        for place, name in enumerate(row.totals):
            found = row.statistics[name]
            own = [row.name, f"{len(row.sizes):,}"] if place == 0 else ["", ""]
            numbers = [_number(found[key]) for key in ("mean", "median", "min", "max", "std")]
            body.append([*own, size_label(name), *numbers])
    return render(table_of(head, body), width=140)


def _batches_table(rows: Sequence[Row]) -> str:
    head = ["dataset", "of", "mean", "std", "worst batch", "worst / mean", "against the first"]
    body = []
    for row in rows:
        entries = [*row.totals.items(), *([("bytes", row.predicted_bytes)] if row.predicted_bytes else [])]
        for place, (name, totals) in enumerate(entries):
            show = format_bytes if name == "bytes" else _number
            change = row.difference.get(name)
            body.append(
                [
                    row.name if place == 0 else "",
                    size_label(name),
                    *_cells(totals, show),
                    "" if row is rows[0] or change is None else f"{change:+.1%}",
                ]
            )
    return render(table_of(head, body), width=140)


def _cells(totals: Totals, show: Callable[[float], str]) -> list[str]:
    ratio = f"{totals.expected_max / totals.mean:.2f}" if totals.mean else ""
    return [show(totals.mean), show(totals.std), show(totals.expected_max), ratio]


def _number(value: float) -> str:
    if float(value).is_integer():
        return f"{value:,.0f}"
    return f"{value:,.1f}" if abs(value) < 1000 else f"{value:,.0f}"


def draw_comparison(comparison: Comparison, file: BinaryIO) -> None:
    """Draw how large the graphs are, and how large random batches of them, one line a dataset.

    Args:
        comparison: What `nodebudget.analysis.dataset_comparison.compare` found.
        file: Where the PNG goes.

    Raises:
        MissingError: matplotlib is not there.
    """
    require("matplotlib").use("Agg")
    pyplot = require("matplotlib.pyplot")
    rows = comparison.rows
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    nodes = [row.sizes["nodes"] for row in rows]
    low, top = _range(nodes)
    width = max(1, -(-(top - low) // _BINS))  # whole numbers: other bins would hold more of them or fewer
    _curves(left, rows, nodes, np.arange(np.floor(low) - 0.5, top + width, width))
    left.set_title("graphs", fontsize=11)
    left.set_xlabel("nodes a graph")
    left.set_ylabel("share of the graphs")
    scale, unit = _scale(comparison)
    drawn = [row.drawn / scale for row in rows]
    _curves(right, rows, drawn, np.linspace(*_range(drawn), _BINS + 1))
    for place, row in enumerate(rows):
        totals = row.predicted_bytes or row.totals[comparison.common]
        right.axvline(totals.expected_max / scale, color=_colour(place), linestyle=":", linewidth=1.4)
    right.set_title(f"batches of {comparison.batch_size}; dotted: the worst of an epoch, on average", fontsize=11)
    right.set_xlabel(f"{size_label(comparison.common)} a batch{unit}")
    right.set_ylabel("share of the batches")
    if not unit:
        right.xaxis.set_major_formatter("{x:,.0f}")
    left.legend(frameon=False, fontsize=9)
    figure.savefig(file, format="png", dpi=130)
    pyplot.close(figure)


def _scale(comparison: Comparison) -> tuple[float, str]:
    if comparison.common != "bytes":
        return 1.0, ""
    large = max(float(row.drawn.max()) for row in comparison.rows) >= 2**30
    return 2.0**30 if large else 2.0**20, ", GiB" if large else ", MiB"


def _range(values: Sequence[Any]) -> tuple[float, float]:
    # The last hundredth of a heavy tail would press all else into a corner; what is cut off is a percent.
    low = min(float(np.min(each)) for each in values)
    top = max(float(np.quantile(each, 0.99)) for each in values) * 1.05
    return low, max(top, low * 1.01, low + 1e-9)


def _curves(axis: Any, rows: Sequence[Row], values: Sequence[Any], bins: Any) -> None:
    for place, (row, each) in enumerate(zip(rows, values, strict=True)):
        weights = np.full(len(each), 1 / len(each))
        label = f"{row.name} ({len(row.sizes):,})"
        axis.hist(each, bins, weights=weights, histtype="stepfilled", color=_colour(place), alpha=0.25)
        axis.hist(each, bins, weights=weights, histtype="step", color=_colour(place), linewidth=1.5, label=label)
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis="y", color="#e5e5e5", linewidth=0.8)
    axis.set_axisbelow(True)


def _colour(place: int) -> str:
    return _COLOURS[place % len(_COLOURS)]
