"""Packing that keeps an order: best fit, longest first, and next fit in dataset order."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from nodebudget.sampling.packing.items import Items

Ints = npt.NDArray[np.integer[Any]]
Batches = tuple[Ints, npt.NDArray[np.int64]]

#: Where several caps must hold, best fit looks at so many batches that may be too full in one of them.
_LOOKS = 32


def best_fit(items: Items) -> Batches:
    """Put each graph, largest first, into the fullest batch that still holds it.

    Costs a step of plain Python a graph (about 2 s for a million).

    Returns:
        The graphs batch by batch, shape (graphs,), and where each batch starts, shape (batches + 1,).
    """
    columns, caps = _by_need(items)
    if not columns:
        return np.arange(len(items)), np.array([0, len(items)], dtype=np.int64)
    largest = np.max([values / max(cap, 1) for values, cap in zip(columns, caps, strict=True)], axis=0)
    order = np.argsort(-largest, kind="stable")
    rows = zip(*(values[order].tolist() for values in columns), strict=True)
    places = _place(rows, largest[order].tolist(), caps)
    where = np.asarray(places, dtype=np.int64)
    counts = np.bincount(where)
    return order[np.argsort(where, kind="stable")], np.concatenate([[0], np.cumsum(counts)])


def _by_need(items: Items) -> tuple[list[npt.NDArray[np.int64]], list[int]]:
    """Order the caps by how many batches each asks for; the number of graphs is one more column."""
    capped = items.capped
    if items.most is not None:
        capped.append((np.ones(len(items), dtype=np.int64), items.most))
    capped.sort(key=lambda pair: -int(pair[0].sum()) / max(pair[1], 1))
    return [values for values, _ in capped], [cap for _, cap in capped]


def _place(rows: Iterable[tuple[int, ...]], needs: list[float], caps: list[int]) -> list[int]:
    room: list[list[int]] = []  # what is left of each cap, by batch
    opened: list[tuple[float, int]] = []  # (room in its fullest cap, as a part of it; batch), ascending
    places: list[int] = []
    for row, need in zip(rows, needs, strict=True):
        # From here on each batch has room in every cap; a few before it may, in the caps that matter to this graph.
        sure = bisect_left(opened, (need, -1))
        for look in range(max(sure - _LOOKS, 0) if len(caps) > 1 else sure, len(opened)):
            if all(size <= free for size, free in zip(row, room[opened[look][1]], strict=True)):
                batch = opened.pop(look)[1]
                break
        else:
            batch = len(room)
            room.append(list(caps))
        left = room[batch] = [free - size for free, size in zip(room[batch], row, strict=True)]
        insort(opened, (min(free / max(cap, 1) for free, cap in zip(left, caps, strict=True)), batch))
        places.append(batch)
    return places


def next_fit(items: Items) -> Batches:
    """Cut the dataset, in its order, into batches: each ends where the next graph would go over a cap.

    Returns:
        The graphs batch by batch, which is their order, and where each batch starts, shape (batches + 1,).
    """
    sums = [(np.concatenate([[0], np.cumsum(values)]), cap) for values, cap in items.capped]
    starts, most = [0], items.most or len(items)
    while starts[-1] < len(items):
        first = starts[-1]
        # As Python's whole numbers, which do not overflow.
        tops = [min(int(total[first]) + cap, int(total[-1])) for total, cap in sums]
        ends = [int(np.searchsorted(total, top, side="right")) - 1 for (total, _), top in zip(sums, tops, strict=True)]
        starts.append(min(first + most, len(items), *ends))
    return np.arange(len(items)), np.asarray(starts, dtype=np.int64)


def split(offsets: npt.NDArray[np.int64], wanted: int) -> npt.NDArray[np.int64]:
    """Halve the batches with the most graphs until there are `wanted` (at most one a graph)."""
    starts = offsets
    while len(starts) - 1 < wanted:
        counts = np.diff(starts)
        missing = wanted - len(counts)
        splittable = np.flatnonzero(counts > 1)
        chosen = splittable[np.argsort(-counts[splittable], kind="stable")[:missing]]
        starts = np.sort(np.concatenate([starts, starts[chosen] + counts[chosen] // 2]))
    return starts
