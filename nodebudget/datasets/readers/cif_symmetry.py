"""The symmetry of a CIF, applied by jarvis: the same positions, found faster, and an end to those that have none.

jarvis applies each operation to all positions, those that it has just made among them, and compares each new one with
all others in Python. Operations that form no group, as in a broken or crafted file, go on for ever.
"""

from __future__ import annotations

import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from nodebudget.datasets.counting.neighbors import UnusableError
from nodebudget.utils.optional_imports import require

#: Comparisons of two positions, and what making one costs beside them, until a CIF is refused: half a minute. The 192
#: operations of a face-centred cubic cell of 400 atoms need a third of it.
MOST = 10**8
_ONE = 100
#: jarvis's: how far apart, in fractions of the cell, two positions are the same.
_SAME = 1e-8

_LOCK = threading.Lock()


@contextmanager
def bounded_symmetry() -> Generator[None, None, None]:
    """Let jarvis read a CIF, comparing positions by `Positions`."""
    module = require("jarvis.core.atoms")
    with _LOCK:
        original = module.check_duplicate_coords
        module.check_duplicate_coords = Positions()
        try:
            yield
        finally:
            module.check_duplicate_coords = original


class Positions:
    """jarvis's `check_duplicate_coords` on an array that grows with its list."""

    def __init__(self) -> None:
        self._known: Sequence[Any] | None = None
        self._table: npt.NDArray[np.float64] = np.empty((64, 3))
        self._count = 0
        self._work = 0

    def __call__(self, coords: Sequence[Any], coord: Any) -> bool:
        """Say whether a position is among others, those in neighbouring cells included.

        Raises:
            UnusableError: There are too many.
        """
        self._work += len(coords) + _ONE
        if self._work > MOST:
            raise UnusableError("its symmetry operations make more and more atoms")
        self._follow(coords)
        apart = np.abs(self._table[: self._count] - np.asarray(coord, dtype=np.float64))
        near = (apart < _SAME) | (np.abs(apart - 1) < _SAME)
        return bool(near.all(axis=1).any())

    def _follow(self, coords: Sequence[Any]) -> None:
        if coords is not self._known:
            self._known, self._count = coords, 0
        while self._count < len(coords):
            if self._count == len(self._table):
                self._table = np.concatenate([self._table, np.empty_like(self._table)])
            self._table[self._count] = coords[self._count]
            self._count += 1
