"""Batches that all hold equally many graphs and keep to the same maxima in every column, in every epoch.

The maxima are as near to the mean as plans are found for. Where a few huge graphs make that impossible, up to three
sets of maxima share the batches: a batch of a smaller set begins with the difference to the largest one as its load, so
that all have the same maxima while graphs are exchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from nodebudget.sampling.packing.balancing import Target, balance
from nodebudget.sampling.packing.batch_grid import Batches, BatchGrid, Ints
from nodebudget.sampling.packing.items import SMALL, Column, Items, common_unit
from nodebudget.sampling.packing.random_exchanges import exchange_at_random
from nodebudget.sampling.packing.reproducible import RandomStream, index_type, shuffled, stable_argsort

#: How far over the mean maxima are that are tried: one set of maxima, and the sum of several.
_SLACKS = (0.001, 0.002, 0.003, 0.005, 0.008, 0.012, 0.02, 0.03)
_WIDE_SLACKS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.08, 0.12)
_PARTS = 10_000
#: Each of many thousand batches is hardly ever within a tenth of a percent, and other shuffles must be so as well.
_LARGE, _SPARE = 0.003, 0.0005

#: Largest number of sets of maxima.
_SHAPES = 3

#: Batches over the smallest maxima that are compared when these are split into sets.
_COMPARED = 600

#: Sets of maxima, smallest first, each one number per column.
Maxima = tuple[tuple[int, ...], ...]
Allowed = Callable[[Maxima], bool]


@dataclass(frozen=True, eq=False)
class EqualBatches:
    """Batches of equally many graphs (or one fewer) and their maxima, the same in every epoch.

    Attributes:
        items: The graphs.
        maxima: Sets of maxima, each at least as large as the one before.
        numbers: How many batches keep to each set; the first batches of a grid keep to the first one.
        packing: Batches that keep them; None until `proved`.
        shuffles: How many shuffles are tried for an epoch before graphs of `packing` are exchanged at random.
    """

    items: Items
    maxima: Maxima
    numbers: tuple[int, ...]
    packing: Batches | None = None
    shuffles: int = 0

    @property
    def batches(self) -> int:
        """Number of batches."""
        return sum(self.numbers)

    @cached_property
    def _columns(self) -> list[tuple[Column, int]]:
        """Each column and its unit: what all its values are multiples of."""
        units = [common_unit(values) for values in self.items.values]
        columns = [
            values if unit == 1 else values // unit for values, unit in zip(self.items.values, units, strict=True)
        ]
        narrow = [values.astype(np.int32) if values.max(initial=0) < 2**29 else values for values in columns]
        return list(zip(narrow, units, strict=True))

    @cached_property
    def _targets(self) -> list[Target]:
        return [
            Target(maximum // unit, float(max(maximum // unit, 1)))
            for maximum, (_, unit) in zip(self.maxima[-1], self._columns, strict=True)
        ]

    def _use(self, grid: BatchGrid) -> None:
        """Balance all columns, each batch with what its maxima are under the largest ones as load from the start."""
        grid.use([values for values, _ in self._columns])
        largest = np.array(self.maxima[-1])
        for place, (_, unit) in enumerate(self._columns):
            under = [int(largest[place] // unit) - maxima[place] // unit for maxima in self.maxima]
            grid.loads[place] += np.repeat(np.array(under, dtype=np.int64), self.numbers)

    def balanced(self, order: Ints) -> BatchGrid:
        """Assign graphs in an order, shape (graphs,), and exchange them until none is over its maxima, if possible."""
        grid = BatchGrid.of_order(order, self.batches)
        self._use(grid)
        balance(grid, self._targets, only_maxima=True)
        return grid

    def keeps(self, grid: BatchGrid) -> bool:
        """Return whether all batches keep to their maxima."""
        pairs = zip(grid.loads, self._targets, strict=True)
        return all(target.maximum is not None and load.max() <= target.maximum for load, target in pairs)

    def assign(self, stream: RandomStream | None) -> BatchGrid:
        """Assign an epoch's graphs; without a stream it is the assignment that never changes."""
        assert self.packing is not None
        for _ in range(self.shuffles if stream is not None else 0):
            assert stream is not None
            shuffle = self.balanced(shuffled(len(self.items), stream))
            if self.keeps(shuffle):
                return self._with_loads(shuffle)
        grid = BatchGrid.of_batches(*self.packing)
        assert grid is not None, "batches of equally many graphs make a grid without free slots"
        self._use(grid)
        if stream is not None:
            exchange_at_random(grid, [target.maximum for target in self._targets], stream)
        return self._with_loads(grid)

    def _with_loads(self, grid: BatchGrid) -> BatchGrid:
        grid.use([self._columns[0][0]])
        return grid

    def proved(self) -> tuple[EqualBatches | None, BatchGrid]:
        """Return the same with a packing, or None where too few assignments keep the maxima; and the first of them."""
        graphs = len(self.items)
        first = self.balanced(np.arange(graphs, dtype=index_type(graphs)))
        if not self.keeps(first):
            return None, first
        # In small sets luck plays a part: other shuffles must keep them as well.
        others = range(3 if graphs < SMALL else 0)
        fitting = sum(self.keeps(self.balanced(shuffled(graphs, RandomStream(other)))) for other in others)
        if fitting < len(others) - 1:
            return None, first
        packing = first.batches_in_order(np.arange(first.batches))
        return replace(self, packing=packing, shuffles=20 if graphs < SMALL else 2), first


def find_equal_batches(items: Items, batches: int, allowed: Allowed) -> EqualBatches | None:
    """Find the smallest maxima, nearly, that batches of equally many graphs keep.

    Depends on the sizes alone, on no seed and no epoch.

    Args:
        items: The graphs; their maxima are not looked at.
        batches: How many batches, not more than graphs.
        allowed: Whether maxima may be used.

    Returns:
        The batches; None where no maxima that are allowed were found.
    """
    totals = [int(values.sum(dtype=np.int64)) for values in items.values]
    units = [common_unit(values) for values in items.values]
    largest = [int(values.max(initial=0)) for values in items.values]
    grid = None
    is_large = len(items) >= SMALL

    def over_mean(slack: float) -> tuple[int, ...]:
        parts = round(_PARTS * slack)
        return tuple(_per_batch(total, batches, parts, unit) for total, unit in zip(totals, units, strict=True))

    for slack in [slack for slack in _SLACKS if slack >= _LARGE or not is_large]:
        maxima = over_mean(slack)
        if not allowed((maxima,)):
            return None
        if any(top > maximum for top, maximum in zip(largest, maxima, strict=True)) and slack < _SLACKS[-1]:
            continue
        proved, grid = EqualBatches(items, (maxima,), (batches,)).proved()
        if proved is not None:
            wider = over_mean(slack + _SPARE) if is_large else maxima
            return replace(proved, maxima=(wider,)) if allowed((wider,)) else proved
    assert grid is not None
    return _several_sets(items, grid, maxima, allowed)


def _per_batch(total: int, batches: int, parts: int, unit: int) -> int:
    """Return the mean, rounded up to whole units, or as many units as `parts` of `_PARTS` more allow."""
    return max(-(-total // (batches * unit)), total * (_PARTS + parts) // (_PARTS * batches * unit)) * unit


def _several_sets(items: Items, grid: BatchGrid, single: tuple[int, ...], allowed: Allowed) -> EqualBatches | None:
    """Split the batches of a grid, in which a few are over the maxima of all, into sets by how large they are."""
    sums = np.array([grid.sums(values) for values in items.values])
    parts = np.max([load * 2**20 // max(maximum, 1) for load, maximum in zip(sums, single, strict=True)], axis=0)
    order = stable_argsort(parts)
    numbers = _cheapest_split(parts[order], int(np.count_nonzero(parts <= 2**20)))
    ends = np.cumsum(numbers)
    tops = np.array([sums[:, order[end - number : end]].max(axis=1) for end, number in zip(ends, numbers, strict=True)])
    tops = np.maximum.accumulate(tops, axis=0)
    for maxima in (*_tighter(items, tops, numbers), tuple(map(tuple, tops.tolist()))):
        candidate = EqualBatches(items, maxima, numbers)
        if not allowed(maxima):
            continue
        proved, _ = candidate.proved()
        if proved is not None:
            return proved
    if not allowed(candidate.maxima):
        return None
    return replace(candidate, packing=grid.batches_in_order(order))


def _tighter(items: Items, tops: Ints, numbers: Sequence[int]) -> Iterator[Maxima]:
    """Yield sets of maxima that all together are a few percent over the totals: the smallest set makes up the rest."""
    larger = np.array(numbers[1:]) @ tops[1:]
    totals = [int(values.sum(dtype=np.int64)) for values in items.values]
    units = [common_unit(values) for values in items.values]
    for slack in _WIDE_SLACKS:
        parts = _PARTS + round(_PARTS * slack)
        rest = [total * parts // _PARTS - int(taken) for total, taken in zip(totals, larger, strict=True)]
        first = [_per_batch(max(left, 0), numbers[0], 0, unit) for left, unit in zip(rest, units, strict=True)]
        if (np.array(first) <= tops[0]).all():
            yield (tuple(first), *map(tuple, tops[1:].tolist()))


def _cheapest_split(parts: Ints, within: int) -> tuple[int, ...]:
    """Split ascending numbers, of which so many are within the maximum, into up to three runs.

    Returns the lengths for which the sum of length times largest number is least.
    """
    batches = len(parts)
    step = -(-(batches - within) // _COMPARED) or 1
    ends = np.unique([max(within, 1), *range(max(within, 1), batches, step), batches])
    best: tuple[int, tuple[int, ...]] = (batches * int(parts[-1]), (batches,))
    for place, end in enumerate(ends.tolist()):
        first = end * int(parts[end - 1])
        if end == batches:
            continue
        middle = ends[place + 1 :]
        costs = first + (middle - end) * parts[middle - 1] + (batches - middle) * int(parts[-1])
        cheapest = int(costs.argmin())
        split = (end, int(middle[cheapest]) - end, batches - int(middle[cheapest]))
        best = min(best, (int(costs[cheapest]), tuple(length for length in split if length)))
    assert len(best[1]) <= _SHAPES
    return best[1]
