"""Compare two runs: which of their differences affect device memory, by how much, and why."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from nodebudget.analysis.run_diff.effects import MODEL_EFFECTS, STEP_EFFECTS, Baseline, RunData, effect_of
from nodebudget.analysis.run_diff.measured import TOGETHER, measure_settings
from nodebudget.analysis.run_diff.rules import Rule, ratio, rule_for
from nodebudget.analysis.run_diff.runs import RunConfig
from nodebudget.analysis.shapley import Cause
from nodebudget.calibration.memory_model import Calibration
from nodebudget.datasets.readers.open_dataset import Data
from nodebudget.errors import InputError
from nodebudget.utils.size_labels import size_label

_BATCH_SIZES = ("batch_size", "train_batch_size", "per_device_train_batch_size")

#: Smaller changes, as a fraction, are not mentioned.
_SAME = 0.005

#: Smallest ratio of two steps, for logarithms.
_MIN_RATIO = 1e-9


@dataclass(frozen=True)
class Difference:
    """One difference of two runs.

    Attributes:
        name: Dotted name of the setting, or a property of the samples ("data.nodes per graph").
        a: Value in the first run; None if it is not set.
        b: Value in the second run.
        affects_device_memory: Whether it changes device memory; None for an unknown setting.
        bytes: Device memory that the value of B adds to a step of A, all else as in A; None if it can't be estimated.
        reason: Why.
        host_bytes: Host memory of prefetched batches that the value of B adds, all else as in A; None if the setting
            does not change it, or it can't be estimated.
        strength: Logarithm of the estimated factor on the memory of a step, as a positive number; orders differences.
        direction: 1 if B takes more memory because of it, -1 if less, 0 if unknown.
    """

    name: str
    a: Any
    b: Any
    affects_device_memory: bool | None
    bytes: int | None
    reason: str
    host_bytes: int | None = None
    strength: float = 0.0
    direction: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {key: value for key, value in self.__dict__.items() if key not in ("strength", "direction")}


@dataclass(frozen=True)
class Diagnosis:
    """The differences of two runs.

    Attributes:
        a: Name of the first run.
        b: Name of the second run.
        differences: Those that affect device memory, the strongest first; those that do not; unknown settings.
        likely_cause: One sentence.
        settings: Number of settings of both runs together.
        predicted_bytes: Predicted bytes of a mean batch of each run, by the calibration; None without one.
    """

    a: str
    b: str
    differences: tuple[Difference, ...]
    likely_cause: str
    settings: int
    predicted_bytes: tuple[int, int] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        predicted = self.predicted_bytes
        return {
            "a": self.a,
            "b": self.b,
            "settings": self.settings,
            "differences": [difference.to_dict() for difference in self.differences],
            "predicted_bytes": None if predicted is None else dict(zip("ab", predicted, strict=True)),
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
    """Rank the differences of two runs by their effect on device memory.

    Args:
        a: The first run.
        b: The second run.
        data_a: Dataset of the first run; the samples of its training split if the run lists it.
        data_b: Dataset of the second run; if only one of the two is given, both runs use it.
        calibration: Calibration of a training step of the first run: with data, it predicts bytes.
        crystals: JARVIS dicts, for two runs of alignn: each differing setting is switched by itself, and a step is
            measured (`nodebudget.analysis.run_diff.measured`).
        device: Where it is measured: "cpu" or "cuda:0".
        progress: Called with the number of steps measured and of all.

    Raises:
        InputError: The data can't be measured, or lacks a size that the calibration depends on.
    """
    first, second = data_a or data_b, data_b or data_a
    baseline = Baseline(a, _batch_size(a), None if first is None else RunData(first, a), calibration)
    flat = (a.flat, b.flat)
    names = dict.fromkeys([*flat[0], *flat[1]])
    values = [(name, flat[0].get(name), flat[1].get(name)) for name in names]
    differences = [_difference(*value, baseline, flat) for value in values if not _equal(*value[1:])]
    differences += _splits(a, b)
    predicted = None
    if second is not None:
        # Measured with the graph settings of A: other graph settings are a difference of their own.
        other = RunData(second, RunConfig(b.name, a.settings, b.train_ids, a.is_alignn)).table()
        measure, causes = baseline.causes(other)
        differences += [_from_cause(cause, measure, baseline) for cause in causes if abs(cause.share) >= _SAME]
        predicted = _predicted(baseline, _batch_size(b), RunData(second, b))
    if crystals is not None:
        differences = _measured(a, b, differences, crystals, device, progress)
    ranked = tuple(sorted(differences, key=_rank))
    return Diagnosis(a.name, b.name, ranked, _sentence(ranked), len(names), predicted)


def _measured(
    a: RunConfig, b: RunConfig, differences: list[Difference], crystals: Any, device: str, progress: Any
) -> list[Difference]:
    """Put measured bytes in place of estimated ones."""
    if not (a.is_alignn and b.is_alignn):
        raise InputError(
            "steps are measured for two configs of alignn", hint="leave the crystals out, or give both config.json"
        )
    affecting = [entry.name for entry in differences if entry.affects_device_memory is not False]
    switched = [name for name in affecting if not name.startswith("data.")]
    if not switched:
        return differences
    reference, changes = measure_settings(a, b, switched, crystals, device, progress)
    measured = [
        _with_change(entry, changes.get(entry.name, "switched with model.name"), reference)
        if entry.name in switched
        else entry
        for entry in differences
    ]
    together = changes.get(TOGETHER)
    if isinstance(together, int):
        measured.append(Difference(TOGETHER, None, None, True, together, "measured with all of them switched"))
    return measured


def _with_change(entry: Difference, change: int | str, reference: int) -> Difference:
    if isinstance(change, str):
        return replace(entry, bytes=None, reason=change, strength=0.0, direction=0)
    ratio_ = math.log(max(1 + change / reference, _MIN_RATIO))
    same = abs(change) < _SAME * reference
    reason = "measured: " + ("no change" if same else f"{change / reference:+.1%} of a step of A")
    return replace(
        entry,
        affects_device_memory=not same,
        bytes=change,
        reason=reason,
        strength=abs(ratio_),
        direction=0 if same else _sign(ratio_),
    )


def _batch_size(run: RunConfig) -> int | None:
    value = run.setting(*_BATCH_SIZES)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def _equal(a: Any, b: Any) -> bool:
    # JSON has NaN, which differs from itself, and true, which equals 1 in Python.
    if isinstance(a, bool) != isinstance(b, bool):
        return False
    return bool(a == b or (a != a and b != b))


def _difference(name: str, a: Any, b: Any, baseline: Baseline, runs: Sequence[Mapping[str, Any]]) -> Difference:
    rule = rule_for(name, runs)
    if rule is None:
        return Difference(name, a, b, None, None, "unknown setting")
    reason = rule.explain(a, b)
    if not rule.affects:
        return Difference(name, a, b, False, None, reason, baseline.prefetch_bytes(name, a, b))
    added = effect_of(rule.effect, baseline, name, a, b)
    if added is not None and baseline.step_bytes is not None and rule.effect in STEP_EFFECTS:
        change = math.log(max(1 + added / baseline.step_bytes, _MIN_RATIO))
        return Difference(name, a, b, True, added, reason, None, abs(change), _sign(change))
    if added is not None and rule.effect in MODEL_EFFECTS:
        reason += "; the bytes are those of parameters, gradients and optimizer state only"
    return Difference(name, a, b, True, added, reason, None, *_estimate(rule, a, b, added))


def _estimate(rule: Rule, a: Any, b: Any, added: int | None) -> tuple[float, int]:
    """Return strength and direction if the bytes of a whole step can't be predicted."""
    scale = ratio(a, b)
    if scale is not None and rule.power:
        change = rule.power * math.log(scale)
        return abs(change), _sign(change)
    return math.log(1 + max(rule.typical, 0.3 * rule.power)), _sign(added or 0)


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)


def _splits(a: RunConfig, b: RunConfig) -> list[Difference]:
    if a.train_ids is None or b.train_ids is None or a.train_ids == b.train_ids:
        return []
    shared = len(set(a.train_ids) & set(b.train_ids))
    rule = rule_for("data.samples")
    reason = f"{rule.reason if rule else ''} ({shared} samples are in both)"
    return [Difference("data.samples", len(a.train_ids), len(b.train_ids), False, None, reason)]


def _from_cause(cause: Cause, measure: str, baseline: Baseline) -> Difference:
    reason = f"the samples differ: {cause.share:+.1%} {size_label(measure)} per batch"
    added = None if baseline.step_bytes is None else round(cause.share * baseline.step_bytes)
    a, b = (float(f"{value:.4g}") for value in (cause.first, cause.second))
    change = math.log(max(1 + cause.share, _MIN_RATIO))
    return Difference(f"data.{cause.name}", a, b, True, added, reason, None, abs(change), _sign(change))


def _predicted(baseline: Baseline, batch_size: int | None, data: RunData) -> tuple[int, int] | None:
    if baseline.step_bytes is None or batch_size is None:
        return None
    other = baseline.predict(batch_size, data.table())
    return None if other is None else (round(baseline.step_bytes), round(other))


def _rank(difference: Difference) -> tuple[int, float]:
    return (True, False, None).index(difference.affects_device_memory), -difference.strength


def _sentence(ranked: Sequence[Difference]) -> str:
    """Name the most likely cause of more or less device memory."""
    if not ranked:
        return "The two runs have the same settings."
    top = ranked[0]
    if top.affects_device_memory:
        direction = {1: ", by which B takes more", -1: ", by which B takes less", 0: ""}[top.direction]
        values = f"{_shown(top.a)} in A, {_shown(top.b)} in B"
        # More graphs, or larger ones, take more memory; of other settings only a measured step can tell.
        certain = top.name in _BATCH_SIZES or top.name.startswith("data.")
        if top.bytes is None and not certain:
            names = [entry.name for entry in ranked if entry.affects_device_memory]
            return f"These settings can change device memory: {', '.join(names[:5])}. To measure them, give --data."
        return f"The most likely cause is {top.name} ({values}){direction}: {top.reason}."
    unknown = [difference.name for difference in ranked if difference.affects_device_memory is None]
    if unknown:
        return f"No known difference affects device memory; unknown settings: {', '.join(unknown[:5])}."
    return "None of the differences affects device memory; compare the samples and the code."


def _shown(value: Any) -> str:
    return "not set" if value is None else str(value)
