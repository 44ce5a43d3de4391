"""Seconds of a training step as a function of the sizes of its batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nodebudget.calibration.memory_model import coefficient_name, coefficient_names, sum_per_graph
from nodebudget.calibration.piecewise_fit import fit_segment
from nodebudget.datasets.size_table import SizeTable
from nodebudget.errors import InputError


@dataclass(frozen=True)
class TimedStep:
    """A training step."""

    sizes: Mapping[str, float]  #: The batch, `graphs` and the sum of each size column.
    seconds: float  #: Median of its repeats.
    scatter: float = 0.0  #: Half the range of its repeats, as a fraction of the median.


@dataclass(frozen=True)
class TimeModel:
    """seconds = fixed + Σ coefficient × size.

    Attributes:
        coefficients: Seconds: `fixed` (kernel launches, optimizer), and per unit of each column (`per_graph`, …).
        mape: Mean absolute error on the steps of the fit, a fraction.
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
        columns = {coefficient_name(column): column for column in sizes.columns}
        names = (name for name in self.coefficients if name != "fixed")
        wanted = [columns.get(name, f"{name.removeprefix('per_')}s") for name in names]
        return sum_per_graph(self.coefficients, wanted, sizes)


def fit_times(steps: Sequence[TimedStep]) -> TimeModel:
    """Fit seconds to sizes with non-negative coefficients; raise an InputError over fewer steps than coefficients."""
    columns = list(steps[0].sizes)
    if len(steps) <= len(columns):
        raise InputError(
            f"{len(steps)} timed steps do not determine {len(columns) + 1} coefficients",
            hint="time more budgets, or more batches at each",
        )
    seconds = np.array([step.seconds for step in steps])
    design = np.array([[1.0, *(step.sizes[column] for column in columns)] for step in steps])
    solution = fit_segment(design, seconds)
    mape = float(np.abs(design @ solution / seconds - 1).mean())
    return TimeModel(dict(zip(coefficient_names(columns), solution.tolist(), strict=True)), mape)
