"""The peak of a step is a maximum over its phases, each linear in the sizes: fitting one or two segments."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

_STARTS = 40  #: Random starts of the search for two segments, and rounds of each.
_ROUNDS = 40


def fit_segment(design: Floats, target: Floats) -> Floats:
    """Fit one segment with non-negative coefficients by least squares on relative errors.

    The method is Lawson and Hanson's NNLS, as in SciPy. With a negative cost per edge, a plan could gain memory by
    adding edges. The design is ones and sizes, shape (observations, coefficients), the target bytes or seconds,
    positive, shape (observations,).
    """
    from scipy.optimize import nnls  # here, so that reading a calibration does not import scipy

    # A column that is constant can't be distinguished from the constant, and gets 0.
    varies = np.ptp(design, axis=0) > 0
    varies[0] = True
    rows = design[:, varies] / target[:, None]
    # Columns differ by orders of magnitude; NNLS is better behaved when they do not.
    scale = np.maximum(np.abs(rows).max(axis=0), 1e-300)
    solution, _ = nnls(rows / scale, np.ones(len(rows)))
    coefficients = np.zeros(design.shape[1])
    coefficients[varies] = solution / scale
    return coefficients


def fit_two_segments(design: Floats, target: Floats, rng: np.random.Generator) -> list[Floats] | None:
    """Fit the maximum of two segments; None if there are too few observations.

    Alternately, each observation is assigned to the segment that is larger there, and each segment is fitted to its
    observations (Magnani and Boyd, Optimization and Engineering 10, 2009), from several random starts.
    """
    min_rows = design.shape[1] + 1
    if len(target) < 2 * min_rows:
        return None
    best: tuple[float, list[Floats]] | None = None
    for _ in range(_STARTS):
        solutions = _search(design, target, _start(design, rng), min_rows)
        if solutions is not None:
            error = float(np.abs(maximum(design, solutions) / target - 1).mean())
            if best is None or error < best[0]:
                best = error, solutions
    return None if best is None else best[1]


def maximum(design: Floats, solutions: Sequence[Floats]) -> Floats:
    """Return the largest of the segments at each observation, shape (observations,)."""
    return np.asarray(np.max([design @ solution for solution in solutions], axis=0), dtype=np.float64)


def _start(design: Floats, rng: np.random.Generator) -> npt.NDArray[np.bool_]:
    # A plane through the sizes, with a random direction and a random offset near the middle.
    scaled = design[:, 1:] / np.maximum(design[:, 1:].mean(axis=0), 1e-300)
    height = scaled @ rng.normal(size=scaled.shape[1])
    return np.asarray(height > np.quantile(height, rng.uniform(0.3, 0.7)))


def _search(design: Floats, target: Floats, second: npt.NDArray[np.bool_], min_rows: int) -> list[Floats] | None:
    for _ in range(_ROUNDS):
        if min(second.sum(), (~second).sum()) < min_rows:
            return None
        solutions = [fit_segment(design[chosen], target[chosen]) for chosen in (~second, second)]
        now = design @ solutions[1] > design @ solutions[0]
        if (now == second).all():
            break
        second = now
    return solutions
