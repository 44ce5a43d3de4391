"""How large the graphs of datasets are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nodebudget.analysis.dataset_storage import FORMATS, dataset_storage
from nodebudget.datasets.size_table import SizeTable
from nodebudget.report.formats import number
from nodebudget.report.report import Advice, Report, Table
from nodebudget.utils.byte_units import format_bytes
from nodebudget.utils.size_labels import size_label

_STATISTICS = ("mean", "median", "min", "max", "std", "total")


def sizes_report(sizes: SizeTable) -> Report:
    """Report on the sizes of one dataset."""
    table = statistics_table({"": sizes.statistics()})
    return Report("Sizes", f"{len(sizes):,} graphs", tables=[Table(table.head[2:], [row[2:] for row in table.rows])])


def storage_report(sizes: SizeTable, free: int | None = None) -> Report:
    """Report on what the graphs take on disk and in host memory; with the free host memory, whether they fit."""
    storages = dataset_storage(sizes)
    if not storages:
        return Report("Host memory", "Host memory is computed for graphs: these sizes have no edges.")
    rows = [
        [FORMATS[key], *map(format_bytes, (storage.disk, storage.process, storage.worker))]
        for key, storage in storages.items()
    ]
    table = Table(["stored as", "on disk", "in a process", "each worker adds"], rows)
    too_large = [FORMATS[key] for key, storage in storages.items() if free is not None and storage.process > free]
    advice = []
    if too_large:
        text = f"{format_bytes(free or 0)} of host memory are free: too little for {', '.join(too_large)}."
        advice.append(Advice("warn", f"{text} Use alignn's LMDB, which is read from disk."))
    kind = "line graphs" if "line_edges" in sizes else "no line graphs"
    intro = f"{len(sizes):,} graphs as alignn builds them, with cgcnn features and {kind}"
    return Report("Host memory", intro, tables=[table], advice=advice)


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
