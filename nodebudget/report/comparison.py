"""Datasets side by side: how large their graphs are, and what batches of a fixed number of them hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from nodebudget.analysis.dataset_comparison import Comparison, Row
from nodebudget.analysis.equivalent_batch_size import suggest_batch_size
from nodebudget.calibration.memory_model import Calibration
from nodebudget.report.charts import Axis, Chart, Series
from nodebudget.report.formats import number
from nodebudget.report.report import Advice, Report, Table
from nodebudget.report.sizes import group_labels, statistics_table
from nodebudget.utils.byte_units import format_bytes
from nodebudget.utils.size_labels import size_label

_BINS = 50

_COLOURS = 6  #: Datasets with colours of their own; further ones repeat them.
_EVEN = 1.05  #: A largest batch within this ratio of the mean is not worth a sentence.


def comparison_report(comparison: Comparison, calibration: Calibration | None = None, source: str = "") -> Report:
    """Report on datasets side by side; `calibration` is the one that they were compared with, `source` its name."""
    rows = comparison.rows
    values = {
        **comparison.to_dict(),
        "calibration": source or None,
        "measure": comparison.common,
        "equivalent": [
            suggest_batch_size(rows[0].sizes, comparison.batch_size, row.sizes, calibration=calibration).to_dict()
            for row in rows[1:]
        ],
    }
    memory = f"; memory as predicted by {source}" if source else ""
    return Report(
        "Datasets",
        f"{', '.join(row.name for row in rows)}: sizes of graphs and of batches of {comparison.batch_size:,}{memory}",
        tables=[statistics_table({row.name: row.statistics for row in rows}), _batches(values)],
        advice=_advice(values),
        draw=lambda: _charts(comparison),
        values=values,
    )


def _batches(values: Mapping[str, Any]) -> Table:
    rows: list[list[str]] = []
    for dataset in values["datasets"]:
        sizes = {
            **dataset["per_batch"],
            **({"bytes": dataset["predicted_bytes"]} if dataset["predicted_bytes"] else {}),
        }
        for column, totals in sizes.items():
            ratio = f"{totals['expected_max'] / totals['mean']:.2f}" if totals["mean"] else "–"
            change = dataset["difference"].get(column) if dataset is not values["datasets"][0] else None
            cells = [_amount(column, totals[key]) for key in ("mean", "std", "expected_max")]
            rows.append([*group_labels(rows, dataset["name"]), size_label(column), *cells, ratio])
            rows[-1].append("" if change is None else f"{change:+.1%}")
    head = ["dataset", "per batch", "mean", "std", "expected max", "max / mean", "vs. first"]
    title = f"Sizes per batch of {values['batch_size']:,} graphs, shuffled"
    if len(values["datasets"]) == 1:
        head, rows = head[:-1], [row[:-1] for row in rows]
    return Table(head, rows, title, ["per batch"])


def _amount(column: str, value: float) -> str:
    return format_bytes(value) if column == "bytes" else number(value)


def _bars(rows: Sequence[Row], values: Sequence[npt.NDArray[Any]], *, whole: bool = False) -> list[Series]:
    """Return a histogram of the values of each dataset, with the same bins for all."""
    low, high = min(float(each.min()) for each in values), max(float(each.max()) for each in values)
    if whole:
        # The last percent of a heavy tail would leave no width to the rest: it goes into the last bin.
        high = max(float(np.quantile(each, 0.99)) for each in values)
        width = max(1, -(-(int(high) - int(low) + 1) // _BINS))  # every bin holds equally many whole numbers
        edges = np.arange(int(low) - 0.5, high + width, width)
    else:
        edges = np.linspace(low, max(high, low * 1.01, low + 1e-9), _BINS + 1)
    series = []
    for place, (row, each) in enumerate(zip(rows, values, strict=True)):
        shares = np.histogram(np.minimum(each, edges[-1]), edges)[0] / len(each)
        series.append(Series("bars", _style(place), row.name, edges.tolist(), shares.tolist()))
    return series


def _charts(comparison: Comparison) -> list[Chart]:
    rows, measure, size = comparison.rows, comparison.common, comparison.batch_size
    nodes = _bars(rows, [row.sizes["nodes"] for row in rows], whole=True)
    tail = any(row.statistics["nodes"]["max"] > nodes[0].x[-1] for row in rows)
    largest = []
    for place, row in enumerate(rows):
        totals = row.predicted_bytes or row.totals[measure]
        title = f"{row.name}: {_amount(measure, totals.expected_max)}"
        largest.append(Series("event", _style(place), "", [totals.expected_max], [], titles=[title]))
    return [
        Chart(
            "Nodes per graph",
            Axis("nodes per graph"),
            Axis("share of the graphs", "percent", low=0.0),
            nodes,
            note="The last bar holds all larger graphs." if tail else "",
        ),
        Chart(
            f"Random batches of {size:,} graphs",
            Axis(f"{size_label(measure)} per batch", "bytes" if measure == "bytes" else ""),
            Axis("share of the batches", "percent", low=0.0),
            [*_bars(rows, [row.drawn for row in rows]), *largest],
            note="Dashed: the largest batch of an epoch, on average.",
        ),
    ]


def _style(place: int) -> str:
    return f"set{place % _COLOURS}"


def _advice(values: Mapping[str, Any]) -> list[Advice]:
    """Say what the spread of the sizes costs, why datasets differ, and which batch sizes are equivalent."""
    size, measure, (first, *others) = values["batch_size"], values["measure"], values["datasets"]
    texts = []
    for dataset in values["datasets"]:
        totals = dataset["predicted_bytes"] if measure == "bytes" else dataset["per_batch"][measure]
        mean, largest = totals["mean"], totals["expected_max"]
        if mean and largest > _EVEN * mean:
            more = f"{largest / mean - 1:.0%} more {size_label(measure)} than a mean one"
            amounts = f"{_amount(measure, largest)} against {_amount(measure, mean)}"
            text = f"with {size:,} graphs per batch the largest batch of an epoch is expected to have {more}"
            texts.append(f"{dataset['name']}: {text} ({amounts}); memory has to suffice for it.")
    for dataset, equal in zip(others, values["equivalent"], strict=True):
        texts.append(dataset["sentence"])
        if equal["batch_size"] != size:
            text = f"{equal['batch_size']:,} graphs of {dataset['name']} take as much as {size:,} of {first['name']}."
            texts.append(text)
    return [Advice("note", text) for text in texts]
