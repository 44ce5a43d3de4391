"""Datasets on a page: how large their graphs are, and what batches of a fixed number of them hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from nodebudget.analysis.dataset_comparison import Comparison, Row, compare
from nodebudget.analysis.equivalent_batch_size import suggest_batch_size
from nodebudget.calibration.memory_model import Calibration
from nodebudget.datasets.size_table import SizeTable
from nodebudget.errors import InputError
from nodebudget.report.html.charts import Axis, Chart, Series
from nodebudget.report.html.words import Advice
from nodebudget.utils.byte_units import format_bytes
from nodebudget.utils.size_labels import size_label

_BINS = 50

#: Datasets whose colours stay apart; further ones begin anew.
_COLOURS = 6

#: A worst batch that is larger than the mean by no more than this is none to speak of.
_LEVEL = 1.05


def describe_datasets(
    tables: Sequence[tuple[str, SizeTable]], batch_size: int, known: tuple[str, Calibration] | None
) -> dict[str, Any]:
    """Return what a page shows of datasets, as plain values.

    Args:
        tables: Name and sizes of each.
        batch_size: Graphs a batch.
        known: Name and calibration to predict bytes with, if there is one.

    Raises:
        InputError: A dataset without graphs, or a batch size under 1.
    """
    chosen = known if known is not None and all(fits(known[1], table) for _, table in tables) else None
    calibration = None if chosen is None else chosen[1]
    found = compare(tables, batch_size, calibration=calibration)
    return {
        **found.to_dict(),
        "calibration": None if chosen is None else chosen[0],
        "measure": found.common,
        "nodes": _histograms([row.sizes["nodes"] for row in found.rows], whole=True),
        "batches": _histograms([row.drawn for row in found.rows]),
        "equivalent": [_equivalent(row, found, calibration) for row in found.rows[1:]],
    }


def fits(calibration: Calibration, table: SizeTable) -> bool:
    """Say whether a table has the sizes that a calibration depends on."""
    try:
        calibration.graph_bytes(table)
    except InputError:
        return False  # without the line graph, say
    return True


def _histograms(values: Sequence[npt.NDArray[Any]], *, whole: bool = False) -> list[dict[str, list[float]]]:
    """Return the share of the values in each bin, the same bins for all: `edges` and `shares` of each."""
    low, high = min(float(each.min()) for each in values), max(float(each.max()) for each in values)
    if whole:
        # The last hundredth of a heavy tail would press all else into a corner: it goes into the last bin.
        high = max(float(np.quantile(each, 0.99)) for each in values)
        width = max(1, -(-(int(high) - int(low) + 1) // _BINS))  # other bins would hold more whole numbers or fewer
        edges = np.arange(int(low) - 0.5, high + width, width)
    else:
        edges = np.linspace(low, max(high, low * 1.01, low + 1e-9), _BINS + 1)
    return [
        {"edges": edges.tolist(), "shares": (np.histogram(np.minimum(each, edges[-1]), edges)[0] / len(each)).tolist()}
        for each in values
    ]


def _equivalent(row: Row, found: Comparison, calibration: Calibration | None) -> dict[str, Any]:
    return suggest_batch_size(found.rows[0].sizes, found.batch_size, row.sizes, calibration=calibration).to_dict()


def datasets_charts(values: Mapping[str, Any]) -> list[Chart]:
    """Draw how large the graphs are, and how large random batches of them."""
    names = [row["name"] for row in values["datasets"]]
    measure, size = values["measure"], values["batch_size"]
    unit = "bytes" if measure == "bytes" else ""
    graphs = Chart(
        "How large the graphs are",
        Axis("nodes a graph"),
        Axis("share of the graphs", "percent", low=0.0),
        tuple(_bars(names, values["nodes"])),
        note="The last bar holds all that are larger." if _tail(values) else "",
    )
    batches = Chart(
        f"What batches of {size:,} graphs hold, drawn at random",
        Axis(f"{size_label(measure)} a batch", unit),
        Axis("share of the batches", "percent", low=0.0),
        tuple(_bars(names, values["batches"])),
        note="The wider, the more memory is kept for the worst batch.",
    )
    return [graphs, batches]


def _tail(values: Mapping[str, Any]) -> bool:
    edges = values["nodes"][0]["edges"]
    return any(row["nodes"]["max"] > edges[-1] for row in values["datasets"])


def _bars(names: Sequence[str], histograms: Sequence[Mapping[str, Any]]) -> list[Series]:
    return [
        Series("bars", f"set{place % _COLOURS}", name, found["edges"], found["shares"])
        for place, (name, found) in enumerate(zip(names, histograms, strict=True))
    ]


def datasets_advice(values: Mapping[str, Any]) -> list[Advice]:
    """Say what the spread of the sizes costs, why datasets differ, and which batch sizes are alike."""
    size = values["batch_size"]
    found = [text for row in values["datasets"] if (text := _spread(row, values["measure"], size)) is not None]
    for row, equal in zip(values["datasets"][1:], values["equivalent"], strict=True):
        found.append(Advice("note", row["sentence"]))
        if equal["batch_size"] != size:
            first = values["datasets"][0]["name"]
            found.append(
                Advice("note", f"What {size:,} graphs take on {first}, {equal['batch_size']:,} take on {row['name']}.")
            )
    return found


def _spread(row: Mapping[str, Any], measure: str, size: int) -> Advice | None:
    totals, show = _measured(row, measure)
    mean, worst = totals["mean"], totals["expected_max"]
    if not mean or worst <= _LEVEL * mean:
        return None
    return Advice(
        "note",
        f"{row['name']}: at a fixed batch size of {size:,} a mean batch takes {show(mean)}, the worst of an epoch "
        f"{show(worst)}, {worst / mean - 1:.0%} more; memory has to be there for the worst.",
    )


def _measured(row: Mapping[str, Any], measure: str) -> tuple[Mapping[str, float], Any]:
    if measure == "bytes":
        return row["predicted_bytes"], format_bytes
    return row["per_batch"][measure], lambda value: f"{value:,.0f} {size_label(measure)}"
