"""Change of device memory, in bytes, if one setting of run A changes and all others stay."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from nodebudget.analysis.run_diff.models import bytes_per_number, count_parameters, numbers_per_parameter
from nodebudget.analysis.run_diff.prefetch import batch_bytes, prefetch_bytes
from nodebudget.analysis.run_diff.rules import ratio
from nodebudget.analysis.run_diff.runs import RunConfig
from nodebudget.analysis.shapley import Cause, Measure, explain, mean_sizes
from nodebudget.calibration.memory_model import Calibration
from nodebudget.datasets.graph_settings import GraphSettings
from nodebudget.datasets.measure import measure
from nodebudget.datasets.readers.open_dataset import Data
from nodebudget.datasets.size_table import SizeTable
from nodebudget.errors import InputError, MissingError

#: Effects whose bytes are of a whole step, with a calibration.
STEP_EFFECTS = ("batch", "graph", "width", "dtype")

#: Effects whose bytes are of parameters, gradients and optimizer state only, without a calibration.
MODEL_EFFECTS = ("model", "width", "dtype")


@dataclass(frozen=True)
class RunData:
    """The samples of a run.

    Attributes:
        data: The dataset.
        run: Its graph settings and its training split apply.
    """

    data: Data
    run: RunConfig

    def table(self, changed: Mapping[str, Any] | None = None) -> SizeTable:
        """Measure the samples of the training split, or all if the split can't be matched by id.

        Args:
            changed: Settings that replace those of the run.

        Raises:
            InputError: The data can't be measured, or alignn refuses a graph setting.
        """
        graphs = None
        if self.run.is_alignn and self.data.kind == "crystals":
            graphs = GraphSettings.from_alignn_config({**self.run.settings, **(changed or {})})
        table, ids = measure(self.data, graphs=graphs), self.run.train_ids
        if not ids or table.ids is None:
            return table
        rows = {str(name): row for row, name in enumerate(table.ids)}
        return table.take([rows[name] for name in ids]) if set(ids) <= set(rows) else table


@dataclass(frozen=True)
class Baseline:
    """Run A, from which changes are estimated.

    Attributes:
        run: The run.
        batch_size: Its graphs per batch, or None.
        data: Its samples, or None.
        calibration: Calibration of its training step, or None.
    """

    run: RunConfig
    batch_size: int | None
    data: RunData | None = None
    calibration: Calibration | None = None

    @cached_property
    def table(self) -> SizeTable | None:
        """Sizes of its samples."""
        return None if self.data is None else self.data.table()

    @cached_property
    def step_bytes(self) -> float | None:
        """Predicted bytes of a step on a mean batch."""
        return self.predict(self.batch_size, self.table)

    @cached_property
    def model_bytes(self) -> float | None:
        """Bytes of parameters, gradients and optimizer state."""
        return self.changed_model_bytes({})

    def predict(self, batch_size: int | None, table: SizeTable | None) -> float | None:
        """Predict the bytes of a step on a mean batch of a dataset."""
        if self.calibration is None or table is None or batch_size is None:
            return None
        return Measure("bytes", self.calibration)(min(batch_size, len(table)), mean_sizes(table))

    def prefetch_bytes(self, setting: str, a: Any, b: Any) -> int | None:
        """Return the change in host memory of prefetched batches if a setting changes from a to b, bytes."""
        if self.batch_size is None or self.table is None:
            return None
        return prefetch_bytes(self.run, setting, a, b, batch_bytes(self.table, self.batch_size))

    def causes(self, other: SizeTable) -> tuple[str, tuple[Cause, ...]]:
        """Return the size by which other samples differ most clearly, and the causes of that difference."""
        if self.table is None or self.batch_size is None:
            return "", ()
        measure = Measure.of([self.table, other], self.calibration)
        return measure.name, explain(other, self.table, self.batch_size, measure)

    def changed_model_bytes(self, changed: Mapping[str, Any]) -> float | None:
        """Return `model_bytes` with some settings of the model changed."""
        model = self.run.settings.get("model")
        if not self.run.is_alignn or not isinstance(model, Mapping):
            return None
        count = count_parameters({**model, **changed})
        width = bytes_per_number(self.run.setting("dtype")) or 4
        return None if count is None else float(count * width * numbers_per_parameter(self.run.setting("optimizer")))


def effect_of(name: str, baseline: Baseline, setting: str, a: Any, b: Any) -> int | None:
    """Return the bytes that value b of a setting adds to a step of run A, or None if they can't be estimated."""
    added = _EFFECTS[name](baseline, setting, a, b) if name else None
    return None if added is None else round(added)


def _batch(baseline: Baseline, setting: str, a: Any, b: Any) -> float | None:
    if ratio(a, b) is None:
        return None
    return _change(baseline.predict(a, baseline.table), baseline.predict(b, baseline.table))


def _graph(baseline: Baseline, setting: str, a: Any, b: Any) -> float | None:
    if baseline.step_bytes is None or baseline.data is None or baseline.data.data.kind != "crystals":
        return None
    try:
        return _change(baseline.step_bytes, baseline.predict(baseline.batch_size, baseline.data.table({setting: b})))
    except (InputError, MissingError):
        return None


def _model(baseline: Baseline, setting: str, a: Any, b: Any) -> float | None:
    return _change(baseline.model_bytes, baseline.changed_model_bytes({setting.rpartition(".")[2]: b}))


def _width(baseline: Baseline, setting: str, a: Any, b: Any) -> float | None:
    model, scale = _model(baseline, setting, a, b), ratio(a, b)
    if baseline.step_bytes is None or baseline.calibration is None or scale is None:
        return model
    return (model or 0.0) + (baseline.step_bytes - baseline.calibration.fixed) * (scale - 1)


def _dtype(baseline: Baseline, setting: str, a: Any, b: Any) -> float | None:
    scale = ratio(bytes_per_number(a), bytes_per_number(b))
    total = baseline.model_bytes if baseline.step_bytes is None else baseline.step_bytes
    return None if total is None or scale is None else total * (scale - 1)


def _optimizer(baseline: Baseline, setting: str, a: Any, b: Any) -> float | None:
    model = baseline.model_bytes
    return None if model is None else model * (numbers_per_parameter(b) / numbers_per_parameter(a) - 1)


def _buckets(baseline: Baseline, setting: str, a: Any, b: Any) -> float | None:
    model = baseline.model_bytes
    gradients = None if model is None else model / numbers_per_parameter(baseline.run.setting("optimizer"))
    return None if gradients is None else gradients * (bool(b) - bool(a))


def _change(first: float | None, second: float | None) -> float | None:
    return None if first is None or second is None else second - first


_EFFECTS: Mapping[str, Callable[[Baseline, str, Any, Any], float | None]] = {
    "batch": _batch,
    "graph": _graph,
    "model": _model,
    "width": _width,
    "dtype": _dtype,
    "optimizer": _optimizer,
    "buckets": _buckets,
}
