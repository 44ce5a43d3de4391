"""Bytes of a training step as a function of the sizes of its batch."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nodebudget.calibration.prediction_interval import Bound, Determination
from nodebudget.datasets.size_table import SizeTable
from nodebudget.errors import InputError, RecordError
from nodebudget.utils.records import read_record, write_record

KIND = "nodebudget.calibration"
#: Version 2: `peak` is of the bytes that tensors asked for; what the allocator rounds up and leaves unsplit stands as
#: `allocated`, and is part of its overhead. Version 1: `peak` was what the allocator counted.
SCHEMA_VERSION = 2

Floats = npt.NDArray[np.float64]

#: Budgets hold with this probability, a batch.
SURE = 0.99

#: Predictions over so many times the largest probe are warned of.
_FAR = 2.0


def coefficient_name(column: str) -> str:
    """Return the name of a column's coefficient: "line_edges" → "per_line_edge"."""
    return f"per_{column.removesuffix('s')}"


@dataclass(frozen=True)
class Observation:
    """One measured training step.

    Attributes:
        sizes: The batch: `graphs` and the sum of each size column.
        peak: Highest bytes of live tensors during the step, resident ones included, as they were asked for.
        resident: Bytes of live tensors before the step.
        allocated: Bytes in blocks of the allocator at the highest, as `torch.cuda.max_memory_allocated` counts them;
            None on the CPU, and in records of schema version 1, whose `peak` is this.
        reserved: Bytes that the allocator held from the device at the highest; None on the CPU.
        outside: Bytes of the device that PyTorch did not hold; None on the CPU.
        retries: How often the allocator had to give its cache back to get memory; None on the CPU.
        seconds: Wall-clock time of the step while it was measured.
        role: "fit", "holdout", "floor" (the lightest step), "repeat" (of a held-out one), or "out-of-memory" (then
            `peak` is what was free: a lower bound).
    """

    sizes: Mapping[str, float]
    peak: int
    resident: int
    role: str
    allocated: int | None = None
    reserved: int | None = None
    outside: int | None = None
    retries: int | None = None
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

    def __post_init__(self) -> None:
        for name, value in [*_entries(self.affine), ("floor", self.floor), ("resident", self.resident)]:
            if not isinstance(value, (int, float)) or not math.isfinite(value) or value < 0:
                raise InputError(
                    f"a calibration whose {name} is {value!r}",
                    limit="bytes are finite and not negative",
                    hint="calibrate again",
                )
        if any("fixed" not in piece for piece in self.affine):
            raise InputError("a calibration without 'fixed'", hint="calibrate again")

    @property
    def is_flat(self) -> bool:
        """Whether no size costs anything, so that no budget can be made of it."""
        return not any(value for name, value in _entries(self.affine) if name != "fixed")

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
            InputError: A size that the prediction depends on is not given, is negative or not finite, or a quantile
                outside (0, 1).
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
                total = total + weight * _amounts(column, given[column])
        return total

    def _upper(self, bytes_: Floats, quantile: float) -> Floats:
        if not isinstance(quantile, (int, float)) or not 0 < quantile < 1:
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
            return cls.from_dict(record)
        except (InputError, KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
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
    def from_dict(cls, record: Mapping[str, Any]) -> Calibration:
        """Make a calibration of what `to_dict` returned; anything else raises what comes up first."""
        own = set(cls.__dataclass_fields__) - {"context"}
        coefficients = _piece(record["coefficients"])
        if not isinstance(record["columns"], (list, tuple)):
            raise ValueError("columns must be a list")
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


def _piece(values: Mapping[str, Any]) -> dict[str, float]:
    return {str(name): float(value) for name, value in values.items()}


def _entries(pieces: Sequence[Mapping[str, float]]) -> Iterator[tuple[str, float]]:
    return ((name, value) for piece in pieces for name, value in piece.items())


def _amounts(column: str, values: npt.ArrayLike) -> Floats:
    try:
        found = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        found = np.asarray(np.nan)
    if not (np.isfinite(found) & (found >= 0)).all():
        raise InputError(
            f"a batch with {column} of {values!r:.100}",
            limit="a finite number, 0 or more",
            hint="check how it was counted",
        )
    return found
