"""Levelling a deal by exchanging graphs between two batches, and mixing one that must keep its caps."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from nodebudget.sampling.packing.batch_grid import BatchGrid

Ints = npt.NDArray[np.integer[Any]]
Array = npt.NDArray[Any]

#: Levelling stops where the loads' standard deviation is this part of their mean.
LEVEL = 1e-3

#: A graph changes batch, so that graph counts differ, only where a batch is off by more than this part.
OFF = 5e-3

#: Rounds of eight swap passes and a pass of moves, at most.
_ROUNDS = 8

#: Exchanges that are weighed at once.
_MANY = 300_000


def _narrow(apart: Array, grid: Array) -> Array:
    # The type of the grid halves the traffic, as long as twice a difference fits in.
    return apart.astype(grid.dtype) if grid.dtype == np.int32 and abs(apart).max(initial=0) < 2**29 else apart


def level(deal: BatchGrid, caps: list[float], weights: list[float], most: int | None = None) -> None:
    """Exchange graphs until every batch has nearly the same load and none is over a cap, as far as that goes.

    Args:
        deal: Changed in place.
        caps: For each column what a batch may hold.
        weights: For each column how much it matters, to be multiplied with its differences.
        most: Most graphs that a batch may hold, or None.
    """
    for round_ in range(_ROUNDS):
        for turn in range(8 * round_, 8 * round_ + 8):
            over, even_enough = _over(deal, caps), _is_even(deal)
            if even_enough and not over.any():
                return
            # Once all is even but for batches over a cap, or now and then while these are few, they alone count.
            share = 64 if len(caps) == 1 else 4
            few = 0 < np.count_nonzero(over) <= deal.batches // share + 4
            if few and (even_enough or turn % 2):
                _best_swaps(deal, caps, weights, turn, over)
            else:
                _swap_pass(deal, weights, turn, over if even_enough else None)
        if not _move_pass(deal, caps, weights, most) and not _over(deal, caps).any():
            return


def _is_even(deal: BatchGrid) -> bool:
    load = deal.loads[0]
    mean = float(load.mean())
    # Whole numbers can't all be the mean; the nearest that they come to it are the two next to it.
    least = math.sqrt((mean % 1) * (1 - mean % 1)) if load.dtype.kind == "i" else 0.0
    return bool(load.std() <= max(LEVEL * mean, 1.01 * least))


def _over(deal: BatchGrid, caps: list[float]) -> npt.NDArray[np.bool_]:
    over = np.zeros(deal.batches, dtype=bool)
    for load, cap in zip(deal.loads, caps, strict=True):
        over |= load > cap
    return over


def _pairs(deal: BatchGrid, turn: int, least: float) -> tuple[Ints, Ints]:
    """Pair the heaviest batch with the lightest, and so on inwards, by one column, as far as they differ."""
    load = deal.loads[turn % len(deal.loads)]
    order = np.argsort(load)
    half = len(order) // 2
    light, heavy = order[:half], order[::-1][:half]
    apart = int(np.count_nonzero(load[heavy] - load[light] > least))
    return heavy[:apart], light[:apart]


def _pairs_over(deal: BatchGrid, turn: int, over: npt.NDArray[np.bool_]) -> tuple[Ints, Ints]:
    """Pair the batches over a cap with light ones, others at every turn."""
    heavy = np.flatnonzero(over)
    light = np.argsort(np.max(deal.loads, axis=0) if len(deal.loads) > 1 else deal.loads[0])
    light = light[~over[light]][: max(64, 2 * len(heavy))]
    if len(light):
        light = np.roll(light, -(turn * len(heavy)) % len(light))
    some = min(len(heavy), len(light))
    return heavy[:some], light[:some]


class _Gap:
    """How far two batches are apart, pair by pair, and which exchanges bring them closer.

    Attributes:
        apart: For each column the first batch's load less the second's, each of shape (pairs,).
    """

    def __init__(
        self, deal: BatchGrid, heavy: Ints, light: Ints, weights: list[float], caps: list[float] | None = None
    ) -> None:
        self.apart = [
            _narrow(load[heavy] - load[light], grid) for load, grid in zip(deal.loads, deal.values, strict=True)
        ]
        self._weights = weights
        # How far apart two loads may be before the larger one is over its cap: their sum stays what it is.
        self._free: list[Array] | None = None
        if caps is not None and len(caps) > 1:
            sums = [load[heavy] + load[light] for load in deal.loads]
            self._free = [np.maximum(2 * cap - both, 0) for cap, both in zip(caps, sums, strict=True)]

    def after(self, gain: list[Array]) -> list[Array]:
        """Return how far they are apart once values that differ by `gain` are exchanged."""
        return [now - 2 * change for now, change in zip(self.apart, gain, strict=True)]

    def closer(self, after: list[Array]) -> npt.NDArray[np.bool_]:
        """Tell where `after` is better than now."""
        return np.asarray(self.cost(after) < self.cost(self.apart))

    def cost(self, parts: list[Array]) -> Array:
        """Return how bad it is to be so far apart."""
        if len(parts) == 1:
            return np.abs(parts[0])
        cost = sum((part * weight) ** 2 for part, weight in zip(parts, self._weights, strict=True))
        if self._free is not None:
            # What is over a cap outweighs all levelness.
            cost = cost * 1e-3 + sum(
                np.maximum(np.abs(part) - free, 0) ** 2 for part, free in zip(parts, self._free, strict=True)
            )
        return np.asarray(cost)

    def update(self, chosen: Ints, after: list[Array]) -> None:
        """Note that the chosen pairs are as far apart as in `after` now."""
        for part, found in zip(self.apart, after, strict=True):
            part[chosen] = found[chosen]

    def keep(self, chosen: Ints) -> None:
        """Forget all other pairs."""
        self.apart = [part[chosen] for part in self.apart]
        self._free = None if self._free is None else [part[chosen] for part in self._free]


def _swap_pass(deal: BatchGrid, weights: list[float], turn: int, over: npt.NDArray[np.bool_] | None) -> None:
    column = turn % len(deal.loads)
    least = max(LEVEL / 2 * float(deal.loads[column].mean()), 1.0 if deal.loads[0].dtype.kind == "i" else 0.0)
    heavy, light = _pairs(deal, turn, least) if over is None else _pairs_over(deal, turn, over)
    if not len(heavy):
        return
    gap = _Gap(deal, heavy, light, weights)
    rows, sure = int(deal.counts.max()), int(deal.counts.min())
    for step in range(rows):
        # Another turn compares other rows of the same two batches.
        row, other = (step + 7 * turn) % rows, (step + 10 * turn) % rows
        gain = [grid[row].take(heavy) - grid[other].take(light) for grid in deal.values]
        after = gap.after(gain)
        wanted = gap.closer(after)
        if max(row, other) >= sure:
            wanted &= (row < deal.counts[heavy]) & (other < deal.counts[light])
        chosen = np.flatnonzero(wanted)
        if len(chosen):
            deal.swap(row, heavy[chosen], other, light[chosen])
            deal.shift(heavy[chosen], light[chosen], [change[chosen] for change in gain])
            gap.update(chosen, after)
        if step % 4 == 3:
            keep = np.flatnonzero(np.abs(gap.apart[column]) > least)
            if not len(keep):
                return
            if len(keep) < 0.8 * len(heavy):
                heavy, light = heavy[keep], light[keep]
                gap.keep(keep)


def _best_swaps(
    deal: BatchGrid, caps: list[float], weights: list[float], turn: int, over: npt.NDArray[np.bool_]
) -> None:
    """For batches over a cap, while they are few, make the best of all exchanges with a light batch."""
    # Of long batches another part at every turn.
    rows = min(int(deal.counts.max()), 512)
    heavy, light = _pairs_over(deal, turn, over)
    some = max(1, _MANY // rows**2)
    heavy, light = heavy[:some], light[:some]
    if not len(heavy):
        return
    row = (np.arange(rows) + turn * rows) % int(deal.counts.max())
    free = (row[:, None] >= deal.counts[heavy])[:, None] | (row[:, None] >= deal.counts[light])[None]
    gap = _Gap(deal, heavy, light, weights, caps)
    for _ in range(8):
        gain = [grid[row[:, None], heavy][:, None] - grid[row[:, None], light][None] for grid in deal.values]
        cost = np.where(free, np.inf, gap.cost(gap.after(gain))).reshape(rows**2, -1)
        best = cost.argmin(axis=0)
        chosen = np.flatnonzero(cost[best, np.arange(len(heavy))] < gap.cost(gap.apart) * (1 - 1e-9))
        if not len(chosen):
            return
        ours, theirs = np.divmod(best, rows)
        change = [part.reshape(rows**2, -1)[best[chosen], chosen] for part in gain]
        deal.swap_each(row[ours[chosen]], heavy[chosen], row[theirs[chosen]], light[chosen])
        deal.shift(heavy[chosen], light[chosen], change)
        for part, moved in zip(gap.apart, change, strict=True):
            part[chosen] -= 2 * moved


def _move_pass(deal: BatchGrid, caps: list[float], weights: list[float], most: int | None) -> bool:
    """Move graphs from batches that are far too heavy to ones that are light; say whether any moved."""
    moved = False
    # Every batch has as many slots as the longest one: the grid must not outgrow the graphs many times over.
    room = max(4 * deal.rows, _MANY // deal.batches)
    room = room if most is None else min(room, most)
    for turn in range(len(deal.loads)):
        heavy, light = _pairs(deal, turn, OFF * float(deal.loads[turn].mean()))
        if not len(heavy):
            continue
        gap = _Gap(deal, heavy, light, weights, caps)
        for row in range(deal.rows - 1, -1, -1):
            can = (row < deal.counts[heavy]) & (deal.counts[heavy] > 1) & (deal.counts[light] < room)
            gain = [grid[row][heavy] for grid in deal.values]
            after = gap.after(gain)
            chosen = np.flatnonzero(can & gap.closer(after))
            if len(chosen):
                moved = True
                deal.move(row, heavy[chosen], light[chosen])
                deal.shift(heavy[chosen], light[chosen], [change[chosen] for change in gain])
                gap.update(chosen, after)
    return moved


def mix(deal: BatchGrid, caps: list[float], rng: np.random.Generator, passes: int = 8) -> None:
    """Exchange graphs at random between batches wherever both stay within all caps.

    Args:
        deal: Changed in place.
        caps: For each column what a batch may hold.
        rng: Where randomness comes from.
        passes: How often every batch meets another one.
    """
    half = deal.batches // 2
    for _ in range(passes):
        order = rng.permutation(deal.batches)
        here, there = order[:half], order[half : 2 * half]
        shift = int(rng.integers(deal.rows))
        for row in range(deal.rows):
            _mix_row(deal, caps, rng, (row, here), ((row + shift) % deal.rows, there))


def _mix_row(
    deal: BatchGrid, caps: list[float], rng: np.random.Generator, ours: tuple[int, Ints], theirs: tuple[int, Ints]
) -> None:
    (row, here), (other, there) = ours, theirs
    wanted = (row < deal.counts[here]) & (other < deal.counts[there]) & (rng.random(len(here)) < 0.5)
    gain = [grid[row, here] - grid[other, there] for grid in deal.values]
    for load, change, cap in zip(deal.loads, gain, caps, strict=True):
        wanted &= (load[here] - change <= cap) & (load[there] + change <= cap)
    chosen = np.flatnonzero(wanted)
    deal.swap(row, here[chosen], other, there[chosen])
    for load, change in zip(deal.loads, gain, strict=True):
        load[here[chosen]] -= change[chosen]
        load[there[chosen]] += change[chosen]
