"""The symmetry of a CIF, applied by jarvis: the same positions, faster, and refused where there is no end of them.

jarvis applies each operation to all positions, those that it has just made among them, and compares each new one with
all others in Python. Operations that do not form a group, as in a broken or crafted file, never end.
"""

from __future__ import annotations

import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from nodebudget.datasets.sample_error import SampleError
from nodebudget.utils.optional_imports import require

#: Comparisons of two positions at which a CIF is refused, half a minute of them, and what a new position costs in
#: comparisons. The 192 operations of a face-centred cubic cell of 400 atoms need a third of it.
MAX_COMPARISONS = 10**8
_POSITION_COST = 100
#: jarvis's tolerance: fractions of the cell within which two positions are the same.
_TOLERANCE = 1e-8

_LOCK = threading.Lock()


@contextmanager
def bounded_symmetry() -> Generator[None, None, None]:
    """Let jarvis compare the positions of a CIF by `_Positions` meanwhile."""
    module = require("jarvis.core.atoms")
    with _LOCK:
        original = module.check_duplicate_coords
        module.check_duplicate_coords = _Positions()
        try:
            yield
        finally:
            module.check_duplicate_coords = original


class _Positions:
    """jarvis's `check_duplicate_coords`, on an array that grows with its list."""

    def __init__(self) -> None:
        self._list: Sequence[Any] | None = None
        self._array: npt.NDArray[np.float64] = np.empty((64, 3))
        self._count = 0
        self._work = 0

    def __call__(self, coords: Sequence[Any], coord: Any) -> bool:
        """Return whether a position is among others, those in neighbouring cells included."""
        self._work += len(coords) + _POSITION_COST
        if self._work > MAX_COMPARISONS:
            raise SampleError("its symmetry operations make more and more atoms")
        self._follow(coords)
        distance = np.abs(self._array[: self._count] - np.asarray(coord, dtype=np.float64))
        same = (distance < _TOLERANCE) | (np.abs(distance - 1) < _TOLERANCE)
        return bool(same.all(axis=1).any())

    def _follow(self, coords: Sequence[Any]) -> None:
        if coords is not self._list:
            self._list, self._count = coords, 0
        while self._count < len(coords):
            if self._count == len(self._array):
                self._array = np.concatenate([self._array, np.empty_like(self._array)])
            self._array[self._count] = coords[self._count]
            self._count += 1
