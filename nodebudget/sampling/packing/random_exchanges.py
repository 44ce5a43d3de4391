"""Random exchanges of graphs between batches that keep all maxima."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nodebudget.sampling.packing.batch_grid import BatchGrid, Ints
from nodebudget.sampling.packing.reproducible import RandomStream


def exchange_at_random(
    grid: BatchGrid, maxima: Sequence[int | Ints | None], stream: RandomStream, passes: int = 8
) -> None:
    """Exchange graphs at random between batches wherever both stay within all maxima (None: no maximum).

    Changes the grid; every batch meets `passes` others.
    """
    half = grid.batches // 2
    for _ in range(passes):
        order = stream.permutation(grid.batches)
        ours, theirs = order[:half], order[half : 2 * half]
        shift = stream.below(grid.rows)
        for row in range(grid.rows):
            other = (row + shift) % grid.rows
            wanted = (row < grid.counts[ours]) & (other < grid.counts[theirs]) & stream.coins(half)
            gain = [values[row, ours] - values[other, theirs] for values in grid.values]
            for load, change, maximum in zip(grid.loads, gain, maxima, strict=True):
                if maximum is not None:
                    wanted &= (load[ours] - change <= maximum) & (load[theirs] + change <= maximum)
            chosen = np.flatnonzero(wanted)
            grid.swap(row, ours[chosen], other, theirs[chosen])
            grid.shift_loads(ours[chosen], theirs[chosen], [change[chosen] for change in gain])
