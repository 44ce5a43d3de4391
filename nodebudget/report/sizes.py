"""How large the graphs of datasets are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nodebudget.datasets.size_table import SizeTable
from nodebudget.report.formats import number
from nodebudget.report.report import Report, Table
from nodebudget.utils.size_labels import size_label

_STATISTICS = ("mean", "median", "min", "max", "std", "total")


def sizes_report(sizes: SizeTable) -> Report:
    """Report on the sizes of one dataset."""
    table = statistics_table({"": sizes.statistics()})
    return Report("Sizes", f"{len(sizes):,} graphs", tables=[Table(table.head[2:], [row[2:] for row in table.rows])])


def statistics_table(datasets: Mapping[str, Mapping[str, Any]]) -> Table:
    """Return how large the graphs of datasets are: name → `SizeTable.statistics`."""
    rows: list[list[str]] = []
    for name, statistics in datasets.items():
        for column in (key for key in statistics if key != "graphs"):
            cells = [number(statistics[column][key]) for key in _STATISTICS]
            rows.append([*group_labels(rows, name, f"{statistics['graphs']:,}"), size_label(column), *cells])
    return Table(["dataset", "graphs", "per graph", *_STATISTICS], rows, "Sizes per graph", ["per graph"])


def group_labels(rows: Sequence[Sequence[str]], *labels: str) -> list[str]:
    """Return the labels of a group of rows, on its first row alone."""
    name = next((row[0] for row in reversed(rows) if row[0]), None)
    return [""] * len(labels) if labels[0] == name else list(labels)
