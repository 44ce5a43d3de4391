"""What is packed: whole numbers, and the maximum of each per batch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

Column = npt.NDArray[np.integer[Any]]

#: Assigning fewer graphs than this costs next to nothing, so that more assignments are tried.
SMALL = 50_000


@dataclass(frozen=True, eq=False)
class Items:
    """Graphs to pack.

    Attributes:
        values: Columns of whole numbers, each of shape (graphs,). The first is the one that is balanced.
        maxima: For each column its largest sum over a batch, or None for no maximum.
        max_graphs: The maximum number of graphs per batch, or None.
    """

    values: tuple[Column, ...]
    maxima: tuple[int | None, ...]
    max_graphs: int | None = None

    def __len__(self) -> int:
        return len(self.values[0])

    @cached_property
    def compact_columns(self) -> list[tuple[Column, int | None]]:
        """Each column and its maximum in units that make small numbers, since memory traffic is most of the time.

        The unit is what all values are multiples of (edges in both directions are even). In large sets numbers
        over 29 bits are cut to 28 bits, rounded up: a batch that fits then fits in full.
        """
        return [self._compact(*column) for column in zip(self.values, self.maxima, strict=True)]

    def _compact(self, values: Column, maximum: int | None) -> tuple[Column, int | None]:
        total = _total(values)
        maximum = None if maximum is None else min(maximum, 2 * total)
        unit, top = common_unit(values), max(int(values.max(initial=0)), maximum or 0)
        if len(self) >= SMALL and top // unit >= 2**29:
            unit = -(-top // 2**28)
        elif total // unit >= 2**60:
            # Twice a load must not overflow.
            unit = -(-total // 2**59)
        if unit > 1:
            values, maximum = -(-values // unit), None if maximum is None else maximum // unit
        return (values.astype(np.int32) if top // unit < 2**29 else values), maximum

    @property
    def limited(self) -> list[tuple[Column, int]]:
        """The columns that have a maximum, with it."""
        return [(v, maximum) for v, maximum in zip(self.values, self.maxima, strict=True) if maximum is not None]

    def take(self, chosen: npt.NDArray[np.integer[Any]]) -> Items:
        """Return the graphs at `chosen`, in that order."""
        return Items(tuple(values[chosen] for values in self.values), self.maxima, self.max_graphs)

    def shares(self) -> list[float]:
        """Return, for each column, the total over the maximum (0 without one): how many batches it asks for."""
        return [_total(v) / maximum if maximum else 0.0 for v, maximum in zip(self.values, self.maxima, strict=True)]

    def oversized(self) -> npt.NDArray[np.bool_]:
        """Return which graphs are over a maximum on their own, shape (graphs,)."""
        over = np.zeros(len(self), dtype=bool)
        for values, maximum in self.limited:
            over |= values > maximum
        return over

    def lower_bound(self) -> int:
        """Return a number of batches such that no packing has fewer.

        The largest of: each column's total over its maximum, rounded up, where the maximum is cut to a multiple of
        what all values are multiples of; the number of graphs over `max_graphs`, rounded up; how many graphs are over
        half of one maximum, since no two of them share a batch.
        """
        if not len(self):
            return 0
        bounds = [1, *(-(-_total(values) // _whole_units(values, maximum)) for values, maximum in self.limited)]
        bounds += [int(np.count_nonzero(values > maximum // 2)) for values, maximum in self.limited if maximum > 1]
        if self.max_graphs is not None:
            bounds.append(-(-len(self) // self.max_graphs))
        return max(bounds)


def _total(values: Column) -> int:
    # SizeTable refuses totals over 2^63, so that this sum is exact.
    return int(values.sum(dtype=np.int64))


def common_unit(values: Column) -> int:
    """Return what all values are multiples of."""
    # The first thousand values show nearly always that there is no such number.
    first = int(np.gcd.reduce(values[:1000])) if len(values) else 1
    return max(int(np.gcd.reduce(values)) if first > 1 else first, 1)


def _whole_units(values: Column, maximum: int) -> int:
    unit = common_unit(values)
    return max(maximum - maximum % unit if maximum >= unit else maximum, 1)
