"""Bytes of device memory that one changed setting makes, all others left as in the first run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from nodebudget.analysis.run_diff.models import count_parameters, kept_numbers, width_of
from nodebudget.analysis.run_diff.rules import ratio
from nodebudget.analysis.run_diff.runs import Run
from nodebudget.analysis.run_diff.waiting import batch_bytes, waiting_bytes
from nodebudget.analysis.shapley import Cause, Measure, explain, mean_sizes
from nodebudget.calibration.memory_model import Calibration
from nodebudget.datasets.graph_settings import GraphSettings
from nodebudget.datasets.measure import measure_dataset
from nodebudget.datasets.readers.open_dataset import Data
from nodebudget.datasets.size_table import SizeTable
from nodebudget.errors import InputError, MissingError

#: Estimates that are of the whole step, where there is a calibration: they can be ranked by.
WHOLE = ("batch", "graph", "width", "dtype")

#: Estimates of what the model keeps between steps, where there is nothing to tell the activations by.
KEPT = ("model", "width", "dtype")

_NUMBER = 4


@dataclass(frozen=True)
class Sized:
    """The samples of a run.

    Attributes:
        data: Where they are.
        run: Whose they are: the graph settings and the training split are its.
    """

    data: Data
    run: Run

    def table(self, changed: Mapping[str, Any] | None = None) -> SizeTable:
        """Measure them.

        Args:
            changed: Settings in place of the run's.

        Raises:
            InputError: The data can't be measured, or a graph setting is not what alignn takes.
        """
        graphs = None
        if self.run.is_alignn and self.data.kind == "crystals":
            graphs = GraphSettings.from_alignn_config({**self.run.settings, **(changed or {})})
        return _trained_on(measure_dataset(self.data, graphs=graphs), self.run.train_ids)


def _trained_on(table: SizeTable, ids: tuple[str, ...] | None) -> SizeTable:
    """Take the samples of the training split where all of them are known by name."""
    if ids is None or table.ids is None:
        return table
    places = {str(name): place for place, name in enumerate(table.ids)}
    if not ids or not all(name in places for name in ids):
        return table
    return table.take([places[name] for name in ids])


@dataclass(frozen=True)
class Known:
    """What the estimates start from.

    Attributes:
        run: The first run.
        batch_size: Its graphs a batch, or None.
        sized: Its samples, or None.
        calibration: Of its training step, or None.
    """

    run: Run
    batch_size: int | None
    sized: Sized | None = None
    calibration: Calibration | None = None
    _parameters: dict[str, int | None] = field(default_factory=dict)

    @cached_property
    def table(self) -> SizeTable | None:
        """Sizes of its samples."""
        return None if self.sized is None else self.sized.table()

    @cached_property
    def total(self) -> float | None:
        """Predicted bytes of its mean batch."""
        return None if self.batch_size is None else self.predict(self.batch_size, self.table)

    def predict(self, batch_size: int, table: SizeTable | None) -> float | None:
        """Predict the bytes of a mean batch."""
        if self.calibration is None or table is None:
            return None
        return Measure("bytes", self.calibration)(min(batch_size, len(table)), mean_sizes(table))

    def waiting(self, setting: str, a: Any, b: Any) -> int | None:
        """Return the host memory of waiting batches that B's value of a setting adds, bytes."""
        if self.batch_size is None or self.table is None:
            return None
        return waiting_bytes(self.run, setting, a, b, batch_bytes(self.table, self.batch_size))

    def causes(self, other: SizeTable) -> tuple[Cause, ...]:
        """Part the difference of other samples, at this batch size, among its causes."""
        if self.table is None or self.batch_size is None:
            return ()
        return explain(other, self.table, self.batch_size, Measure.of([self.table, other], self.calibration))

    def kept(self, changed: Mapping[str, Any] | None = None) -> float | None:
        """Return the bytes of parameters, gradients and optimizer state, with some settings of the model changed."""
        model = self.run.settings.get("model")
        if not self.run.is_alignn or not isinstance(model, Mapping):
            return None
        values = {**model, **(changed or {})}
        key = repr(sorted(values.items(), key=str))
        if key not in self._parameters:
            self._parameters[key] = count_parameters(values)
        count = self._parameters[key]
        width = width_of(self.run.setting("dtype")) or _NUMBER
        return None if count is None else float(count * width * kept_numbers(self.run.setting("optimizer")))


def effect_of(name: str, known: Known, setting: str, a: Any, b: Any) -> int | None:
    """Return the bytes that B's value adds to the step of run A, or None where that can't be said."""
    found = _EFFECTS[name](known, setting, a, b) if name else None
    return None if found is None else round(found)


def _batch(known: Known, setting: str, a: Any, b: Any) -> float | None:
    if ratio(a, b) is None:
        return None
    first, second = known.predict(a, known.table), known.predict(b, known.table)
    return None if first is None or second is None else second - first


def _graph(known: Known, setting: str, a: Any, b: Any) -> float | None:
    total, sized = known.total, known.sized
    if total is None or sized is None or sized.data.kind != "crystals" or known.batch_size is None:
        return None
    try:
        changed = known.predict(known.batch_size, sized.table({setting: b}))
    except (InputError, MissingError):
        return None
    return None if changed is None else changed - total


def _model(known: Known, setting: str, a: Any, b: Any) -> float | None:
    first, second = known.kept(), known.kept({setting.rpartition(".")[2]: b})
    return None if first is None or second is None else second - first


def _width(known: Known, setting: str, a: Any, b: Any) -> float | None:
    kept, scale = _model(known, setting, a, b), ratio(a, b)
    if known.total is None or known.calibration is None or scale is None:
        return kept
    moving = known.total - known.calibration.fixed
    return (kept or 0.0) + moving * (scale - 1)


def _dtype(known: Known, setting: str, a: Any, b: Any) -> float | None:
    scale = ratio(width_of(a), width_of(b))
    total = known.kept() if known.total is None else known.total
    return None if total is None or scale is None else total * (scale - 1)


def _optimizer(known: Known, setting: str, a: Any, b: Any) -> float | None:
    kept = known.kept()
    return None if kept is None else kept * (kept_numbers(b) / kept_numbers(a) - 1)


def _buckets(known: Known, setting: str, a: Any, b: Any) -> float | None:
    kept = known.kept()
    return None if kept is None else kept / kept_numbers(known.run.setting("optimizer")) * (bool(b) - bool(a))


_EFFECTS: Mapping[str, Callable[[Known, str, Any, Any], float | None]] = {
    "batch": _batch,
    "graph": _graph,
    "model": _model,
    "width": _width,
    "dtype": _dtype,
    "optimizer": _optimizer,
    "buckets": _buckets,
}
