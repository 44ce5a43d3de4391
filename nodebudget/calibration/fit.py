"""From measured training steps to a calibration."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from nodebudget.calibration.memory_model import Calibration, ErrorSummary, Observation, coefficient_name
from nodebudget.calibration.piecewise_fit import fit_affine, fit_two, maximum
from nodebudget.calibration.prediction_interval import Bound, Determination, determine
from nodebudget.errors import InputError

Floats = npt.NDArray[np.float64]

#: Two pieces are taken where they lower the mean held-out error by at least this fraction, and by half.
_WORTH = 5e-4

#: The lightest step is a floor, and no point of the line, when it takes so many times what the line says.
_FLOOR = 1.02

#: Coefficients that every record has, zero where the data has no such column.
_ALWAYS = ("graphs", "nodes", "edges", "line_edges")


def fit_calibration(
    observations: Sequence[Observation],
    columns: Sequence[str],
    *,
    context: Mapping[str, Any] | None = None,
) -> Calibration:
    """Fit the coefficients to the observations of role "fit" and check them on those of role "holdout".

    One affine piece (`nodebudget.calibration.piecewise_fit.fit_affine`), or two where the held-out steps demand them. The floor is the
    observation of role "floor" where that is above the pieces, else what is resident.

    Args:
        observations: Measured steps.
        columns: Size columns to fit, `graphs` among them or not.
        context: Further facts for the record.

    Raises:
        InputError: Fewer steps to fit than coefficients, or none to tell the error from.

    Warns (UserWarning) when no size costs anything.
    """
    names = tuple(dict.fromkeys(("graphs", *columns)))
    fitted = [entry for entry in observations if entry.role == "fit"]
    if len(fitted) <= len(names):
        raise InputError(
            f"{len(fitted)} measured steps do not determine {len(names) + 1} coefficients",
            hint="allow more probes, or free memory for them",
        )
    resident = float(np.median([entry.resident for entry in fitted]))
    held = [entry for entry in observations if entry.role == "holdout"]
    solutions = _solve(fitted, held, names)
    lightest = [entry for entry in observations if entry.role == "floor"]
    floor = max([resident, *(float(entry.peak) for entry in lightest if _is_floor(entry, names, solutions))])
    zeros = dict.fromkeys(coefficients_of(_ALWAYS), 0.0)
    bound = _bound(observations, names, solutions, floor)
    pieces = [zeros | dict(zip(coefficients_of(names), map(float, solution), strict=True)) for solution in solutions]

    def summary(role: str) -> ErrorSummary:
        chosen = [entry for entry in observations if entry.role == role]
        return _errors(chosen, names, solutions, floor)

    found = Calibration(
        coefficients=pieces[0],
        columns=names,
        pieces=tuple(pieces[1:]),
        floor=floor,
        resident=resident,
        holdout=summary("holdout"),
        fit=summary("fit"),
        bound=bound,
        determination=_determination(fitted, names, solutions),
        observations=tuple(observations),
        context=context or {},
    )
    if found.is_flat:
        warnings.warn(
            "the measured steps take the same memory whatever the batch, so that no budget can be made of them; "
            "calibrate with larger probes (--max-graphs) or on other crystals",
            stacklevel=2,
        )
    return found


def _design(observations: Sequence[Observation], names: Sequence[str]) -> Floats:
    return np.array([[1.0, *(entry.sizes[name] for name in names)] for entry in observations])


def coefficients_of(names: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the coefficients of these columns, `fixed` first."""
    return ("fixed", *(coefficient_name(name) for name in names))


def _peaks(observations: Sequence[Observation]) -> Floats:
    # The whole peak is fitted, not what is above the resident bytes: a step first releases the last gradients,
    # so the line of the large steps may start below what is resident.
    return np.array([float(entry.peak) for entry in observations])


def _solve(fitted: Sequence[Observation], held: Sequence[Observation], names: Sequence[str]) -> list[Floats]:
    """Fit one affine piece, or two where those predict the held-out steps clearly better: the simpler wins ties."""
    design, target = _design(fitted, names), _peaks(fitted)
    one = [fit_affine(design, target)]
    two = fit_two(design, target, np.random.default_rng(0))
    if two is None or not held:
        return one
    checks = _design(held, names)
    errors = [float(np.abs(maximum(checks, pieces) / _peaks(held) - 1).mean()) for pieces in (one, two)]
    if errors[0] - errors[1] < _WORTH or errors[1] > 0.5 * errors[0]:
        return one
    # The main piece is the one that holds for most batches of the user's own data.
    first = (checks @ two[0] >= checks @ two[1]).mean() >= 0.5
    return two if first else two[::-1]


def _determination(fitted: Sequence[Observation], names: Sequence[str], solutions: Sequence[Floats]) -> Determination:
    design = _design(fitted, names)
    main = design @ solutions[0] >= maximum(design, solutions)
    rows = design[main] / _peaks(fitted)[main, None]
    return determine(np.asarray(rows, dtype=np.float64), solutions[0], list(coefficients_of(names)))


def _is_floor(entry: Observation, names: Sequence[str], solutions: Sequence[Floats]) -> bool:
    return bool(entry.peak > _FLOOR * maximum(_design([entry], names), solutions)[0])


def _predictions(
    observations: Sequence[Observation], names: Sequence[str], solutions: Sequence[Floats], floor: float
) -> Floats:
    return np.maximum(maximum(_design(observations, names), solutions), floor)


def _bound(
    observations: Sequence[Observation], names: Sequence[str], solutions: Sequence[Floats], floor: float
) -> Bound:
    held = [entry for entry in observations if entry.role == "holdout"]
    checked = held or [entry for entry in observations if entry.role == "fit"]
    # The steps that were fitted to lie nearer to the fit than others will: by as many as there are coefficients.
    free = len(held) or len(checked) - sum(map(len, solutions))
    if free < 1:
        raise InputError(
            f"{len(checked)} measured steps, as many as coefficients, and none to check on",
            limit="how far the predictions are off is not known then",
            hint="measure more steps, or hold some out",
        )
    relative = _peaks(checked) / _predictions(checked, names, solutions, floor) - 1
    reach = max(float(entry.peak) for entry in observations if entry.role in ("fit", "holdout"))
    return Bound(float(np.sqrt(np.sum(relative**2) / free)), free, reach)


def _errors(
    observations: Sequence[Observation], names: Sequence[str], solutions: Sequence[Floats], floor: float
) -> ErrorSummary:
    if not observations:
        return ErrorSummary(mape=0.0, max_under=0.0, n=0)
    above = np.array([max(entry.peak - entry.resident, 1.0) for entry in observations])
    relative = (_predictions(observations, names, solutions, floor) - _peaks(observations)) / above
    return ErrorSummary(
        mape=float(np.abs(relative).mean()),
        # Adding zero turns -0.0 into 0.0.
        max_under=float(max(-relative.min(), 0.0) + 0.0),
        n=len(observations),
    )
