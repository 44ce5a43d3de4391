"""Bytes of a training step as a function of the sizes of its batch."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nodebudget.errors import InputError, RecordError
from nodebudget.pieces import fit_affine, fit_two, maximum
from nodebudget.record import read_record, write_record
from nodebudget.sizes import SizeTable
from nodebudget.uncertainty import Bound, Determination, determine

KIND = "nodebudget.calibration"
SCHEMA_VERSION = 1

Floats = npt.NDArray[np.float64]

#: Budgets hold with this probability, a batch.
SURE = 0.99

#: Predictions over so many times the largest probe are warned of.
_FAR = 2.0

#: Two pieces are taken where they lower the mean held-out error by at least this fraction, and by half.
_WORTH = 5e-4

#: The lightest step is a floor, and no point of the line, when it takes so many times what the line says.
_FLOOR = 1.02

#: Coefficients that every record has, zero where the data has no such column.
_ALWAYS = ("graphs", "nodes", "edges", "line_edges")


def coefficient_name(column: str) -> str:
    """Return the name of a column's coefficient: "line_edges" → "per_line_edge"."""
    return f"per_{column.removesuffix('s')}"


@dataclass(frozen=True)
class Observation:
    """One measured training step.

    Attributes:
        sizes: The batch: `graphs` and the sum of each size column.
        peak: Highest bytes of live tensors during the step, resident ones included.
        resident: Bytes of live tensors before the step.
        reserved: Bytes that the allocator held from the device at the highest; None on the CPU.
        outside: Bytes of the device that PyTorch did not hold; None on the CPU.
        seconds: Wall-clock time of the step while it was measured.
        role: "fit", "holdout", "floor" (the lightest step), "repeat" (of a held-out one), or "out-of-memory" (then
            `peak` is what was free: a lower bound).
    """

    sizes: Mapping[str, float]
    peak: int
    resident: int
    role: str
    reserved: int | None = None
    outside: int | None = None
    seconds: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {**self.__dict__, "sizes": dict(self.sizes)}


@dataclass(frozen=True)
class ErrorSummary:
    """How far predictions were from measurements, relative to the measured bytes above the resident ones.

    Attributes:
        mape: Mean absolute error, a fraction (0.01 is one percent).
        max_under: Largest underprediction, a fraction; 0 if none was under.
        n: Number of measured steps.
    """

    mape: float
    max_under: float
    n: int


@dataclass(frozen=True)
class Calibration:
    """bytes = max(floor, fixed + Σ coefficient × size, further pieces), with its error and where it came from.

    Attributes:
        coefficients: Bytes: `fixed` (parameters, gradients, optimizer state and all else that does not
            depend on the batch) and one a unit of each column (`per_graph`, `per_node`, …).
        columns: Size columns that the prediction needs, `graphs` among them.
        pieces: Further affine pieces, with the same names as `coefficients`: the peak is a maximum over moments of the
            step, and the data may show more than one of them. The first piece is the one that holds for most batches.
        floor: Bytes of the smallest step: small batches peak in the optimizer, whatever their size.
        resident: Bytes that live between steps; part of `fixed`.
        holdout: Error on batches that the fit has not seen.
        fit: Error on the batches that it was fitted to.
        bound: What to add to a prediction to be sure of it.
        determination: How well the coefficients are told apart.
        observations: The raw measurements.
        context: Device, versions, model, data: for the record.
    """

    coefficients: Mapping[str, float]
    columns: tuple[str, ...]
    floor: float
    resident: float
    holdout: ErrorSummary
    fit: ErrorSummary
    pieces: tuple[Mapping[str, float], ...] = ()
    bound: Bound = field(default_factory=lambda: Bound(0.0, 0, 0.0))
    determination: Determination | None = None
    observations: tuple[Observation, ...] = ()
    context: Mapping[str, Any] = field(default_factory=dict)

    @property
    def fixed(self) -> float:
        """Bytes that do not depend on the batch."""
        return self.coefficients["fixed"]

    def coefficient(self, column: str) -> float:
        """Return the bytes a unit of a column."""
        return self.coefficients.get(coefficient_name(column), 0.0)

    def predict_bytes(
        self,
        *,
        nodes: npt.ArrayLike | None = None,
        edges: npt.ArrayLike | None = None,
        line_edges: npt.ArrayLike | None = None,
        graphs: npt.ArrayLike | None = None,
        quantile: float | None = None,
        **further: npt.ArrayLike,
    ) -> Any:
        """Predict the peak bytes of a training step, resident ones included.

        Warns (UserWarning) when a bound is asked for far beyond the largest step that was measured.

        Args:
            nodes: Nodes of the whole batch; a number or an array of shape (batches,). The others likewise.
            edges: Edges.
            line_edges: Edges of the line graphs.
            graphs: Graphs.
            quantile: None for the mean prediction; 0.99, say, for an upper bound that holds with that probability.
            **further: Further columns that the calibration knows.

        Returns:
            Bytes; a float for numbers, an array of shape (batches,) for arrays.

        Raises:
            InputError: A size that the prediction depends on is not given, or a quantile outside (0, 1).
        """
        given = {"graphs": graphs, "nodes": nodes, "edges": edges, "line_edges": line_edges, **further}
        bytes_: Any = self.floor
        for piece in self.affine:
            bytes_ = np.maximum(bytes_, self._total(piece, given))
        if quantile is not None:
            bytes_ = self._upper(bytes_, quantile)
        return bytes_ if np.ndim(bytes_) else float(bytes_)

    @property
    def affine(self) -> tuple[Mapping[str, float], ...]:
        """All affine pieces, the main one first."""
        return (self.coefficients, *self.pieces)

    def _total(self, piece: Mapping[str, float], given: Mapping[str, Any]) -> Any:
        total: Any = piece["fixed"]
        for column in self.columns:
            weight = piece.get(coefficient_name(column), 0.0)
            if weight and given.get(column) is None:
                raise InputError(
                    f"the prediction depends on {column}, which is not given",
                    limit=f"this calibration knows {', '.join(self.columns)}",
                    hint=f"pass {column}=…",
                )
            if weight:
                total = total + weight * np.asarray(given[column], dtype=np.float64)
        return total

    def _upper(self, bytes_: Floats, quantile: float) -> Floats:
        if not 0 < quantile < 1:
            raise InputError(f"a quantile of {quantile!r}", limit="between 0 and 1", hint="0.99 is usual")
        far = float(np.max(bytes_, initial=0.0)) / max(self.bound.reach, 1.0)
        if self.bound.n and far > _FAR:
            warnings.warn(
                f"this prediction is {far:.1f} times the largest step that was measured; "
                "calibrate with larger probes (--max-graphs) to be surer of it",
                stacklevel=3,
            )
        return bytes_ * (1 + self.bound.margin(bytes_, quantile))

    def room(self, memory: float, quantile: float = SURE) -> float:
        """Return the largest mean prediction, bytes, whose upper bound is within `memory`, bytes."""
        return self.bound.room(memory, quantile)

    def graph_bytes(self, sizes: SizeTable, piece: int = 0) -> Floats:
        """Return the bytes that each graph adds to a batch, by one affine piece, shape (graphs,).

        Raises:
            InputError: The sizes lack a column that the calibration depends on.
        """
        chosen = self.affine[piece]
        total = np.full(len(sizes), float(chosen.get(coefficient_name("graphs"), 0.0)))
        for column in self.columns:
            weight = chosen.get(coefficient_name(column), 0.0)
            if column != "graphs" and weight:
                total += weight * sizes[column]
        return total

    def save(self, path: str | os.PathLike[str], *, force: bool = False) -> Path:
        """Write the calibration as JSON.

        Raises:
            InputError: The file exists and `force` is not set, or can't be written.
        """
        return write_record(path, KIND, SCHEMA_VERSION, self.to_dict(), force=force)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Calibration:
        """Read what `save` wrote.

        Raises:
            RecordError: It is missing, damaged, something else, or of another schema version.
        """
        record = read_record(path, KIND, SCHEMA_VERSION)
        try:
            return cls._from_dict(record)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise RecordError(
                f"{str(path)!r} is a damaged calibration: {type(error).__name__}: {error}",
                hint="calibrate again",
            ) from error

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "coefficients": dict(self.coefficients),
            "columns": list(self.columns),
            "pieces": [dict(piece) for piece in self.pieces],
            "floor": self.floor,
            "resident": self.resident,
            "holdout": dict(self.holdout.__dict__),
            "fit": dict(self.fit.__dict__),
            "bound": self.bound.to_dict(),
            "determination": None if self.determination is None else self.determination.to_dict(),
            "observations": [observation.to_dict() for observation in self.observations],
            **self.context,
        }

    @classmethod
    def _from_dict(cls, record: dict[str, Any]) -> Calibration:
        own = set(cls.__dataclass_fields__) - {"context"}
        coefficients = _piece(record["coefficients"])
        if not all(math.isfinite(float(record[name])) for name in ("floor", "resident")):
            raise ValueError("floor and resident must be finite")
        return cls(
            coefficients=coefficients,
            columns=tuple(str(column) for column in record["columns"]),
            floor=float(record["floor"]),
            resident=float(record["resident"]),
            holdout=ErrorSummary(**record["holdout"]),
            fit=ErrorSummary(**record["fit"]),
            pieces=tuple(_piece(piece) for piece in record["pieces"]),
            bound=Bound(**record["bound"]),
            determination=record["determination"] and Determination.from_dict(record["determination"]),
            observations=tuple(Observation(**entry) for entry in record["observations"]),
            context={
                key: value for key, value in record.items() if key not in own and key not in ("kind", "schema_version")
            },
        )


def fit_calibration(
    observations: Sequence[Observation],
    columns: Sequence[str],
    *,
    context: Mapping[str, Any] | None = None,
) -> Calibration:
    """Fit the coefficients to the observations of role "fit" and check them on those of role "holdout".

    One affine piece (`nodebudget.pieces.fit_affine`), or two where the held-out steps demand them. The floor is the
    observation of role "floor" where that is above the pieces, else what is resident.

    Args:
        observations: Measured steps.
        columns: Size columns to fit, `graphs` among them or not.
        context: Further facts for the record.

    Raises:
        InputError: Fewer steps to fit than coefficients.
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
    zeros = {coefficient_name(name): 0.0 for name in _ALWAYS}
    pieces = [zeros | dict(zip(coefficients_of(names), map(float, solution), strict=True)) for solution in solutions]

    def summary(role: str) -> ErrorSummary:
        chosen = [entry for entry in observations if entry.role == role]
        return _errors(chosen, names, solutions, floor)

    return Calibration(
        coefficients=pieces[0],
        columns=names,
        pieces=tuple(pieces[1:]),
        floor=floor,
        resident=resident,
        holdout=summary("holdout"),
        fit=summary("fit"),
        bound=_bound(observations, names, solutions, floor),
        determination=_determination(fitted, names, solutions),
        observations=tuple(observations),
        context=context or {},
    )


def _design(observations: Sequence[Observation], names: Sequence[str]) -> Floats:
    return np.array([[1.0, *(entry.sizes[name] for name in names)] for entry in observations])


def coefficients_of(names: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the coefficients of these columns, `fixed` first."""
    return ("fixed", *(coefficient_name(name) for name in names))


def _piece(values: Mapping[str, Any]) -> dict[str, float]:
    piece = {str(name): float(value) for name, value in values.items()}
    if not all(math.isfinite(value) and value >= 0 for value in piece.values()):
        raise ValueError("coefficients must be finite and not negative")
    if "fixed" not in piece:
        raise KeyError("fixed")
    return piece


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
    checked = [entry for entry in observations if entry.role == "holdout"]
    checked = checked or [entry for entry in observations if entry.role == "fit"]
    relative = _peaks(checked) / _predictions(checked, names, solutions, floor) - 1
    reach = max(float(entry.peak) for entry in observations if entry.role in ("fit", "holdout"))
    return Bound(float(np.sqrt(np.mean(relative**2))), len(checked), reach)


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
