"""What is packed: whole numbers and their caps."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

Column = npt.NDArray[np.int64]

#: Under so many graphs a deal costs next to nothing, so that more of them are tried.
SMALL = 50_000


@dataclass(frozen=True, eq=False)
class Items:
    """Graphs to pack.

    Attributes:
        values: Columns of whole numbers, each of shape (graphs,). The first is the one that is balanced.
        caps: For each column the most that a batch may hold, or None.
        most: The most graphs that a batch may hold, or None.
    """

    values: tuple[Column, ...]
    caps: tuple[int | None, ...]
    most: int | None = None

    def __len__(self) -> int:
        return len(self.values[0])

    @cached_property
    def lean(self) -> tuple[npt.NDArray[np.integer[Any]], int | None]:
        """The first column and its cap in units that make small numbers, since memory traffic is most of the time.

        The unit is what all values are multiples of (edges in both directions are even); in large sets numbers
        over 29 bits are cut to 28 bits of their cap, rounded up, so that what fits then fits in full.
        """
        values, cap = self.values[0], self.caps[0]
        unit, top = _unit(values), max(int(values.max(initial=0)), cap or 0)
        if top // unit >= 2**29 and len(self) >= SMALL:
            unit = -(-top // 2**28)
        if unit > 1:
            values, cap = -(-values // unit), None if cap is None else cap // unit
        return (values.astype(np.int32) if top // unit < 2**29 else values), cap

    @property
    def capped(self) -> list[tuple[Column, int]]:
        """The columns that have a cap, with it."""
        return [(v, c) for v, c in zip(self.values, self.caps, strict=True) if c is not None]

    def take(self, chosen: npt.NDArray[np.integer[Any]]) -> Items:
        """Return the graphs at `chosen`, in that order."""
        return Items(tuple(values[chosen] for values in self.values), self.caps, self.most)

    def shares(self) -> list[float]:
        """Return, for each column, the total over the cap (0 without a cap): how many batches it asks for."""
        return [_total(v) / c if c else 0.0 for v, c in zip(self.values, self.caps, strict=True)]

    def oversized(self) -> npt.NDArray[np.bool_]:
        """Tell which graphs are over a cap on their own, shape (graphs,)."""
        over = np.zeros(len(self), dtype=bool)
        for values, cap in self.capped:
            over |= values > cap
        return over

    def lower_bound(self) -> int:
        """Return a number of batches that no packing can stay under.

        The largest of: each column's total over its cap, rounded up, where a cap ends at the last multiple of what
        all values are multiples of; the number of graphs over `most`, rounded up; how many graphs are over
        half of one cap, since no two of them share a batch.
        """
        if not len(self):
            return 0
        bounds = [1, *(-(-_total(values) // _whole_units(values, cap)) for values, cap in self.capped)]
        bounds += [int(np.count_nonzero(values > cap // 2)) for values, cap in self.capped if cap > 1]
        if self.most is not None:
            bounds.append(-(-len(self) // self.most))
        return max(bounds)


def _total(values: Column) -> int:
    # SizeTable refuses totals over 2^63, so that this sum is exact.
    return int(values.sum())


def _unit(values: Column) -> int:
    """Return what all values are multiples of."""
    # A few hundred values show nearly always that there is no such thing.
    some = int(np.gcd.reduce(values[:1000])) if len(values) else 1
    return max(int(np.gcd.reduce(values)) if some > 1 else some, 1)


def _whole_units(values: Column, cap: int) -> int:
    unit = _unit(values)
    return max(cap - cap % unit if cap >= unit else cap, 1)
