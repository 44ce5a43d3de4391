"""From measured training steps to a calibration."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nodebudget.calibration.memory_model import Calibration, ErrorSummary, Observation, coefficient_names
from nodebudget.calibration.piecewise_fit import fit_segment, fit_two_segments, maximum
from nodebudget.calibration.prediction_interval import Determination, PredictionBound, determine
from nodebudget.errors import InputError

Floats = npt.NDArray[np.float64]

_MIN_GAIN = 5e-4  #: A second segment must lower the mean held-out error by at least this fraction, and by half.
_FLOOR = 1.02  #: The peak of the lightest step is the floor if it is more than this factor above the segments.

#: Columns that have a coefficient in every record, zero if the data has no such column.
_STANDARD = ("graphs", "nodes", "edges", "line_edges")


def fit_calibration(
    observations: Sequence[Observation],
    columns: Sequence[str],
    *,
    context: Mapping[str, Any] | None = None,
) -> Calibration:
    """Fit the coefficients to the observations of role "fit" and check them on those of role "holdout".

    The fit has one segment (`nodebudget.calibration.piecewise_fit.fit_segment`), or two if the held-out steps are
    predicted clearly better. The floor is the observation of role "floor" if that is above the segments, else the
    resident bytes. Warns (UserWarning) if the bytes do not depend on any size. `graphs` is added to the columns.

    Raises:
        InputError: Fewer steps to fit than coefficients, or none to estimate the error from.
    """
    names = tuple(dict.fromkeys(("graphs", *columns)))
    by_role = {role: [entry for entry in observations if entry.role == role] for role in ("fit", "holdout", "floor")}
    fitted, held_out = by_role["fit"], by_role["holdout"]
    if len(fitted) <= len(names):
        raise InputError(
            f"{len(fitted)} measured steps do not determine {len(names) + 1} coefficients",
            hint="allow more probes, or free memory for them",
        )
    resident = float(np.median([entry.resident for entry in fitted]))
    segments = _solve(fitted, held_out, names)
    linear = _Fit(names, segments)
    lightest = [entry.peak for entry in by_role["floor"] if entry.peak > _FLOOR * linear.predict([entry]).item()]
    fit = _Fit(names, segments, max([resident, *map(float, lightest)]))
    zeros = dict.fromkeys(coefficient_names(_STANDARD), 0.0)
    main, *further = [zeros | dict(zip(coefficient_names(names), values.tolist(), strict=True)) for values in segments]
    calibration = Calibration(
        coefficients=main,
        columns=names,
        floor=fit.floor,
        resident=resident,
        holdout=_errors(held_out, fit),
        fit=_errors(fitted, fit),
        further_segments=tuple(further),
        bound=_bound(fitted, held_out, fit),
        determination=_determination(fitted, fit),
        observations=tuple(observations),
        context=context or {},
    )
    if calibration.is_flat:
        warnings.warn(
            "the measured steps take the same memory whatever the batch, so that no budget can be made of them; "
            "calibrate with larger probes (--max-graphs) or on other crystals",
            stacklevel=2,
        )
    return calibration


def choose_columns(
    observations: Sequence[Observation], columns: Sequence[str], candidates: Sequence[str]
) -> tuple[str, ...]:
    """Return the columns without those candidates that do not improve the predictions of held-out steps."""
    fitted, held_out = ([entry for entry in observations if entry.role == role] for role in ("fit", "holdout"))
    names = tuple(dict.fromkeys(("graphs", *columns)))

    def error(chosen: tuple[str, ...]) -> float:
        fit = _Fit(chosen, _solve(fitted, held_out, chosen))
        return float(np.abs(fit.predict(held_out) / _peaks(held_out) - 1).mean())

    if len(fitted) <= len(names) or not held_out:
        return tuple(name for name in names if name not in candidates)
    for name in reversed(candidates):
        without = tuple(other for other in names if other != name)
        if error(without) <= 1.1 * error(names) + _MIN_GAIN:
            names = without
    return names


@dataclass(frozen=True)
class _Fit:
    """Coefficients of each segment in the order of `coefficient_names(names)`, and the floor in bytes."""

    names: tuple[str, ...]
    segments: list[Floats]
    floor: float = 0.0

    def predict(self, observations: Sequence[Observation]) -> Floats:
        return np.maximum(maximum(_design(observations, self.names), self.segments), self.floor)


def _design(observations: Sequence[Observation], names: Sequence[str]) -> Floats:
    return np.array([[1.0, *(entry.sizes[name] for name in names)] for entry in observations])


def _peaks(observations: Sequence[Observation]) -> Floats:
    # The whole peak is fitted, not only what is above the resident bytes: a step first frees the old gradients, so
    # the line of the large steps may start below the resident bytes.
    return np.array([float(entry.peak) for entry in observations])


def _solve(fitted: Sequence[Observation], held_out: Sequence[Observation], names: Sequence[str]) -> list[Floats]:
    """Fit one segment, or two if those predict the held-out steps clearly better."""
    design, target = _design(fitted, names), _peaks(fitted)
    one = [fit_segment(design, target)]
    two = fit_two_segments(design, target, np.random.default_rng(0))
    if two is None or not held_out:
        return one
    checks = _design(held_out, names)
    errors = [float(np.abs(maximum(checks, segments) / _peaks(held_out) - 1).mean()) for segments in (one, two)]
    if errors[0] - errors[1] < _MIN_GAIN or errors[1] > 0.5 * errors[0]:
        return one
    # The main segment is the one that holds for most batches of the user's own data.
    return two if (checks @ two[0] >= checks @ two[1]).mean() >= 0.5 else two[::-1]


def _determination(fitted: Sequence[Observation], fit: _Fit) -> Determination:
    design = _design(fitted, fit.names)
    main = design @ fit.segments[0] >= maximum(design, fit.segments)
    rows = design[main] / _peaks(fitted)[main, None]
    return determine(np.asarray(rows, dtype=np.float64), fit.segments[0], coefficient_names(fit.names))


def _bound(fitted: Sequence[Observation], held_out: Sequence[Observation], fit: _Fit) -> PredictionBound:
    checked = held_out or fitted
    # Each coefficient takes one degree of freedom from the fitted steps.
    free = len(held_out) or len(fitted) - sum(map(len, fit.segments))
    if free < 1:
        raise InputError(
            f"{len(checked)} measured steps, as many as coefficients, and none held out",
            limit="the error of the predictions is unknown then",
            hint="measure more steps, or hold some out",
        )
    relative = _peaks(checked) / fit.predict(checked) - 1
    max_measured = max(float(entry.peak) for entry in [*fitted, *held_out])
    return PredictionBound(float(np.sqrt(np.sum(relative**2) / free)), free, max_measured)


def _errors(observations: Sequence[Observation], fit: _Fit) -> ErrorSummary:
    if not observations:
        return ErrorSummary(mape=0.0, max_under=0.0, n=0)
    above = np.array([max(entry.peak - entry.resident, 1.0) for entry in observations])
    relative = (fit.predict(observations) - _peaks(observations)) / above
    # Adding zero turns -0.0 into 0.0.
    max_under = float(max(-relative.min(), 0.0) + 0.0)
    return ErrorSummary(mape=float(np.abs(relative).mean()), max_under=max_under, n=len(observations))
