"""Seconds of a training step as a function of the sizes of its batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import nnls

from nodebudget.calibration.memory_model import coefficient_name
from nodebudget.datasets.size_table import SizeTable
from nodebudget.errors import InputError


@dataclass(frozen=True)
class TimedStep:
    """A training step.

    Attributes:
        sizes: The batch: `graphs` and the sum of each size column.
        seconds: Median of its repeats.
        scatter: Half the range of its repeats, as a fraction of the median.
    """

    sizes: Mapping[str, float]
    seconds: float
    scatter: float = 0.0


@dataclass(frozen=True)
class TimeModel:
    """seconds = fixed + Σ coefficient × size.

    Attributes:
        coefficients: Seconds: `fixed` (launching, optimizer) and one a unit of each column (`per_graph`, …).
        mape: Mean absolute error on the steps that it was fitted to, a fraction.
    """

    coefficients: Mapping[str, float]
    mape: float

    def predict_seconds(self, sizes: Mapping[str, float]) -> float:
        """Return the seconds of a step on a batch of these sizes."""
        return self.coefficients["fixed"] + sum(
            self.coefficients[coefficient_name(column)] * value for column, value in sizes.items()
        )

    def graph_seconds(self, sizes: SizeTable) -> npt.NDArray[np.float64]:
        """Return the seconds that each graph adds to a step, shape (graphs,).

        Raises:
            InputError: The sizes lack a column that the model depends on.
        """
        total = np.full(len(sizes), float(self.coefficients.get(coefficient_name("graphs"), 0.0)))
        for name, weight in self.coefficients.items():
            column = f"{name.removeprefix('per_')}s"
            if name != "fixed" and column != "graphs" and weight:
                total += weight * sizes[column]
        return total


def fit_times(steps: Sequence[TimedStep]) -> TimeModel:
    """Fit seconds to sizes: least squares on relative errors, with non-negative coefficients.

    Raises:
        InputError: Fewer steps than coefficients.
    """
    columns = list(steps[0].sizes)
    if len(steps) <= len(columns):
        raise InputError(
            f"{len(steps)} timed steps do not determine {len(columns) + 1} coefficients",
            hint="time more budgets, or more batches at each",
        )
    seconds = np.array([step.seconds for step in steps])
    rows = np.array([[1.0, *(step.sizes[column] for column in columns)] for step in steps]) / seconds[:, None]
    # Columns differ by orders of magnitude; NNLS is better behaved when they do not.
    scale = np.maximum(rows.max(axis=0), 1e-300)
    solution, _ = nnls(rows / scale, np.ones(len(steps)))
    found: npt.NDArray[np.float64] = solution / scale
    names = ["fixed", *map(coefficient_name, columns)]
    return TimeModel(dict(zip(names, found.tolist(), strict=True)), float(np.abs(rows @ found - 1).mean()))
