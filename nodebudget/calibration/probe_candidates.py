"""What probes are made of: the user's dataset, and variants of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from nodebudget.calibration.probe_design import Indices, lightest_batch
from nodebudget.datasets.size_table import STANDARD, SizeTable
from nodebudget.errors import InputError
from nodebudget.workloads.edge_subsampling import variants_of
from nodebudget.workloads.protocol import Workload, to_sample

#: Graphs of the dataset, and of each variant, among which the batches to fit to are chosen: enough for all ratios of
#: sizes, few enough to be measured quickly.
_MAX_ORIGINAL = 5000
_MAX_VARIED = 400


class Dataset(Protocol):
    """What probes are drawn from: a list, a torch Dataset, `nodebudget.open_data(path)`."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


class ProbeCandidates:
    """Graphs by number: first those of the dataset, then those of each variant of the workload.

    Nearest-neighbor graphs have nearly the same ratios of edges to nodes and of line-graph edges to edges, so that the
    columns of one dataset are collinear: its coefficients are not identifiable, and fail on another dataset. Variants
    have other ratios.

    `sizes` are those of all graphs, `original_sizes` and `num_original` those of the dataset's; the batches to fit to
    are chosen among the graphs `fit_rows`. Raises an InputError if dataset and sizes differ in length, or are empty.
    """

    def __init__(
        self,
        workload: Workload,
        dataset: Dataset,
        sizes: SizeTable,
        rng: np.random.Generator,
        *,
        with_variants: bool = False,
    ) -> None:
        count = len(sizes)
        if len(dataset) != count:
            raise InputError(f"{count} sizes for a dataset of {len(dataset)}", hint="measure the dataset again")
        if not count:
            raise InputError("the dataset has no crystals", hint="give one that has")
        self._dataset, self.original_sizes, self.num_original = dataset, sizes, count
        # How samples are made, and of which rows of the dataset.
        self._sources: list[tuple[Callable[[Any], Any], Indices]] = [
            (lambda item: to_sample(workload, item), np.arange(count))
        ]
        tables = [sizes]
        light = [dataset[int(row)] for row in lightest_batch(sizes)] if with_variants else []
        for variant in variants_of(workload, light) if light else []:
            rows = rng.choice(count, size=min(count, _MAX_VARIED), replace=False)
            measured = variant.sizes([dataset[int(row)] for row in rows])
            tables.append(_with_further(measured, sizes.take(rows)))
            self._sources.append((variant.sample, rows))
        self._starts = np.cumsum([0, *(len(table) for table in tables)])
        shared = [name for name in sizes.columns if all(name in table for table in tables)]
        self.sizes = SizeTable({name: np.concatenate([table[name] for table in tables]) for name in shared})
        original = rng.choice(count, size=min(count, _MAX_ORIGINAL), replace=False)
        self.fit_rows: Indices = np.concatenate([original, np.arange(count, len(self.sizes))])

    def sample(self, index: int) -> Any:
        """Make the sample of a graph."""
        make, row = self._source(index)
        return make(self._dataset[row])

    def name(self, index: int) -> str:
        """Return the id of a graph's crystal, or its place in the dataset."""
        _, row = self._source(index)
        ids = self.original_sizes.ids
        return str(row if ids is None else ids[row])

    def describe(self) -> dict[str, Any]:
        """Return what identifies the dataset, for the record."""
        return {
            "fingerprint": self.original_sizes.fingerprint(),
            "settings": dict(self.original_sizes.settings),
            "statistics": self.original_sizes.statistics(),
            "variants": len(self._sources) - 1,
        }

    def _source(self, index: int) -> tuple[Callable[[Any], Any], int]:
        which = int(np.searchsorted(self._starts, index, side="right")) - 1
        make, rows = self._sources[which]
        return make, int(rows[index - int(self._starts[which])])


def _with_further(table: SizeTable, original: SizeTable) -> SizeTable:
    """Add the columns that do not depend on the graph (tokens): a variant has those of the item itself."""
    for name in original.columns:
        if name not in table and name not in STANDARD:
            table = table.with_column(name, original[name])
    return table
