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
from scipy.optimize import nnls

from nodebudget.errors import InputError, RecordError
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
    """bytes = max(floor, fixed + Σ coefficient × size), with its error and where it came from.

    Attributes:
        coefficients: Bytes: `fixed` (parameters, gradients, optimizer state and all else that does not
            depend on the batch) and one a unit of each column (`per_graph`, `per_node`, …).
        columns: Size columns that the prediction needs, `graphs` among them.
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
        total: Any = self.fixed
        for column in self.columns:
            weight = self.coefficient(column)
            if given.get(column) is None:
                if weight:
                    raise InputError(
                        f"the prediction depends on {column}, which is not given",
                        limit=f"this calibration knows {', '.join(self.columns)}",
                        hint=f"pass {column}=…",
                    )
                continue
            total = total + weight * np.asarray(given[column], dtype=np.float64)
        bytes_ = np.maximum(total, self.floor)
        if quantile is not None:
            bytes_ = self._upper(bytes_, quantile)
        return bytes_ if np.ndim(bytes_) else float(bytes_)

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

    def graph_bytes(self, sizes: SizeTable) -> Floats:
        """Return the bytes that each graph adds to a batch, shape (graphs,).

        Raises:
            InputError: The sizes lack a column that the calibration depends on.
        """
        total = np.full(len(sizes), self.coefficient("graphs"))
        for column in self.columns:
            if column != "graphs" and self.coefficient(column):
                total += self.coefficient(column) * sizes[column]
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
        coefficients = {str(name): float(value) for name, value in record["coefficients"].items()}
        numbers = [*coefficients.values(), float(record["floor"]), float(record["resident"])]
        if not all(math.isfinite(number) for number in numbers) or min(coefficients.values()) < 0:
            raise ValueError("coefficients must be finite and not negative")
        if "fixed" not in coefficients:
            raise KeyError("fixed")
        return cls(
            coefficients=coefficients,
            columns=tuple(str(column) for column in record["columns"]),
            floor=float(record["floor"]),
            resident=float(record["resident"]),
            holdout=ErrorSummary(**record["holdout"]),
            fit=ErrorSummary(**record["fit"]),
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

    Least squares on relative errors with non-negative coefficients (Lawson and Hanson's NNLS, as in SciPy):
    a negative price of an edge would let a planner earn memory with edges. The floor is the observation of role
    "floor" where that is above the line, else what is resident.

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
    solution = _solve(_weighted(fitted, names))
    lightest = [entry for entry in observations if entry.role == "floor"]
    floor = max([resident, *(float(entry.peak) for entry in lightest if _is_floor(entry, names, solution))])
    coefficients = {"fixed": float(solution[0])}
    coefficients |= {coefficient_name(name): 0.0 for name in _ALWAYS}
    coefficients |= dict(zip(coefficients_of(names), map(float, solution), strict=True))

    def summary(role: str) -> ErrorSummary:
        chosen = [entry for entry in observations if entry.role == role]
        return _errors(chosen, names, solution, floor)

    return Calibration(
        coefficients=coefficients,
        columns=names,
        floor=floor,
        resident=resident,
        holdout=summary("holdout"),
        fit=summary("fit"),
        bound=_bound(observations, names, solution, floor),
        determination=determine(_weighted(fitted, names), solution, list(coefficients_of(names))),
        observations=tuple(observations),
        context=context or {},
    )


def _design(observations: Sequence[Observation], names: Sequence[str]) -> Floats:
    return np.array([[1.0, *(entry.sizes[name] for name in names)] for entry in observations])


def coefficients_of(names: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the coefficients of these columns, `fixed` first."""
    return ("fixed", *(coefficient_name(name) for name in names))


def _weighted(observations: Sequence[Observation], names: Sequence[str]) -> Floats:
    # The whole peak is fitted, not what is above the resident bytes: a step first releases the last gradients,
    # so the line of the large steps may start below what is resident.
    target = np.array([float(entry.peak) for entry in observations])
    return np.asarray(_design(observations, names) / target[:, None], dtype=np.float64)


def _solve(rows: Floats) -> Floats:
    # Columns differ by orders of magnitude; NNLS is better behaved when they do not.
    scale = np.maximum(np.abs(rows).max(axis=0), 1e-300)
    solution, _ = nnls(rows / scale, np.ones(len(rows)))
    return np.asarray(solution / scale, dtype=np.float64)


def _is_floor(entry: Observation, names: Sequence[str], solution: Floats) -> bool:
    return bool(entry.peak > _FLOOR * (_design([entry], names) @ solution)[0])


def _bound(observations: Sequence[Observation], names: Sequence[str], solution: Floats, floor: float) -> Bound:
    checked = [entry for entry in observations if entry.role == "holdout"]
    checked = checked or [entry for entry in observations if entry.role == "fit"]
    predicted = np.maximum(_design(checked, names) @ solution, floor)
    peak = np.array([float(entry.peak) for entry in checked])
    reach = max(float(entry.peak) for entry in observations if entry.role in ("fit", "holdout"))
    return Bound(float(np.sqrt(np.mean((peak / predicted - 1) ** 2))), len(checked), reach)


def _errors(observations: Sequence[Observation], names: Sequence[str], solution: Floats, floor: float) -> ErrorSummary:
    if not observations:
        return ErrorSummary(mape=0.0, max_under=0.0, n=0)
    predicted = np.maximum(_design(observations, names) @ solution, floor)
    peak = np.array([float(entry.peak) for entry in observations])
    above = np.array([max(entry.peak - entry.resident, 1.0) for entry in observations])
    relative = (predicted - peak) / above
    return ErrorSummary(
        mape=float(np.abs(relative).mean()),
        max_under=float(max(-relative.min(), 0.0)),
        n=len(observations),
    )
