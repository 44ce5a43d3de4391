"""Graphs to optimizer steps, and each step to its micro-batches.

Steps come first and know nothing of budgets and ranks: every step gets one of the largest graphs, one of the next
largest, two of those after, then four, and so on, at random, and steps are balanced by exchanges within these strata.
So all steps of all epochs have nearly the same graphs to pack.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nodebudget.sampling.packing.balancing import Target, balance
from nodebudget.sampling.packing.batch_grid import BatchGrid, Ints
from nodebudget.sampling.packing.items import Items, common_unit
from nodebudget.sampling.packing.ordered import best_fit, split
from nodebudget.sampling.packing.reproducible import RandomStream, index_type

#: Maximum number of steps that are packed one by one where balancing leaves them over a maximum.
_PACKED_SINGLY = 64


@dataclass(frozen=True)
class RankMaxima:
    """What the micro-batches of unlike ranks may hold.

    Attributes:
        shares: Share of the load that each rank takes, in whole numbers, shape (ranks,).
        columns: Maxima of each rank, for each column of the items, None where there is none.
        graphs: Maximum number of graphs of each rank.
    """

    shares: tuple[int, ...]
    columns: tuple[tuple[int, ...] | None, ...]
    graphs: tuple[int, ...] | None


def largest_first(values: Ints) -> Ints:
    """Return the order of graphs by size to a percent, the largest first, shape (graphs,)."""
    # The upper half of a float32 keeps the order; numpy sorts 16 bits several times as fast as more.
    codes = ~(values.astype(np.float32).view(np.uint32) >> np.uint32(16)).astype(np.uint16)
    return np.argsort(codes, kind="stable").astype(index_type(len(values)))


def assign_steps(items: Items, order: Ints, steps: int, stream: RandomStream) -> BatchGrid:
    """Assign graphs to steps whose numbers of graphs differ by one or not at all.

    Args:
        items: The graphs; all columns are balanced, above all the first.
        order: See `largest_first`; shape (graphs,).
        steps: How many; not more than graphs.
        stream: Random numbers.
    """
    low = np.uint64((1 << max(len(order) - 1, 1).bit_length()) - 1)
    keys = stream.words(len(order))
    keys &= ~low
    keys |= order.astype(np.uint64)
    first, width = 0, 1
    while first < len(order):
        # The last stratum takes the row that is not full.
        rest = len(order) - first
        end = first + (rest if rest < (width + width // 2 + 1) * steps else width * steps)
        keys[first:end].sort()
        first, width = end, max(1, first // steps) if first else 1
    keys &= low
    grid = BatchGrid.of_order(keys.astype(order.dtype), steps)
    grid.aligned = True
    columns = [values for values, _ in items.compact_columns]
    grid.use(columns[:1])
    balance(grid, [Target(None)])
    for other in columns[1:]:
        # Whatever the bytes of a budget are made of: the first column stays balanced.
        grid.use([other, columns[0]])
        balance(grid, [Target(None, max(float(load.sum() // steps), 1.0)) for load in grid.loads])
    return grid


def _in_turns(steps: BatchGrid, micro_batches: int) -> BatchGrid:
    """Give the rows of each step to its micro-batches in turns, forth and back."""
    turns = -(-steps.rows // micro_batches)
    padded = np.zeros((turns * micro_batches, steps.batches), dtype=steps.slots.dtype)
    padded[: steps.rows] = steps.slots
    slots = padded.reshape(turns, micro_batches, steps.batches)
    last = np.arange((turns - 1) * micro_batches, turns * micro_batches)[:, None] < steps.counts
    slots[1::2] = slots[1::2, ::-1].copy()
    counts = turns - 1 + (last if turns % 2 else last[::-1]).astype(np.int64)
    return BatchGrid(slots.reshape(turns, -1), counts.ravel())


def rows_by_share(rows: int, micro_batches: int, shares: Sequence[int]) -> Ints:
    """Return the micro-batch that each row of a step goes to, by the shares of the ranks, shape (rows,)."""
    weights = np.array([shares[place % len(shares)] for place in range(micro_batches)], dtype=np.int64)
    counts, chosen, total = np.zeros(micro_batches, dtype=np.int64), [], int(weights.sum())
    for row in range(rows):
        # One row each, then the micro-batch that is furthest behind its share.
        behind = weights * (row + 1) - counts * total if row >= micro_batches else -counts
        chosen.append(int(np.argmax(behind)))
        counts[chosen[-1]] += 1
    return np.array(chosen, dtype=np.int64)


class MicroBatchAssignment:
    """Assigns the graphs of each step to micro-batches.

    Args:
        items: The graphs, with the maxima of a micro-batch.
        unlike: The maxima of unlike ranks, or None.
        ranks: Number of ranks; micro-batch i of a step is that of rank i modulo `ranks`.
    """

    def __init__(self, items: Items, ranks: int, unlike: RankMaxima | None = None) -> None:
        self.items, self.ranks, self.unlike = items, ranks, unlike

    def smallest(self) -> Items:
        """Return the items with maxima that hold on every rank."""
        if self.unlike is None:
            return self.items
        maxima = tuple(None if of_ranks is None else min(of_ranks) for of_ranks in self.unlike.columns)
        return Items(self.items.values, maxima, None if self.unlike.graphs is None else min(self.unlike.graphs))

    def fewest(self, steps: BatchGrid, balanced: Ints) -> int:
        """Return a number of micro-batches, a multiple of the ranks, below which the steps do not fit.

        `balanced` is the column that steps were balanced by alone, whose sums are there, or an empty one.
        """
        items, bounds = self.items, [self.ranks]
        for place, (values, maximum) in enumerate(zip(items.values, items.maxima, strict=True)):
            if maximum is None:
                continue
            columns = None if self.unlike is None else self.unlike.columns[place]
            of_all_ranks = maximum * self.ranks if columns is None else sum(columns)
            # A step of each rank together, rounded up.
            largest = int((steps.loads[0] * common_unit(values) if values is balanced else steps.sums(values)).max())
            bounds.append(-(-largest * self.ranks // max(of_all_ranks, 1)))
            if int(values.max(initial=0)) > maximum // 2 and columns is None:
                bounds.append(int(steps.sums((values > maximum // 2).astype(np.int64)).max()))
        if items.max_graphs is not None:
            bounds.append(-(-steps.rows // items.max_graphs))
        fewest = max(bounds)
        return fewest + -fewest % self.ranks

    def assign(self, steps: BatchGrid, micro_batches: int) -> BatchGrid | None:
        """Assign each step to so many micro-batches; None where one of them stays over a maximum.

        Returns:
            A grid of which batch i × steps + s is micro-batch i of step s.
        """
        if int(steps.counts.min()) < micro_batches:
            return None
        grid = self._spread(steps, micro_batches)
        grid.groups = steps.batches
        columns = self.items.compact_columns if self.unlike is None else self._plain_columns()
        self._balance(grid, columns[:1], micro_batches)
        maximum, longest = columns[0][1], self.items.max_graphs or len(self.items)
        single = self.unlike is None and len(columns) == 1 and int(grid.counts.max()) <= longest
        if single and (maximum is None or int(grid.loads[0].max()) <= maximum):
            # Saves summing again: what fits in compact units fits in full.
            return grid
        over = self.over(grid)
        if len(columns) > 1 and over.any():
            self._balance(grid, columns, micro_batches)
            over = self.over(grid)
        return grid if not over.any() or self._pack_singly(grid, over) else None

    def _plain_columns(self) -> list[tuple[Ints, int | None]]:
        return list(zip(self.items.values, self.items.maxima, strict=True))

    def _spread(self, steps: BatchGrid, micro_batches: int) -> BatchGrid:
        if self.unlike is None:
            return _in_turns(steps, micro_batches)
        target = rows_by_share(steps.rows, micro_batches, self.unlike.shares)
        rows = [np.flatnonzero(target == place) for place in range(micro_batches)]
        slots = np.zeros((max(map(len, rows)), micro_batches, steps.batches), dtype=steps.slots.dtype)
        counts = np.empty((micro_batches, steps.batches), dtype=np.int64)
        for place, chosen in enumerate(rows):
            slots[: len(chosen), place] = steps.slots[chosen]
            counts[place] = (chosen[:, None] < steps.counts).sum(axis=0)
        return BatchGrid(slots.reshape(len(slots), -1), counts.ravel())

    def _balance(self, grid: BatchGrid, columns: Sequence[tuple[Ints, int | None]], micro_batches: int) -> None:
        grid.use([values for values, _ in columns])
        targets = []
        for place, (_, maximum) in enumerate(columns):
            load = grid.loads[place]
            scale = float(maximum or max(int(load.sum()) // grid.batches, 1))
            limit: int | Ints | None = maximum
            if self.unlike is not None:
                # Loads that would be equal with what a smaller rank lacks: then all are balanced as those of equals.
                lacking = self._lacking(int(load.sum()) // grid.groups, micro_batches)
                tiled = np.repeat(lacking, grid.groups)
                load += tiled
                of_ranks = self.unlike.columns[place]
                limit = None if of_ranks is None else tiled + self._per_batch(of_ranks, grid)
            targets.append(Target(limit, scale))
        balance(grid, targets, self.items.max_graphs)

    def _lacking(self, load_of_step: int, micro_batches: int) -> npt.NDArray[np.int64]:
        """Return how much less than the largest each micro-batch of a step should have, shape (micro-batches,)."""
        assert self.unlike is not None
        shares = [self.unlike.shares[place % self.ranks] for place in range(micro_batches)]
        wanted = [load_of_step * share // sum(shares) for share in shares]
        return np.array([max(wanted) - load for load in wanted], dtype=np.int64)

    def _per_batch(self, of_ranks: Sequence[int], grid: BatchGrid) -> Ints:
        ranks = np.arange(grid.batches // grid.groups) % self.ranks
        return np.repeat(np.array(of_ranks, dtype=np.int64)[ranks], grid.groups)

    def over(self, grid: BatchGrid) -> npt.NDArray[np.bool_]:
        """Return which batches are over a maximum, shape (batches,)."""
        items, over = self.items, np.zeros(grid.batches, dtype=bool)
        for place, (values, maximum) in enumerate(zip(items.values, items.maxima, strict=True)):
            of_ranks = None if self.unlike is None else self.unlike.columns[place]
            if maximum is not None:
                over |= grid.sums(values) > (maximum if of_ranks is None else self._per_batch(of_ranks, grid))
        graphs = None if self.unlike is None else self.unlike.graphs
        if graphs is not None:
            over |= grid.counts > self._per_batch(graphs, grid)
        elif items.max_graphs is not None:
            over |= grid.counts > items.max_graphs
        return over

    def _pack_singly(self, grid: BatchGrid, over: npt.NDArray[np.bool_]) -> bool:
        """Pack the few steps that are over a maximum by best fit; return whether all of them fit then."""
        steps = np.unique(np.flatnonzero(over) % grid.groups)
        if self.unlike is not None or len(steps) > _PACKED_SINGLY:
            return False
        for step in steps.tolist():
            places = np.arange(step, grid.batches, grid.groups)
            taken = np.arange(grid.rows)[:, None] < grid.counts[places]
            graphs = grid.slots[:, places][taken]
            order, offsets = best_fit(self.items.take(graphs))
            if len(offsets) - 1 > len(places):
                return False
            parts = np.split(graphs[order], split(offsets, len(places))[1:-1])
            grid.refill(places, parts)
        return True
