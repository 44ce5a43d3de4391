"""Bytes of a training step as a function of the sizes of its batch."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nodebudget.calibration.prediction_interval import Determination, PredictionBound
from nodebudget.datasets.size_table import SizeTable
from nodebudget.errors import InputError, RecordError
from nodebudget.utils.records import read_record, write_record

KIND = "nodebudget.calibration"
#: Version 3 renamed a key to `further_segments`. Since version 2 `peak` is of the bytes that tensors asked for, and
#: `allocated` of those that the allocator counts; in version 1 `peak` was the latter.
SCHEMA_VERSION = 3

Floats = npt.NDArray[np.float64]

#: Budgets hold with this probability, per batch: predictions are the upper end of a 99% prediction interval.
CONFIDENCE = 0.99

MAX_NOISE = 1 / 3  #: Share of an error that two runs of the same step may differ by; above that it counts as noise.
_ACCEPTED = "error_accepted"  #: Key of the context.

_FAR = 2.0  #: A prediction over so many times the largest measured step gives a warning.


def coefficient_name(column: str) -> str:
    """Return the name of a column's coefficient: "line_edges" → "per_line_edge"."""
    return f"per_{column.removesuffix('s')}"


def coefficient_names(columns: Iterable[str]) -> tuple[str, ...]:
    """Return the names of the coefficients of these columns, `fixed` first."""
    return ("fixed", *map(coefficient_name, columns))


def sum_per_graph(coefficients: Mapping[str, float], columns: Sequence[str], sizes: SizeTable) -> Floats:
    """Return Σ coefficient × size of each graph, without the fixed part, shape (graphs,)."""
    total = np.full(len(sizes), float(coefficients.get(coefficient_name("graphs"), 0.0)))
    for column in columns:
        weight = coefficients.get(coefficient_name(column), 0.0)
        if column != "graphs" and weight:
            total += weight * sizes[column]
    return total


@dataclass(frozen=True)
class Observation:
    """One measured training step."""

    sizes: Mapping[str, float]  #: The batch, `graphs` and the sum of each size column.
    peak: int  #: Peak bytes of live tensors during the step, resident ones included, as they were asked for.
    resident: int  #: Bytes of live tensors before the step.
    #: "fit", "holdout", "floor" (the lightest step), "repeat" (of a held-out one), or "out-of-memory" (`peak` is
    #: what was free: a lower bound).
    role: str
    #: As in `nodebudget.profiling.probe.Peak`, like the next three. None in records of schema version 1, whose
    #: `peak` is this.
    allocated: int | None = None
    reserved: int | None = None  #: None on the CPU, like the other three.
    outside: int | None = None  #: Bytes of the device that PyTorch did not hold.
    retries: int | None = None  #: How often the allocator emptied its cache.
    seconds: float | None = None  #: Wall-clock time of the step while it was measured.
    #: Peak bytes of a validation step on the same batch; None if the workload has no `validate`.
    validation: int | None = None


@dataclass(frozen=True)
class ErrorSummary:
    """Errors of predictions, relative to the measured bytes above the resident ones."""

    mape: float  #: Mean absolute error, a fraction (0.01 is one percent).
    max_under: float  #: Largest underprediction, a fraction; 0 if none was under.
    n: int  #: Number of measured steps.


@dataclass(frozen=True)
class Calibration:
    """Predicts the peak bytes of a training step from the sizes of its batch.

    The model is max-affine: bytes = max(floor, fixed + Σ coefficient × size, …), one sum per segment. A step has
    several phases, each linear in the sizes, and peaks in one of them. `nodebudget.calibration.fit` fits it.

    Attributes:
        coefficients: Bytes of the main segment, which holds for most batches: `fixed` (parameters, gradients, optimizer
            state and all else that does not depend on the batch), and per unit of each column (`per_graph`,
            `per_node`, …).
        columns: Size columns that the prediction needs, `graphs` among them.
        floor: Bytes of the smallest step: small batches peak in the optimizer, whatever their size.
        resident: Bytes that stay between steps; part of `fixed`.
        holdout: Error on batches that were not used for the fit.
        fit: Error on the batches of the fit.
        further_segments: The other segments, with the same keys as `coefficients`.
        bound: The upper end of the prediction interval.
        determination: Whether the coefficients are identifiable.
        observations: The raw measurements.
        context: Device, versions, model, data: for the record.
        validation: Predicts the peak bytes of a validation step; None if it was not measured.

    Raises:
        InputError: A number of bytes is negative or not finite, or `fixed` is missing.
    """

    coefficients: Mapping[str, float]
    columns: tuple[str, ...]
    floor: float
    resident: float
    holdout: ErrorSummary
    fit: ErrorSummary
    further_segments: tuple[Mapping[str, float], ...] = ()
    bound: PredictionBound = field(default_factory=lambda: PredictionBound(0.0, 0, 0.0))
    determination: Determination | None = None
    observations: tuple[Observation, ...] = ()
    context: Mapping[str, Any] = field(default_factory=dict)
    validation: Calibration | None = None

    def __post_init__(self) -> None:
        values = [item for segment in self.segments for item in {"fixed": None, **segment}.items()]
        for name, value in [*values, ("floor", self.floor), ("resident", self.resident)]:
            if not isinstance(value, (int, float)) or not math.isfinite(value) or value < 0:
                raise InputError(
                    f"a calibration whose {name} is {value!r}",
                    limit="bytes are finite and not negative",
                    hint="calibrate again",
                )

    @property
    def segments(self) -> tuple[Mapping[str, float], ...]:
        """The coefficients of all segments, the main one first."""
        return (self.coefficients, *self.further_segments)

    @property
    def is_flat(self) -> bool:
        """Whether the bytes depend on no size, so that no budget can be made of them."""
        return not any(value for segment in self.segments for name, value in segment.items() if name != "fixed")

    @property
    def fixed(self) -> float:
        """Bytes that do not depend on the batch."""
        return self.coefficients["fixed"]

    def coefficient(self, column: str) -> float:
        """Return the bytes per unit of a column."""
        return self.coefficients.get(coefficient_name(column), 0.0)

    @property
    def noise(self) -> float | None:
        """Relative difference of the peaks of two runs of the same step; None if that was not measured."""
        return self.context.get("noise")

    @property
    def is_error_accepted(self) -> bool:
        """Whether `accept_error` was called."""
        return bool(self.context.get(_ACCEPTED))

    def accept_error(self, accept: bool = True) -> Calibration:
        """Return the calibration for budgets in bytes whatever its held-out error, which over 5% they refuse."""
        return replace(self, context={**self.context, _ACCEPTED: accept})

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

        Warns (UserWarning) if a quantile is asked for far beyond the largest measured step.

        Args:
            nodes: Nodes of the whole batch; a number, or an array of shape (batches,). The others likewise.
            edges: Edges.
            line_edges: Edges of the line graphs.
            graphs: Graphs.
            quantile: None for the mean; 0.99, for example, for an upper bound that holds with that probability
                (`nodebudget.calibration.prediction_interval.PredictionBound`).
            **further: Further columns of the calibration, such as `tokens`.

        Returns:
            The bytes, a float for numbers, an array of shape (batches,) for arrays.

        Raises:
            InputError: A size that the prediction depends on is missing, negative or not finite, or the quantile is
                outside (0, 1).
        """
        given = {"graphs": graphs, "nodes": nodes, "edges": edges, "line_edges": line_edges, **further}
        bytes_: Any = self.floor
        for segment in self.segments:
            bytes_ = np.maximum(bytes_, self._total(segment, given))
        if quantile is not None:
            bytes_ = self._upper(bytes_, quantile)
        return bytes_ if np.ndim(bytes_) else float(bytes_)

    def _total(self, segment: Mapping[str, float], given: Mapping[str, Any]) -> Any:
        total: Any = segment["fixed"]
        for column in self.columns:
            weight = segment.get(coefficient_name(column), 0.0)
            if not weight:
                continue
            if given.get(column) is None:
                columns = f"the columns of this calibration: {', '.join(self.columns)}"
                raise InputError(f"the prediction depends on {column}", limit=columns, hint=f"pass {column}=…")
            total = total + weight * _amounts(column, given[column])
        return total

    def _upper(self, bytes_: Floats, quantile: float) -> Floats:
        if not isinstance(quantile, (int, float)) or not 0 < quantile < 1:
            raise InputError(f"a quantile of {quantile!r}", limit="between 0 and 1", hint="0.99 is usual")
        far = float(np.max(bytes_, initial=0.0)) / max(self.bound.max_measured, 1.0)
        if self.bound.n and far > _FAR:
            warnings.warn(
                f"this prediction is {far:.1f} times the largest step that was measured, and its interval is wide; "
                "calibrate with larger probes (--max-graphs) for a narrower one",
                stacklevel=3,
            )
        return bytes_ * (1 + self.bound.margin(bytes_, quantile))

    def max_prediction(self, memory: float, quantile: float = CONFIDENCE) -> float:
        """Return the largest mean prediction, bytes, whose upper bound is within `memory`, bytes."""
        return self.bound.max_prediction(memory, quantile)

    def graph_bytes(self, sizes: SizeTable, segment: int = 0) -> Floats:
        """Return the bytes that each graph adds to a batch by one segment, shape (graphs,).

        Raises:
            InputError: The sizes lack a column that the calibration depends on.
        """
        return sum_per_graph(self.segments[segment], self.columns, sizes)

    def save(self, path: str | os.PathLike[str], *, force: bool = False) -> Path:
        """Write the calibration as JSON.

        Raises:
            InputError: The file exists and `force` is not set, or it can't be written.
        """
        return write_record(path, KIND, SCHEMA_VERSION, self.to_dict(), force=force)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Calibration:
        """Read what `save` wrote.

        Raises:
            RecordError: The file is missing, damaged, not a calibration, or of an unsupported schema version.
        """
        record = read_record(path, KIND, SCHEMA_VERSION)
        try:
            return cls.from_dict(record)
        except (InputError, KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise RecordError(f"{str(path)!r} is a damaged calibration: {reason}", hint="calibrate again") from error

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        values = asdict(replace(self, validation=None))
        context, _ = values.pop("context"), values.pop("validation")
        validation = {} if self.validation is None else {"validation": self.validation.to_dict()}
        return {**values, "bound": self.bound.to_dict(), **validation, **context}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Calibration:
        """Read what `to_dict` returned; the error of a damaged record can be of any type."""
        rest = {key: value for key, value in record.items() if key not in ("kind", "schema_version")}
        further = rest.pop("pieces") if "pieces" in rest else rest.pop("further_segments")  # on disk
        columns, determination = rest.pop("columns"), rest.pop("determination")
        validation = rest.pop("validation", None)
        if not isinstance(columns, (list, tuple)):
            raise ValueError("columns must be a list")
        return cls(
            coefficients=_numbers(rest.pop("coefficients")),
            columns=tuple(map(str, columns)),
            floor=float(rest.pop("floor")),
            resident=float(rest.pop("resident")),
            holdout=ErrorSummary(**rest.pop("holdout")),
            fit=ErrorSummary(**rest.pop("fit")),
            further_segments=tuple(map(_numbers, further)),
            bound=PredictionBound.from_dict(rest.pop("bound")),
            determination=determination and Determination.from_dict(determination),
            observations=tuple(Observation(**entry) for entry in rest.pop("observations")),
            context=rest,
            validation=validation and cls.from_dict(validation),
        )


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    return {str(name): float(value) for name, value in values.items()}


def _amounts(column: str, values: npt.ArrayLike) -> Floats:
    try:
        amounts = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        amounts = np.asarray(np.nan)
    if not (np.isfinite(amounts) & (amounts >= 0)).all():
        raise InputError(
            f"a batch with {column} of {values!r:.100}",
            limit="a finite number, 0 or more",
            hint="check how it was counted",
        )
    return amounts
