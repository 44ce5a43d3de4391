"""Packing that keeps an order: best fit, longest first, and next fit in dataset order."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from nodebudget.sampling.packing.batch_grid import Batches
from nodebudget.sampling.packing.items import Column, Items

#: Where several maxima must hold, best fit looks at so many batches that may be too full in one of them.
_LOOKS = 32


def best_fit(items: Items) -> Batches:
    """Put each graph, largest first, into the fullest batch that still holds it. Takes 2 s per million."""
    columns, maxima = _by_need(items)
    if not columns:
        return np.arange(len(items)), np.array([0, len(items)], dtype=np.int64)
    largest = np.max([values / max(maximum, 1) for values, maximum in zip(columns, maxima, strict=True)], axis=0)
    order = np.argsort(-largest, kind="stable")
    rows = zip(*(values[order].tolist() for values in columns), strict=True)
    batch = np.asarray(_place(rows, largest[order].tolist(), maxima), dtype=np.int64)
    return order[np.argsort(batch, kind="stable")], np.concatenate([[0], np.cumsum(np.bincount(batch))])


def _by_need(items: Items) -> tuple[list[Column], list[int]]:
    """Order the maxima by how many batches each asks for; the number of graphs is one more column."""
    columns = items.limited
    if items.max_graphs is not None:
        columns.append((np.ones(len(items), dtype=np.int64), items.max_graphs))
    columns.sort(key=lambda column: -int(column[0].sum()) / max(column[1], 1))
    return [values for values, _ in columns], [maximum for _, maximum in columns]


def _place(rows: Iterable[tuple[int, ...]], needs: list[float], maxima: list[int]) -> list[int]:
    left: list[list[int]] = []  # what is left of each maximum, by batch
    opened: list[tuple[float, int]] = []  # (what is left of its fullest maximum, as a share of it; batch), ascending
    places: list[int] = []
    for row, need in zip(rows, needs, strict=True):
        # From this one on each batch holds the graph by all maxima; a few before it may, by those that matter to it.
        first = bisect_left(opened, (need, -1))
        for place in range(max(first - _LOOKS, 0) if len(maxima) > 1 else first, len(opened)):
            if all(size <= free for size, free in zip(row, left[opened[place][1]], strict=True)):
                batch = opened.pop(place)[1]
                break
        else:
            batch = len(left)
            left.append(list(maxima))
        left[batch] = [free - size for free, size in zip(left[batch], row, strict=True)]
        insort(opened, (min(free / max(maximum, 1) for free, maximum in zip(left[batch], maxima, strict=True)), batch))
        places.append(batch)
    return places


def next_fit(items: Items, bounds: npt.NDArray[np.int64] | None = None) -> Batches:
    """Cut the dataset, in its order, into batches: each ends where the next graph would go over a maximum.

    A graph that is over a maximum on its own makes a batch of its own. Batches also end at `bounds`, ascending.
    """
    sums = [(np.concatenate([[0], np.cumsum(values)]), maximum) for values, maximum in items.limited]
    starts, longest = [0], items.max_graphs or len(items)
    stops = [len(items)] if bounds is None else bounds[1:].tolist()
    while starts[-1] < len(items):
        first = starts[-1]
        stop = stops[bisect_right(stops, first)]
        # As Python's whole numbers, which do not overflow.
        tops = [min(int(total[first]) + maximum, int(total[-1])) for total, maximum in sums]
        ends = [int(np.searchsorted(total, top, side="right")) - 1 for (total, _), top in zip(sums, tops, strict=True)]
        starts.append(max(min(first + longest, stop, *ends), first + 1))
    return np.arange(len(items)), np.asarray(starts, dtype=np.int64)


def split(offsets: npt.NDArray[np.int64], batches: int) -> npt.NDArray[np.int64]:
    """Halve the batches with the most graphs until there are so many (not more than graphs)."""
    starts = offsets
    while len(starts) - 1 < batches:
        counts = np.diff(starts)
        missing = batches - len(counts)
        splittable = np.flatnonzero(counts > 1)
        chosen = splittable[np.argsort(-counts[splittable], kind="stable")[:missing]]
        starts = np.sort(np.concatenate([starts, starts[chosen] + counts[chosen] // 2]))
    return starts
