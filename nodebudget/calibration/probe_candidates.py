"""What probes are made of: the user's data and, where there are some, variants of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from nodebudget.calibration.probe_design import Indices
from nodebudget.datasets.size_table import STANDARD, SizeTable
from nodebudget.errors import InputError
from nodebudget.workloads.protocol import Variant, Workload, to_sample

#: Graphs of the data, and of each variant, among which the batches to fit to are chosen: enough to find every ratio of
#: sizes, few enough to be measured in a moment.
_OWN = 5000
_VARIED = 400


class Dataset(Protocol):
    """What probes are drawn from: a list, a torch Dataset, `nodebudget.datasets.measure.Data`."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


class ProbeCandidates:
    """Graphs by number: first the user's own, then those of each variant.

    Nearest-neighbour graphs have nearly the same ratios of edges to nodes and of line-graph edges to edges, so that on
    one dataset the coefficients can't be told apart, and fail on another. Variants have other ratios.

    Attributes:
        sizes: Sizes of all graphs.
        own: How many of them are the user's.
    """

    def __init__(
        self,
        workload: Workload,
        dataset: Dataset,
        sizes: SizeTable,
        rng: np.random.Generator,
        variants: Sequence[Variant] = (),
    ) -> None:
        """Measure the variants.

        Args:
            workload: Makes samples of the items.
            dataset: The items.
            sizes: Their sizes.
            rng: Source of chance.
            variants: Other ways to make samples of the items.

        Raises:
            InputError: Dataset and sizes do not belong together, or are empty.
        """
        if len(dataset) != len(sizes):
            raise InputError(f"{len(sizes)} sizes for a dataset of {len(dataset)}", hint="measure the dataset again")
        if not len(sizes):
            raise InputError("the dataset has no crystals", hint="give one that has")
        self._workload, self._dataset, self._table = workload, dataset, sizes
        self.own = len(sizes)
        self._sample_of = [_Variant(lambda item: to_sample(workload, item), np.arange(self.own))]
        tables = [sizes]
        for variant in variants:
            chosen = rng.choice(self.own, size=min(self.own, _VARIED), replace=False)
            measured = variant.sizes([dataset[int(index)] for index in chosen])
            tables.append(_with_further(measured, sizes.take(chosen)))
            self._sample_of.append(_Variant(variant.sample, chosen))
        self._starts = np.cumsum([0, *(len(table) for table in tables)])
        shared = [name for name in sizes.columns if all(name in table for table in tables)]
        self.sizes = SizeTable({name: np.concatenate([table[name] for table in tables]) for name in shared})
        self._fit_rows = np.concatenate(
            [rng.choice(self.own, size=min(self.own, _OWN), replace=False), np.arange(self.own, len(self.sizes))]
        )

    @property
    def own_sizes(self) -> SizeTable:
        """Sizes of the user's own graphs."""
        return self._table

    @property
    def fit_rows(self) -> Indices:
        """Numbers of the graphs among which the batches to fit to are chosen."""
        return self._fit_rows

    def sample(self, index: int) -> Any:
        """Make the sample of a graph."""
        variant, place = self._find(index)
        return variant.make(self._dataset[int(variant.rows[place])])

    def name(self, index: int) -> str:
        """Return the name that the user knows a graph by."""
        variant, place = self._find(index)
        row, ids = int(variant.rows[place]), self._table.ids
        return str(row) if ids is None else str(ids[row])

    def describe(self) -> dict[str, Any]:
        """Return what identifies the user's data, for the record."""
        return {
            "fingerprint": self._table.fingerprint(),
            "settings": dict(self._table.settings),
            "statistics": self._table.statistics(),
            "variants": len(self._sample_of) - 1,
        }

    def _find(self, index: int) -> tuple[_Variant, int]:
        which = int(np.searchsorted(self._starts, index, side="right")) - 1
        return self._sample_of[which], index - int(self._starts[which])


def _with_further(table: SizeTable, own: SizeTable) -> SizeTable:
    """Take over sizes that have nothing to do with the graph (tokens): a variant has them as the item itself."""
    for name in own.columns:
        if name not in table and name not in STANDARD:
            table = table.with_column(name, own[name])
    return table


class _Variant:
    """How samples of one variant are made, and of which rows of the dataset."""

    def __init__(self, make: Any, rows: Indices) -> None:
        self.make, self.rows = make, rows
