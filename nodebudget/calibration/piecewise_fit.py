"""A peak is a maximum over moments of a step, each affine in the sizes: fitting such maxima."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.optimize import nnls

Floats = npt.NDArray[np.float64]

#: Random starts of the search for two pieces, and rounds of each.
_STARTS = 40
_ROUNDS = 40


def fit_affine(design: Floats, target: Floats) -> Floats:
    """Fit one affine piece with non-negative coefficients by least squares on relative errors.

    Lawson and Hanson's NNLS, as in SciPy: a negative price of an edge would let a planner earn memory with edges.

    Args:
        design: Ones and sizes, shape (observations, coefficients).
        target: Bytes, shape (observations,), positive.

    Returns:
        Coefficients, shape (coefficients,).
    """
    # What is the same in every observation can't be told from the constant, and is left to it.
    varies = np.ptp(design, axis=0) > 0
    varies[0] = True
    rows = design[:, varies] / target[:, None]
    # Columns differ by orders of magnitude; NNLS is better behaved when they do not.
    scale = np.maximum(np.abs(rows).max(axis=0), 1e-300)
    solution, _ = nnls(rows / scale, np.ones(len(rows)))
    found = np.zeros(design.shape[1])
    found[varies] = solution / scale
    return found


def fit_two(design: Floats, target: Floats, rng: np.random.Generator) -> list[Floats] | None:
    """Fit the maximum of two affine pieces.

    By turns each observation goes to the piece that is larger there, and each piece is fitted to its own (A. Magnani
    and S. P. Boyd, Convex piecewise-linear fitting, Optimization and Engineering 10, 2009), from several random starts.

    Args:
        design: As for `fit_affine`.
        target: As for `fit_affine`.
        rng: Source of the starts.

    Returns:
        Two solutions, the better determined first; None where there are too few observations for two.
    """
    least = design.shape[1] + 1
    if len(target) < 2 * least:
        return None
    best: tuple[float, list[Floats]] | None = None
    for _ in range(_STARTS):
        found = _search(design, target, _start(design, rng), least)
        if found is not None:
            error = float(np.abs(maximum(design, found) / target - 1).mean())
            if best is None or error < best[0]:
                best = error, found
    return None if best is None else best[1]


def maximum(design: Floats, solutions: Sequence[Floats]) -> Floats:
    """Return the largest of the pieces at each observation, shape (observations,)."""
    return np.asarray(np.max([design @ solution for solution in solutions], axis=0), dtype=np.float64)


def _start(design: Floats, rng: np.random.Generator) -> npt.NDArray[np.bool_]:
    # A cut through the cloud of sizes in a random direction, at a random place in its middle.
    scaled = design[:, 1:] / np.maximum(design[:, 1:].mean(axis=0), 1e-300)
    height = scaled @ rng.normal(size=scaled.shape[1])
    return np.asarray(height > np.quantile(height, rng.uniform(0.3, 0.7)))


def _search(design: Floats, target: Floats, second: npt.NDArray[np.bool_], least: int) -> list[Floats] | None:
    for _ in range(_ROUNDS):
        if min(second.sum(), (~second).sum()) < least:
            return None
        solutions = [fit_affine(design[chosen], target[chosen]) for chosen in (~second, second)]
        now = design @ solutions[1] > design @ solutions[0]
        if (now == second).all():
            break
        second = now
    return solutions
