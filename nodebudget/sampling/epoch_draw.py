"""The graphs of an epoch, drawn by weights: the same on every rank and machine."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from nodebudget.datasets.size_table import SizeTable
from nodebudget.errors import InputError
from nodebudget.sampling.packing.batch_grid import Ints
from nodebudget.sampling.packing.reproducible import RandomStream
from nodebudget.utils.checks import check_count

#: The largest weight in whole numbers; smaller ones are rounded to parts of it.
_BITS = 32


@dataclass(frozen=True, eq=False)
class EpochDraw:
    """How the graphs of an epoch are drawn.

    Attributes:
        weights: Relative probability of each graph, shape (graphs,).
        size: Graphs per epoch.
        replacement: Whether a graph may come several times in an epoch.

    Raises:
        InputError: The weights are not numbers of 0 or more, or too few graphs can be drawn.
    """

    weights: npt.NDArray[np.float64]
    size: int
    replacement: bool = True

    def __post_init__(self) -> None:
        check_count("epoch_size", self.size, 1)
        weights = self.weights
        if weights.ndim != 1 or not np.isfinite(weights).all() or (weights < 0).any() or not weights.any():
            raise InputError("weights are not numbers of 0 or more, one of them over 0", hint="give one per graph")
        self.check(np.ones(len(weights), dtype=bool))

    def check(self, allowed: npt.NDArray[np.bool_]) -> None:
        """Raise an InputError where fewer graphs than an epoch has can be drawn from those that are allowed."""
        drawable = int(np.count_nonzero(self.weights[allowed]))
        if not drawable or (not self.replacement and drawable < self.size):
            raise InputError(
                f"{drawable:,} graphs can be drawn",
                limit=f"an epoch has {self.size:,}",
                hint="give a smaller epoch_size, or replacement=True",
            )

    @cached_property
    def _whole(self) -> Ints:
        # Single multiplications, which give the same on every processor; what is over 0 stays so.
        bits = min(_BITS, 61 - len(self.weights).bit_length())
        whole = np.floor(self.weights / self.weights.max() * 2.0**bits).astype(np.int64)
        return np.asarray(np.maximum(whole, self.weights > 0), dtype=np.int64)

    def graphs(self, allowed: npt.NDArray[np.bool_], stream: RandomStream) -> Ints:
        """Draw an epoch's graphs, ascending, shape (size,)."""
        weights = np.where(allowed, self._whole, 0)
        if self.replacement:
            return np.sort(_draw(weights, self.size, stream))
        chosen: list[Ints] = []
        missing = self.size
        while missing:
            # Drawing again what was drawn before changes nothing: the rest is as if it had been left out.
            drawn = _draw(weights, missing, stream)
            first = np.sort(np.unique(drawn, return_index=True)[1])
            chosen.append(drawn[first])
            weights[chosen[-1]] = 0
            missing -= len(first)
        return np.sort(np.concatenate(chosen))

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for hashes."""
        weights = hashlib.sha256(self._whole.astype("<i8").tobytes()).hexdigest()
        return {"weights": weights, "size": self.size, "replacement": self.replacement}


def _draw(weights: Ints, count: int, stream: RandomStream) -> Ints:
    """Draw with replacement by whole weights, in the order drawn, shape (count,)."""
    sums = np.cumsum(weights)
    total = int(sums[-1])
    shift = np.uint64(64 - total.bit_length())
    numbers = np.empty(0, dtype=np.int64)
    while len(numbers) < count:
        words = (stream.words(2 * (count - len(numbers)) + 64) >> shift).astype(np.int64)
        numbers = np.concatenate([numbers, words[words < total]])
    return np.searchsorted(sums, numbers[:count], side="right")


def make_draw(graphs: int, weights: npt.ArrayLike | None, size: int | None, *, replacement: bool) -> EpochDraw | None:
    """Return how an epoch is drawn; None where it holds every graph once.

    Args:
        graphs: How many there are.
        weights: One per graph; None: all the same, and none comes twice.
        size: Graphs per epoch; None: as many as there are.
        replacement: Whether a graph may come several times.

    Raises:
        InputError: See `EpochDraw`; or another number of weights.
    """
    if weights is None and size is None:
        return None
    if weights is None:
        return EpochDraw(np.ones(graphs), check_count("epoch_size", size, 1), replacement=False)
    values = np.asarray(weights, dtype=np.float64)
    if values.shape != (graphs,):
        raise InputError(f"weights of shape {values.shape}", limit=f"{graphs} graphs", hint="give one per graph")
    return EpochDraw(values, graphs if size is None else size, replacement)


def subset(sizes: SizeTable, indices: npt.ArrayLike) -> SizeTable:
    """Return the sizes of a part of a dataset, which know their places in it.

    Args:
        sizes: Those of the dataset, or of what could be read of it.
        indices: Places in the dataset, shape (k,), or a mask of shape (graphs,).

    Raises:
        InputError: A place comes twice, is not in the dataset or was skipped when it was measured.
    """
    places = np.asarray(sizes.settings.get("indices", range(len(sizes))))
    chosen = np.asarray(indices)
    chosen = places[chosen] if chosen.dtype == np.bool_ and chosen.shape == places.shape else chosen
    if chosen.ndim != 1 or chosen.dtype.kind not in "iu" or len(np.unique(chosen)) < len(chosen) or not len(chosen):
        raise InputError("indices are not whole numbers that differ", hint="give the places of graphs in the dataset")
    order = np.argsort(places, kind="stable")
    rows = order[np.minimum(np.searchsorted(places[order], chosen), len(order) - 1)]
    wrong = chosen[places[rows] != chosen]
    if len(wrong):
        raise InputError(
            f"index {wrong[0]}", limit=f"the sizes have {len(sizes)} graphs", hint="leave out what was skipped"
        )
    return replace(sizes.take(rows), settings={**sizes.settings, "indices": chosen.tolist()})
