"""How far a fitted cost can be trusted: what the data tells apart, and how much to add to be sure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

#: Errors are taken to be at least this fraction: a handful of batches without any does not show that there is none.
_LEAST_SPREAD = 5e-4

#: A coefficient whose standard error is over this share of it is not told apart from the others.
_TOLD_APART = 0.5


@dataclass(frozen=True)
class Determination:
    """How well the observations determine the coefficients.

    Attributes:
        condition: Condition number of the design, its columns scaled to equal length; 1 is best.
        standard_errors: Bytes a unit, by coefficient name; None where there are no spare observations.
        undetermined: Coefficients that the data can't tell apart: zero, or with a standard error over half of
            them. Their sum with the others is still right for batches like those that were probed.
    """

    condition: float
    standard_errors: Mapping[str, float | None]
    undetermined: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "condition": self.condition,
            "standard_errors": dict(self.standard_errors),
            "undetermined": list(self.undetermined),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Determination:
        """Make it of what `to_dict` gave."""
        return cls(float(values["condition"]), dict(values["standard_errors"]), tuple(values["undetermined"]))


def determine(rows: Floats, solution: Floats, names: Sequence[str]) -> Determination:
    """Say how well a least-squares fit of `rows @ solution` to ones is determined.

    Standard errors are those of ordinary least squares, the square roots of the diagonal of s² (XᵀX)⁻¹ (Draper and
    Smith, Applied Regression Analysis, chapter 5): the bound at zero is left out of account.

    Args:
        rows: Weighted design, shape (observations, coefficients).
        solution: Coefficients, shape (coefficients,), bytes.
        names: Their names.
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
        if name != "fixed" and (value == 0 or error is None or error > _TOLD_APART * value)
    )
    return Determination(condition, dict(zip(names, errors, strict=True)), weak)


@dataclass(frozen=True)
class Bound:
    """How much to add to a prediction so that it holds with a given probability.

    The relative errors on batches that the fit had not seen are taken as normal around zero, which gives the
    prediction interval of a further one: t(quantile, n) × s × √(1 + 1/n) (as for the mean of a sample: Hahn and
    Meeker, Statistical Intervals, chapter 4). Beyond the largest probe it widens in proportion.

    Attributes:
        spread: Root mean square of the relative errors, s, a fraction of the predicted bytes.
        n: Number of the errors.
        reach: Bytes of the largest step that was measured.
    """

    spread: float
    n: int
    reach: float

    def margin(self, bytes_: npt.ArrayLike, quantile: float) -> Floats:
        """Return what to add to predicted bytes, as a fraction of them, of the shape of `bytes_`."""
        if self.n == 0:
            return np.zeros(np.shape(bytes_))
        from scipy.special import stdtrit  # takes a second to import

        spread = max(self.spread, _LEAST_SPREAD)
        sure = float(stdtrit(self.n, quantile)) * spread * (1 + 1 / self.n) ** 0.5
        beyond = np.maximum(np.asarray(bytes_, dtype=np.float64) / max(self.reach, 1.0), 1.0)
        return np.asarray(sure * beyond, dtype=np.float64)

    def room(self, memory: float, quantile: float) -> float:
        """Return the largest prediction whose bound is within `memory`, bytes."""
        # bound(b) = b (1 + m max(1, b / reach)) grows with b: solve the piece that holds at memory.
        sure = float(self.margin(0.0, quantile))
        inside = memory / (1 + sure)
        if sure <= 0 or inside <= self.reach:
            return inside
        # The positive root of m / reach × b² + b - memory = 0, in the form that does not cancel.
        return float(2 * memory / (1 + (1 + 4 * sure / self.reach * memory) ** 0.5))

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return dict(self.__dict__)
