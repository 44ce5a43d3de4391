"""A deal: graphs in a grid of slots, one column a batch, levelled by exchanging graphs between two batches.

Why not the textbook way, longest first to the least loaded batch? It leaves graphs of like size in different
batches for ever, since they come in the same round. A plain shuffle, dealt out row by row and then levelled, keeps
who meets whom nearly as random as the shuffle, gives every batch the same number of graphs, levels any number
of columns at once, and needs no order by size at all.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.integer[Any]]
Array = npt.NDArray[Any]

#: Slots that a grid may always have, however few graphs stand in them.
_SLOTS = 300_000


class BatchGrid:
    """Graphs in slots.

    Attributes:
        slots: Graph in each slot, shape (rows, batches); in column b the first `counts[b]` are taken.
        values: For each levelled column its values in the slots, each of shape (rows, batches), 0 in free slots.
        counts: Graphs of each batch, shape (batches,).
        loads: Sums of `values` over the rows, each of shape (batches,).
    """

    def __init__(self, order: Ints, columns: list[Array], batches: int) -> None:
        """Assign graphs row by row.

        Args:
            order: The graphs in the order in which they are dealt, shape (graphs,).
            columns: Values to level, by graph, each of shape (graphs of the dataset,); the first matters most.
            batches: How many batches, at most as many as graphs.
        """
        full, rest = divmod(len(order), batches)
        self.rows = full + (rest > 0)
        self.counts = np.full(batches, full, dtype=np.int64)
        self.counts[:rest] += 1
        self.slots = np.empty((self.rows, batches), dtype=order.dtype)
        self.slots.reshape(-1)[: len(order)] = order
        self.slots.reshape(-1)[len(order) :] = 0
        self.use(columns)

    @classmethod
    def of_batches(cls, graphs: Ints, offsets: npt.NDArray[np.int64]) -> BatchGrid | None:
        """Make a deal, without values yet, of given batches.

        Args:
            graphs: The graphs batch by batch, shape (graphs,).
            offsets: Where each batch starts, shape (batches + 1,).

        Returns:
            The deal, or None where a few batches are so long that the grid would be mostly free slots.
        """
        if np.diff(offsets).max() * (len(offsets) - 1) > 16 * len(graphs) + _SLOTS:
            return None
        deal = cls.__new__(cls)
        deal.counts = np.diff(offsets)
        deal.rows = int(deal.counts.max())
        deal.slots = np.zeros((deal.rows, len(deal.counts)), dtype=graphs.dtype)
        batch = np.repeat(np.arange(len(deal.counts)), deal.counts)
        deal.slots[np.arange(len(graphs)) - offsets[batch], batch] = graphs
        deal.values, deal.loads = [], []
        return deal

    def copy(self) -> BatchGrid:
        """Return a deal that changes on its own."""
        twin = BatchGrid.__new__(BatchGrid)
        twin.rows, twin.slots, twin.counts = self.rows, self.slots.copy(), self.counts.copy()
        twin.values, twin.loads = [v.copy() for v in self.values], [x.copy() for x in self.loads]
        return twin

    @property
    def batches(self) -> int:
        """Number of batches."""
        return len(self.counts)

    def _dealt(self, column: Array) -> Array:
        """Return a column's values by slot, 0 in free ones, shape (rows, batches)."""
        # "clip" spares numpy a copy; no index is ever out of bounds.
        grid = np.take(column, self.slots, mode="clip")
        taken = int(self.counts.min())
        grid[taken:] *= np.arange(taken, self.rows)[:, None] < self.counts
        return grid

    def use(self, columns: list[Array]) -> None:
        """Level these columns from now on, each of shape (graphs of the dataset,)."""
        self.values = [self._dealt(column) for column in columns]
        self.loads = [grid.sum(axis=0, dtype=_wide(grid)) for grid in self.values]

    def sums(self, column: Array) -> Array:
        """Return a column's sum over each batch, shape (batches,)."""
        return np.asarray(self._dealt(column).sum(axis=0))

    def swap(self, row: int, here: Ints, other: int, there: Ints) -> None:
        """Exchange what stands in `row` of some batches with what stands in row `other` of some others."""
        for grid in (self.slots, *self.values):
            ours, theirs = grid[row], grid[other]
            ours[here], theirs[there] = theirs[there], ours[here]

    def swap_each(self, rows: Ints, here: Ints, others: Ints, there: Ints) -> None:
        """Exchange graphs like `swap`, from another row in each batch."""
        for grid in (self.slots, *self.values):
            grid[rows, here], grid[others, there] = grid[others, there], grid[rows, here]

    def shift(self, here: Ints, there: Ints, change: list[Array]) -> None:
        """Keep loads up to date: `change`, for each column of shape (pairs,), goes from one batch to another."""
        for load, part in zip(self.loads, change, strict=True):
            load[here] -= part
            load[there] += part

    def move(self, row: int, here: Ints, there: Ints) -> None:
        """Take graphs from batches and append each to another one; loads are the caller's to keep."""
        self._make_room(int(self.counts[there].max()) + 1)
        last, free = self.counts[here] - 1, self.counts[there]
        for grid in (self.slots, *self.values):
            grid[free, there] = grid[row, here]
            grid[row, here] = grid[last, here]
            grid[last, here] = 0
        self.counts[here] -= 1
        self.counts[there] += 1

    def _make_room(self, rows: int) -> None:
        if rows <= self.rows:
            return
        extra = rows + rows // 8 - self.rows
        self.slots, *self.values = [
            np.concatenate([grid, np.zeros((extra, self.batches), dtype=grid.dtype)])
            for grid in (self.slots, *self.values)
        ]
        self.rows += extra

    def batches_in_order(self, order: Ints) -> tuple[Ints, npt.NDArray[np.int64]]:
        """Read the batches out.

        Args:
            order: Which batch comes at which place, shape (batches,).

        Returns:
            The graphs, batch by batch, shape (graphs,), and where each batch starts, shape (batches + 1,).
        """
        counts = self.counts[order]
        offsets = np.zeros(len(order) + 1, dtype=np.int64)
        np.cumsum(counts, out=offsets[1:])
        graphs = np.empty(offsets[-1], dtype=self.slots.dtype)
        # A block of batches at a time: the block's part of the grid stays in the cache while it is turned.
        for first in range(0, len(order), 4096):
            part = slice(first, first + 4096)
            turned = self.slots[:, order[part]].T
            taken = np.arange(self.rows) < counts[part, None]
            graphs[offsets[first] : offsets[min(first + 4096, len(order))]] = turned[taken]
        return graphs, offsets


def _wide(grid: Array) -> type[np.generic]:
    return np.float64 if grid.dtype.kind == "f" else np.int64
