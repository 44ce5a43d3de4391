"""Graphs in a grid of slots, one column per batch, that are exchanged between batches.

Why not longest processing time first? It leaves graphs of like size in different batches for ever, since they come in
the same round. A plain shuffle, assigned row by row and then balanced by exchanges, keeps who meets whom nearly as
random as the shuffle, gives every batch the same number of graphs, balances any number of columns at once, and needs
no sort by size at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.integer[Any]]
#: The graphs batch by batch, shape (graphs,), and where each batch starts, shape (batches + 1,).
Batches = tuple[Ints, npt.NDArray[np.int64]]

#: Slots that a grid may always have, however few graphs stand in them.
_SLOTS = 300_000


class BatchGrid:
    """Graphs in slots.

    Attributes:
        slots: Graph in each slot, shape (rows, batches); of batch b the first `counts[b]` are taken.
        values: For each balanced column its values in the slots, each of shape (rows, batches), 0 in free slots.
        counts: Graphs of each batch, shape (batches,).
        loads: Sums of `values` over the rows, each of shape (batches,).
        groups: Graphs are exchanged only between batches whose places are equal modulo this; 1: between all.
        aligned: Graphs are exchanged only within a row, and none is moved.
    """

    def __init__(self, slots: Ints, counts: npt.NDArray[np.int64], *, groups: int = 1, aligned: bool = False) -> None:
        self.slots, self.counts, self.groups, self.aligned = slots, counts, groups, aligned
        self.values: list[Ints] = []
        self.loads: list[npt.NDArray[np.int64]] = []

    @classmethod
    def of_order(cls, order: Ints, batches: int) -> BatchGrid:
        """Assign graphs row by row, in an order of shape (graphs,), to not more batches than graphs."""
        full, rest = divmod(len(order), batches)
        counts = np.full(batches, full, dtype=np.int64)
        counts[:rest] += 1
        slots = np.empty((full + (rest > 0), batches), dtype=order.dtype)
        slots.reshape(-1)[: len(order)] = order
        slots.reshape(-1)[len(order) :] = 0
        return cls(slots, counts)

    @classmethod
    def of_batches(cls, graphs: Ints, offsets: npt.NDArray[np.int64]) -> BatchGrid | None:
        """Make the grid of given batches; None where a few are so long that it would be mostly free slots."""
        counts = np.diff(offsets)
        if counts.max() * len(counts) > 16 * len(graphs) + _SLOTS:
            return None
        slots = np.zeros((int(counts.max()), len(counts)), dtype=graphs.dtype)
        batch = np.repeat(np.arange(len(counts)), counts)
        slots[np.arange(len(graphs)) - offsets[batch], batch] = graphs
        return cls(slots, counts)

    @property
    def rows(self) -> int:
        """Slots of each batch."""
        return len(self.slots)

    @property
    def batches(self) -> int:
        """Number of batches."""
        return len(self.counts)

    def _by_slot(self, column: Ints) -> Ints:
        """Return a column's values by slot, 0 in free ones, shape (rows, batches)."""
        # "clip" spares numpy a copy; no index is ever out of bounds.
        grid = np.take(column, self.slots, mode="clip")
        taken = int(self.counts.min())
        grid[taken:] *= np.arange(taken, self.rows)[:, None] < self.counts
        return grid

    def use(self, columns: Sequence[Ints]) -> None:
        """Balance these columns from now on, each of shape (graphs of the dataset,)."""
        self.values = [self._by_slot(column) for column in columns]
        self.loads = [grid.sum(axis=0, dtype=np.int64) for grid in self.values]

    def sums(self, column: Ints) -> npt.NDArray[np.int64]:
        """Return a column's sum over each batch, shape (batches,)."""
        return np.asarray(self._by_slot(column).sum(axis=0, dtype=np.int64))

    def swap(self, rows: int | Ints, batches: Ints, other_rows: int | Ints, other_batches: Ints) -> None:
        """Exchange the graphs in some slots with those in others; `shift_loads` keeps the loads."""
        for grid in (self.slots, *self.values):
            if isinstance(rows, int):
                # Rows are contiguous: half the time.
                first, second = grid[rows], grid[other_rows]
                first[batches], second[other_batches] = second[other_batches], first[batches]
            else:
                slots, others = (rows, batches), (other_rows, other_batches)
                grid[slots], grid[others] = grid[others], grid[slots]

    def shift_loads(self, batches: Ints, other_batches: Ints, changes: Sequence[Ints]) -> None:
        """Note that `changes`, for each column of shape (pairs,), went from some batches to others."""
        for load, change in zip(self.loads, changes, strict=True):
            load[batches] -= change
            load[other_batches] += change

    def move(self, row: int, batches: Ints, other_batches: Ints) -> None:
        """Take the graph in `row` from some batches and append each to another one; `shift_loads` keeps the loads."""
        self._add_rows(int(self.counts[other_batches].max()) + 1)
        last, free = self.counts[batches] - 1, self.counts[other_batches]
        for grid in (self.slots, *self.values):
            grid[free, other_batches] = grid[row, batches]
            grid[row, batches] = grid[last, batches]
            grid[last, batches] = 0
        self.counts[batches] -= 1
        self.counts[other_batches] += 1

    def refill(self, batches: Ints, parts: Sequence[Ints]) -> None:
        """Replace the graphs of some batches; `use` sums their values again."""
        self._add_rows(max(map(len, parts)))
        for place, graphs in zip(batches.tolist(), parts, strict=True):
            self.slots[: len(graphs), place] = graphs
            self.counts[place] = len(graphs)

    def _add_rows(self, rows: int) -> None:
        if rows <= self.rows:
            return
        extra = rows + rows // 8 - self.rows
        self.slots, *self.values = [
            np.concatenate([grid, np.zeros((extra, self.batches), dtype=grid.dtype)])
            for grid in (self.slots, *self.values)
        ]

    def batches_in_order(self, order: Ints) -> Batches:
        """Return the batches, in an order of shape (batches,), as flat arrays: graphs and offsets."""
        counts = self.counts[order]
        offsets = np.zeros(len(order) + 1, dtype=np.int64)
        np.cumsum(counts, out=offsets[1:])
        graphs = np.empty(offsets[-1], dtype=self.slots.dtype)
        # A block of batches at a time: the block's part of the grid stays in the cache while it is transposed.
        for first in range(0, len(order), 4096):
            block = slice(first, first + 4096)
            transposed = self.slots[:, order[block]].T
            taken = np.arange(self.rows) < counts[block, None]
            graphs[offsets[first] : offsets[min(first + 4096, len(order))]] = transposed[taken]
        return graphs, offsets
