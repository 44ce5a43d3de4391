"""Compare two runs: which of their differences affect device memory, by how much, and why."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from nodebudget.analysis.run_diff.measured import MeasuredChanges, measure_settings
from nodebudget.analysis.run_diff.prefetch import batch_bytes, prefetch_bytes
from nodebudget.analysis.run_diff.rules import BATCH_SIZES, rule_for
from nodebudget.analysis.run_diff.runs import RunConfig
from nodebudget.analysis.shapley import GRAPHS, Cause, Measure, explain, mean_sizes
from nodebudget.calibration.memory_model import Calibration
from nodebudget.datasets.graph_settings import GraphSettings
from nodebudget.datasets.measure import measure
from nodebudget.datasets.readers.open_dataset import Data
from nodebudget.datasets.size_table import SizeTable
from nodebudget.errors import InputError
from nodebudget.utils.byte_units import format_change
from nodebudget.utils.size_labels import size_label

_SAME = 0.005  #: Smaller changes, as a fraction, are not mentioned.

_UNKNOWN = "unknown setting"


@dataclass(frozen=True)
class Difference:
    """One difference of two runs."""

    name: str  #: Dotted name of the setting, or a property of the samples ("data.nodes per graph").
    a: Any  #: Value in the first run; None if it is not set.
    b: Any  #: Value in the second run.
    affects_device_memory: bool | None  #: Whether it changes device memory; None if that is not measured.
    #: Its share of the bytes that a step of B takes more than one of A, measured or predicted; else None.
    bytes: int | None
    reason: str  #: Why, or what it changes.
    #: Host memory of prefetched batches that the value of B adds, all else as in A; None if the setting does not
    #: change it, or without data.
    host_bytes: int | None = None
    #: `bytes` as a fraction of a step of A; without a calibration that of the largest size of the samples.
    share: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {key: value for key, value in self.__dict__.items() if key != "share"}


@dataclass(frozen=True)
class Diagnosis:
    """The differences of two runs."""

    a: str  #: Name of the first run.
    b: str  #: Name of the second run.
    #: Those that affect device memory, the largest first; those that may; those that do not.
    differences: tuple[Difference, ...]
    likely_cause: str  #: One sentence; it names a cause only where that is measured, predicted or counted.
    settings: int  #: Number of settings of both runs together.
    #: Predicted bytes of a mean batch of each run, by the calibration; None without one.
    predicted_bytes: tuple[int, int] | None = None
    #: Measured peak of a step of each run on the same crystals; None if it is not measured.
    measured_bytes: tuple[int, int] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        pairs = {"predicted_bytes": self.predicted_bytes, "measured_bytes": self.measured_bytes}
        return {
            "a": self.a,
            "b": self.b,
            "settings": self.settings,
            "differences": [difference.to_dict() for difference in self.differences],
            **{name: None if pair is None else dict(zip("ab", pair, strict=True)) for name, pair in pairs.items()},
            "likely_cause": self.likely_cause,
        }


def diagnose(
    a: RunConfig,
    b: RunConfig,
    *,
    data_a: Data | None = None,
    data_b: Data | None = None,
    calibration: Calibration | None = None,
    crystals: Any = None,
    device: str = "cpu",
    progress: Callable[[int, int | None], object] = lambda done, total: None,
) -> Diagnosis:
    """List the differences of two runs, and the device memory that each makes where it is measured.

    Args:
        a: The first run.
        b: The second run.
        data_a: Dataset of the first run; the samples of its training split if the run lists it.
        data_b: Dataset of the second run; if only one of the two is given, both runs use it.
        calibration: Calibration of a training step of the first run: with data, it predicts bytes.
        crystals: JARVIS dicts, for two runs of alignn: the differing settings are switched by themselves and together,
            and steps are measured (`nodebudget.analysis.run_diff.measured`).
        device: Where they are measured: "cpu" or "cuda:0".
        progress: Called with the number of steps measured and of all.

    Raises:
        InputError: The data can't be measured, or lacks a size that the calibration depends on, or there are crystals
            for runs that are not alignn's.
    """
    names = dict.fromkeys([*a.flat, *b.flat])
    values = [(name, a.flat.get(name), b.flat.get(name)) for name in names]
    entries = [_difference(*value) for value in values if not _equal(*value[1:])] + _splits(a, b)
    predicted = measured = None
    first, second = data_a or data_b, data_b or data_a
    if first is not None and second is not None:
        entries, predicted = _with_samples((a, b), entries, (_table(first, a), _table(second, b)), calibration)
    if crystals is not None:
        if not (a.is_alignn and b.is_alignn):
            raise InputError(
                "steps are measured for two configs of alignn", hint="leave the crystals out, or give both config.json"
            )
        settings = [entry for entry in entries if not entry.name.startswith("data.")]
        switched = [entry.name for entry in settings if entry.affects_device_memory is not False]
        if switched:
            changes = measure_settings(a, b, switched, crystals, device, progress)
            entries = [_with_change(entry, changes) if entry.name in switched else entry for entry in entries]
            measured = None if changes.second is None else (changes.first, changes.second)
    ranked = tuple(sorted(entries, key=_rank))
    return Diagnosis(a.name, b.name, ranked, _sentence(ranked, a.is_alignn), len(names), predicted, measured)


def _equal(a: Any, b: Any) -> bool:
    # JSON has NaN, which differs from itself, and true, which equals 1 in Python.
    if isinstance(a, bool) != isinstance(b, bool):
        return False
    return bool(a == b or (a != a and b != b))


def _difference(name: str, a: Any, b: Any) -> Difference:
    affects, reason = rule_for(name) or (None, _UNKNOWN)
    return Difference(name, a, b, affects, None, reason)


def _splits(a: RunConfig, b: RunConfig) -> list[Difference]:
    if a.train_ids is None or b.train_ids is None or a.train_ids == b.train_ids:
        return []
    shared = len(set(a.train_ids) & set(b.train_ids))
    samples = _difference("data.samples", len(a.train_ids), len(b.train_ids))
    return [replace(samples, reason=f"{samples.reason} ({shared} samples are in both)")]


def _table(data: Data, run: RunConfig) -> SizeTable:
    """Measure the samples of the training split of a run, or all if the split can't be matched by id."""
    is_built = run.is_alignn and data.kind == "crystals"
    table = measure(data, graphs=GraphSettings.from_alignn_config(run.settings) if is_built else None)
    if not run.train_ids or table.ids is None:
        return table
    rows = {str(name): row for row, name in enumerate(table.ids)}
    return table.take([rows[name] for name in run.train_ids]) if set(run.train_ids) <= set(rows) else table


def _batch_size(run: RunConfig) -> int | None:
    value = run.setting(*BATCH_SIZES)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def _with_samples(
    runs: tuple[RunConfig, RunConfig],
    entries: list[Difference],
    tables: tuple[SizeTable, SizeTable],
    calibration: Calibration | None,
) -> tuple[list[Difference], tuple[int, int] | None]:
    """Add host memory, the differences of the samples, and, with a calibration, predicted bytes of a mean batch."""
    batch_size = _batch_size(runs[0])
    if batch_size is None:
        return entries, None
    batch = batch_bytes(tables[0], batch_size)
    entries = [
        replace(entry, host_bytes=prefetch_bytes(runs[0], entry.name, entry.a, entry.b, batch)) for entry in entries
    ]
    batch_sizes = batch_size, _batch_size(runs[1]) or batch_size
    measure_ = Measure.of(tables, calibration)
    first, second = (
        measure_(min(size, len(table)), mean_sizes(table)) for size, table in zip(batch_sizes, tables, strict=True)
    )
    causes = explain(tables[1], tables[0], batch_sizes[0], measure_, batch_sizes[1])
    step = None if calibration is None else first
    samples = {cause.name: _from_cause(cause, measure_.name, step) for cause in causes if abs(cause.share) >= _SAME}
    for place, entry in enumerate(entries):
        if entry.name.rpartition(".")[2] in BATCH_SIZES and GRAPHS in samples:
            entries[place] = replace(samples.pop(GRAPHS), name=entry.name, a=entry.a, b=entry.b)
    return [*entries, *samples.values()], None if step is None else (round(first), round(second))


def _from_cause(cause: Cause, measure_name: str, step: float | None) -> Difference:
    a, b = (float(f"{value:.4g}") for value in (cause.first, cause.second))
    reason = f"{cause.share:+.1%} {size_label(measure_name)} per batch"
    added = None if step is None else round(cause.share * step)
    return Difference(f"data.{cause.name}", a, b, True, added, reason, share=cause.share)


def _with_change(entry: Difference, changes: MeasuredChanges) -> Difference:
    """Put measured bytes into the difference of a setting."""
    name = entry.name
    if name not in changes.alone and name not in changes.failures:
        return replace(entry, reason="switched with model.name")
    added = changes.shares.get(name, changes.alone.get(name))
    if added is None:
        return replace(entry, bytes=None, reason=f"can't be measured: {changes.failures[name]}")
    share = added / changes.first
    affects = abs(added) >= _SAME * changes.first
    reason = f"measured: {share:+.1%} of a step of A" if affects else "measured: no change"
    if name in changes.failures:
        reason += f"; it can't be switched by itself: {changes.failures[name]}"
    elif affects and len(changes.alone) > 1:
        reason += f"; by itself {format_change(changes.alone[name])}"
    return replace(entry, affects_device_memory=affects, bytes=round(added), reason=reason, share=share)


def _rank(entry: Difference) -> tuple[int, bool, float]:
    category = (True, None, False).index(entry.affects_device_memory)
    return category, entry.reason == _UNKNOWN, -abs(entry.share)


def _sentence(ranked: Sequence[Difference], is_alignn: bool) -> str:
    """Name the largest cause if it is measured, predicted or counted; else say what is to be measured."""
    if not ranked:
        return "The two runs have the same settings."
    top = ranked[0]
    unknown = [entry.name for entry in ranked if entry.reason == _UNKNOWN]
    may = [entry.name for entry in ranked if entry.affects_device_memory is None and entry.reason != _UNKNOWN]
    if top.affects_device_memory:
        effect = top.reason if top.bytes is None else f"{format_change(top.bytes)} per step"
        rest = f" Not measured: {_listed(may)}." if may else ""
        return f"The largest cause is {top.name} ({_shown(top.a)} in A, {_shown(top.b)} in B): {effect}.{rest}"
    if may:
        how = "give --data" if is_alignn else "calibrate both runs with 'nodebudget calibrate --workload'"
        return f"These settings can change device memory: {_listed(may)}. To measure them, {how}."
    if unknown:
        return f"No known difference affects device memory; unknown settings: {_listed(unknown)}."
    return "None of the differences affects device memory; compare the samples and the code."


def _shown(value: Any) -> str:
    return "not set" if value is None else str(value)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
