"""The prediction interval of a fitted cost, and whether its coefficients are identifiable."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

_MIN_SPREAD = 5e-4  #: Minimum of the relative spread: a few batches without an error do not show that there is none.
_MAX_RELATIVE_ERROR = 0.5  #: A coefficient is not identifiable if its standard error is over this share of it.


@dataclass(frozen=True)
class Determination:
    """How well the observations determine the coefficients."""

    condition: float  #: Condition number of the design matrix, its columns scaled to equal length; 1 is best.
    #: Bytes per unit, by coefficient name; None without spare observations.
    standard_errors: Mapping[str, float | None]
    #: Coefficients that are not identifiable on this data, which are zero, or with a standard error over half their
    #: value. Their sum with the others still holds for batches like the probes.
    undetermined: tuple[str, ...]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Determination:
        """Read what `dataclasses.asdict` returned."""
        return cls(float(values["condition"]), dict(values["standard_errors"]), tuple(values["undetermined"]))


def determine(rows: Floats, solution: Floats, names: Sequence[str]) -> Determination:
    """Return how well a least-squares fit of `rows @ solution` to ones is determined.

    Standard errors are those of ordinary least squares, the square roots of the diagonal of s² (XᵀX)⁻¹ (Draper and
    Smith, Applied Regression Analysis, chapter 5); the bound of the coefficients at zero is ignored. `rows` is the
    weighted design matrix, shape (observations, coefficients), `solution` bytes, shape (coefficients,).
    """
    scale = np.maximum(np.linalg.norm(rows, axis=0), 1e-300)
    scaled = rows / scale
    singular = np.linalg.svd(scaled, compute_uv=False)
    condition = float(singular[0] / max(singular[-1], singular[0] * 1e-16))
    spare = len(rows) - rows.shape[1]
    errors: list[float | None] = [None] * len(names)
    if spare > 0:
        variance = float(np.sum((rows @ solution - 1) ** 2)) / spare
        spread = np.diag(np.linalg.pinv(scaled.T @ scaled)) * variance
        errors = [float(value) for value in np.sqrt(spread) / scale]
    weak = tuple(
        name
        for name, value, error in zip(names, solution, errors, strict=True)
        if name != "fixed" and (value == 0 or error is None or error > _MAX_RELATIVE_ERROR * value)
    )
    return Determination(condition, dict(zip(names, errors, strict=True)), weak)


@dataclass(frozen=True)
class PredictionBound:
    """The upper end of a prediction interval.

    The relative errors on held-out batches are assumed normal with mean zero. The one-sided prediction interval of one
    further error is then t(quantile, n) × s × √(1 + 1/n) (Hahn and Meeker, Statistical Intervals, chapter 4). Beyond
    the largest measured step it widens in proportion to the bytes.
    """

    spread: float  #: Root mean square of the relative errors, s, a fraction of the predicted bytes.
    n: int  #: Number of the errors.
    max_measured: float  #: Bytes of the largest measured step.

    def margin(self, bytes_: npt.ArrayLike, quantile: float) -> Floats:
        """Return what to add to predicted bytes, as a fraction of them, of the shape of `bytes_`."""
        if self.n == 0:
            return np.zeros(np.shape(bytes_))
        inside = _student_quantile(quantile, int(self.n)) * max(self.spread, _MIN_SPREAD) * (1 + 1 / self.n) ** 0.5
        beyond = np.maximum(np.asarray(bytes_, dtype=np.float64) / max(self.max_measured, 1.0), 1.0)
        return np.asarray(inside * beyond, dtype=np.float64)

    def max_prediction(self, memory: float, quantile: float) -> float:
        """Return the largest mean prediction, bytes, whose upper bound is within `memory`, bytes."""
        # bound(b) = b (1 + m max(1, b / max_measured)) grows with b: solve the case that holds at memory.
        margin = float(self.margin(0.0, quantile))
        inside = memory / (1 + margin)
        if margin <= 0 or inside <= self.max_measured:
            return inside
        # The positive root of m / max_measured × b² + b - memory = 0, in the form without cancellation.
        return float(2 * memory / (1 + (1 + 4 * margin / self.max_measured * memory) ** 0.5))

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {"spread": self.spread, "n": self.n, "reach": self.max_measured}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> PredictionBound:
        """Read what `to_dict` returned."""
        return cls(values["spread"], values["n"], values["reach"])


@lru_cache
def _student_quantile(probability: float, n: int) -> float:
    """Return a quantile of Student's t distribution with n degrees of freedom, 1000 for more.

    Bisection of the finite series for P(|T| ≤ t) in the angle atan(t / √n): Abramowitz and Stegun, Handbook of
    Mathematical Functions, 26.7.3 and 26.7.4. scipy.special takes half a second to import.
    """
    n = min(n, 1000)
    odd, central = n % 2, abs(2 * probability - 1)
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        angle = (low + high) / 2
        sine, cosine = math.sin(angle), math.cos(angle)
        term, total = 1.0, 0.0
        for k in range(1, n // 2 + 1):
            total += term
            term *= cosine**2 * (2 * k - 1 + odd) / (2 * k + odd)
        within = 2 / math.pi * (angle + sine * cosine * total) if odd else sine * total
        low, high = (angle, high) if within < central else (low, angle)
    return math.copysign(math.sqrt(n) * math.tan(low), probability - 0.5)
