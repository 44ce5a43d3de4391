"""Balancing of batches by exchanging graphs between two of them.

All decisions are made on whole numbers, or on single floating-point operations of them, and no order depends on how
ties fall: the same exchanges are made on every machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from nodebudget.sampling.packing.batch_grid import BatchGrid
from nodebudget.sampling.packing.reproducible import stable_argsort

Ints = npt.NDArray[np.integer[Any]]
Bools = npt.NDArray[np.bool_]

#: Batches are balanced where the loads' standard deviation is one part in so many of their mean.
_BALANCED = 1000

#: A graph changes batch, so that graph counts differ, only where a batch is off by more than one part in so many.
_OFF = 200

#: Maximum number of rounds of eight passes of swaps and one of moves.
_ROUNDS = 8

#: Exchanges that are compared at once.
_EXCHANGES = 300_000


class Target(NamedTuple):
    """What a column of the grid should reach.

    Attributes:
        maximum: Largest load of a batch, or of each batch (shape (batches,)), or None.
        scale: Load that counts as 1 when columns are compared.
        weight: How much differences in this column matter beside those in others.
    """

    maximum: int | Ints | None
    scale: float = 1.0
    weight: float = 1.0


def balance(
    grid: BatchGrid, targets: Sequence[Target], max_graphs: int | None = None, *, only_maxima: bool = False
) -> None:
    """Exchange graphs until all batches have nearly the same load and none is over a maximum, as far as possible.

    Changes the grid; there is one target for each of its columns. `max_graphs` is the maximum per batch, or None.
    With `only_maxima` it ends as soon as none is over a maximum or a round brought none within, and graphs are only
    exchanged one for one.
    """
    before = grid.batches + 1
    for round_ in range(_ROUNDS):
        for turn in range(8 * round_, 8 * round_ + 8):
            over, balanced = _over(grid, targets), is_balanced(_centred(grid, grid.loads[0]))
            if (balanced or only_maxima) and not over.any():
                return
            # Once all are balanced but a few are over a maximum, or now and then while these are few, they alone count.
            share = 64 if len(targets) == 1 else 4
            few = 0 < np.count_nonzero(over) <= grid.batches // share + 4
            if few and (balanced or turn % 2):
                _best_swaps(grid, targets, turn, over)
            else:
                _swap_pass(grid, targets, turn, over if balanced else None)
        if only_maxima:
            if np.count_nonzero(over) >= before:
                return
            before = int(np.count_nonzero(over))
            continue
        moved = not grid.aligned and _move_pass(grid, targets, max_graphs)
        if not moved and not _over(grid, targets).any():
            return


def is_balanced(load: Ints) -> bool:
    """Return whether the standard deviation of whole numbers is 0.1% of their mean, or the least that it can be.

    Exact, so that it is the same everywhere: numpy's `std` depends on the order in which a processor adds.
    """
    batches, total = len(load), int(load.sum())
    mean, rest = divmod(total, batches)
    # Whole numbers whose mean is not whole are at best the two next to it: variance f (1 - f), f = rest / batches.
    # Both sides times batches²; 1% more standard deviation than that counts as the least.
    variance = max(total * total // _BALANCED**2, rest * (batches - rest) * 102 // 100)
    apart = load - mean
    largest = max(int(apart.max()), -int(apart.min()))
    # So that the sum of squares stays within 63 bits.
    shift = max(0, 2 * largest.bit_length() + batches.bit_length() - 62 + 1) // 2
    squares = int(np.square(apart >> shift).sum()) << 2 * shift
    return batches * squares - rest * rest <= variance


def _centred(grid: BatchGrid, load: Ints) -> Ints:
    """Return loads whose groups have equal means, nearly, so that only what exchanges can change is left."""
    if grid.groups == 1:
        return load
    by_group = load.reshape(-1, grid.groups)
    means = by_group.sum(axis=0) // len(by_group)
    return np.asarray((by_group - means + int(means.sum()) // grid.groups).ravel())


def _over(grid: BatchGrid, targets: Sequence[Target]) -> Bools:
    over = np.zeros(grid.batches, dtype=bool)
    for load, target in zip(grid.loads, targets, strict=True):
        if target.maximum is not None:
            over |= load > target.maximum
    return over


def _part_of_mean(load: Ints, parts: int) -> int:
    """Return the mean over `parts`, rounded down: a whole number is over it where it is over the exact one."""
    return int(load.sum()) // (parts * len(load))


def _pairs(grid: BatchGrid, turn: int, least: int) -> tuple[Ints, Ints]:
    """Pair the heaviest batch and the lightest, and so on inwards, by one column, while they differ by over `least`."""
    load = grid.loads[turn % len(grid.loads)]
    heavy, light = _halves(grid, load)
    apart = load[heavy] - load[light] > least
    return heavy[apart], light[apart]


def _halves(grid: BatchGrid, load: npt.NDArray[Any], turn: int = 0) -> tuple[Ints, Ints]:
    """Return the heavier half of the batches, the heaviest first, and the lighter half; of each group by itself.

    With another turn other light batches stand beside the heavy ones.
    """
    if grid.groups == 1:
        order = stable_argsort(load)[:, None]
    else:
        order = np.argsort(load.reshape(-1, grid.groups), axis=0, kind="stable") * grid.groups
        order += np.arange(grid.groups)
    half = len(order) // 2
    light = np.roll(order[:half], turn, axis=0) if turn else order[:half]
    return order[::-1][:half].ravel(), light.ravel()


def _pairs_over(grid: BatchGrid, targets: Sequence[Target], turn: int, over: Bools) -> tuple[Ints, Ints]:
    """Pair the batches over a maximum with light ones, others at every turn."""
    scaled = [load / target.scale for load, target in zip(grid.loads, targets, strict=True)]
    if grid.groups > 1:
        heavy, light = _halves(grid, grid.loads[0] if len(targets) == 1 else np.max(scaled, axis=0), turn)
        chosen = over[heavy] & ~over[light]
        return heavy[chosen], light[chosen]
    heavy = np.flatnonzero(over)
    single = len(targets) == 1
    light = stable_argsort(grid.loads[0]) if single else np.argsort(np.max(scaled, axis=0), kind="stable")
    light = light[~over[light]][: max(64, 2 * len(heavy))]
    if len(light):
        light = np.roll(light, -(turn * len(heavy)) % len(light))
    pairs = min(len(heavy), len(light))
    return heavy[:pairs], light[:pairs]


class _Gap:
    """How far two batches are apart, pair by pair, and which exchanges bring them closer.

    Attributes:
        apart: For each column the first batch's load less the second's, each of shape (pairs,).
    """

    def __init__(
        self, grid: BatchGrid, heavy: Ints, light: Ints, targets: Sequence[Target], *, keep_maxima: bool = False
    ) -> None:
        self.apart = [
            _narrow(load[heavy] - load[light], values) for load, values in zip(grid.loads, grid.values, strict=True)
        ]
        self._targets = targets
        # How far apart two loads may be before the larger one is over its maximum: their sum stays what it is.
        self._free: list[Ints | None] = []
        if keep_maxima and len(targets) > 1:
            for load, target in zip(grid.loads, targets, strict=True):
                both, maximum = load[heavy] + load[light], target.maximum
                if isinstance(maximum, np.ndarray):
                    maximum = np.minimum(maximum[heavy], maximum[light])
                self._free.append(None if maximum is None else np.maximum(2 * maximum - both, 0))

    def after(self, gain: Sequence[Ints]) -> list[Ints]:
        """Return how far they are apart once values that differ by `gain` are exchanged."""
        return [now - 2 * change for now, change in zip(self.apart, gain, strict=True)]

    def closer(self, after: Sequence[Ints]) -> Bools:
        """Return where `after` is better than now."""
        return np.asarray(self.cost(after) < self.cost(self.apart))

    def cost(self, apart: Sequence[Ints]) -> npt.NDArray[Any]:
        """Return how bad it is to be so far apart."""
        if len(apart) == 1:
            return np.abs(apart[0])
        columns = list(zip(apart, self._targets, strict=True))
        cost = sum(np.square(gap * (target.weight / target.scale)) for gap, target in columns)
        if self._free:
            # What is over a maximum outweighs all balance.
            cost = cost * 1e-3
            for (gap, target), free in zip(columns, self._free, strict=True):
                if free is not None:
                    cost = cost + np.square(np.maximum(np.abs(gap) - free, 0) / target.scale)
        return np.asarray(cost)

    def update(self, chosen: Ints, after: Sequence[Ints]) -> None:
        """Note that the chosen pairs are as far apart as in `after` now."""
        for gap, new in zip(self.apart, after, strict=True):
            gap[chosen] = new[chosen]

    def keep(self, chosen: Ints) -> None:
        """Forget all other pairs."""
        self.apart = [gap[chosen] for gap in self.apart]
        self._free = [None if free is None else free[chosen] for free in self._free]


def _narrow(apart: Ints, values: Ints) -> Ints:
    # The type of the values halves the traffic, as long as twice a difference fits in.
    narrow = values.dtype == np.int32 and abs(apart).max(initial=0) < 2**29
    return apart.astype(values.dtype) if narrow else apart


def _swap_pass(grid: BatchGrid, targets: Sequence[Target], turn: int, over: Bools | None) -> None:
    column = turn % len(grid.loads)
    least = max(_part_of_mean(grid.loads[column], 2 * _BALANCED), 1)
    heavy, light = _pairs(grid, turn, least) if over is None else _pairs_over(grid, targets, turn, over)
    if not len(heavy):
        return
    gap = _Gap(grid, heavy, light, targets)
    rows, full = int(grid.counts.max()), int(grid.counts.min())
    for step in range(rows):
        # Another turn compares other rows of the same two batches.
        row = (step + 7 * turn) % rows
        other = row if grid.aligned else (step + 10 * turn) % rows
        gain = [values[row].take(heavy) - values[other].take(light) for values in grid.values]
        after = gap.after(gain)
        wanted = gap.closer(after)
        if max(row, other) >= full:
            wanted &= (row < grid.counts[heavy]) & (other < grid.counts[light])
        chosen = np.flatnonzero(wanted)
        if len(chosen):
            grid.swap(row, heavy[chosen], other, light[chosen])
            grid.shift_loads(heavy[chosen], light[chosen], [change[chosen] for change in gain])
            gap.update(chosen, after)
        if step % 4 == 3:
            apart = np.flatnonzero(np.abs(gap.apart[column]) > least)
            if not len(apart):
                return
            if len(apart) < 0.8 * len(heavy):
                heavy, light = heavy[apart], light[apart]
                gap.keep(apart)


def _best_swaps(grid: BatchGrid, targets: Sequence[Target], turn: int, over: Bools) -> None:
    """For batches over a maximum, while they are few, make the best of all exchanges with a light batch."""
    # Of long batches another part at every turn.
    longest = int(grid.counts.max())
    rows = min(longest, 512)
    heavy, light = _pairs_over(grid, targets, turn, over)
    pairs = max(1, _EXCHANGES // rows**2)
    heavy, light = heavy[:pairs], light[:pairs]
    if not len(heavy):
        return
    row = (np.arange(rows) + turn * rows) % longest
    free = (row[:, None] >= grid.counts[heavy])[:, None] | (row[:, None] >= grid.counts[light])[None]
    gap = _Gap(grid, heavy, light, targets, keep_maxima=True)
    for _ in range(8):
        gain = [values[row[:, None], heavy][:, None] - values[row[:, None], light][None] for values in grid.values]
        cost = np.where(free, np.inf, gap.cost(gap.after(gain))).reshape(rows**2, -1)
        # The first of equally good ones.
        best = cost.argmin(axis=0)
        chosen = np.flatnonzero(cost[best, np.arange(len(heavy))] < gap.cost(gap.apart) * (1 - 1e-9))
        if not len(chosen):
            return
        from_row, to_row = np.divmod(best, rows)
        changes = [change.reshape(rows**2, -1)[best[chosen], chosen] for change in gain]
        grid.swap(row[from_row[chosen]], heavy[chosen], row[to_row[chosen]], light[chosen])
        grid.shift_loads(heavy[chosen], light[chosen], changes)
        for now, change in zip(gap.apart, changes, strict=True):
            now[chosen] -= 2 * change


def _move_pass(grid: BatchGrid, targets: Sequence[Target], max_graphs: int | None) -> bool:
    """Move graphs from batches that are far too heavy to ones that are light; return whether any moved."""
    moved = False
    # Every batch has as many slots as the longest one: the grid must not outgrow the graphs many times over.
    longest = max(4 * grid.rows, _EXCHANGES // grid.batches)
    longest = longest if max_graphs is None else min(longest, max_graphs)
    for turn, load in enumerate(grid.loads):
        heavy, light = _pairs(grid, turn, _part_of_mean(load, _OFF))
        if not len(heavy):
            continue
        gap = _Gap(grid, heavy, light, targets, keep_maxima=True)
        for row in range(grid.rows - 1, -1, -1):
            movable = (row < grid.counts[heavy]) & (grid.counts[heavy] > 1) & (grid.counts[light] < longest)
            gain = [values[row][heavy] for values in grid.values]
            after = gap.after(gain)
            chosen = np.flatnonzero(movable & gap.closer(after))
            if len(chosen):
                moved = True
                grid.move(row, heavy[chosen], light[chosen])
                grid.shift_loads(heavy[chosen], light[chosen], [change[chosen] for change in gain])
                gap.update(chosen, after)
    return moved
