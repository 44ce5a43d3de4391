"""Two runs side by side: which of their differences move device memory, by how much, and why."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nodebudget.analysis.run_diff.effects import KEPT, WHOLE, Known, Sized, effect_of
from nodebudget.analysis.run_diff.rules import Rule, ratio, rule_for
from nodebudget.analysis.run_diff.runs import Run, read_run
from nodebudget.analysis.shapley import Cause
from nodebudget.calibration.memory_model import Calibration
from nodebudget.datasets.readers.open_dataset import Data

__all__ = ["Diagnosis", "Difference", "Run", "diagnose", "read_run"]

_BATCH_SIZES = ("batch_size", "train_batch_size", "per_device_train_batch_size")

#: Changes under this part are none.
_SAME = 0.005

#: A step never takes less than this part of another, for logarithms.
_LEAST = 1e-9


@dataclass(frozen=True)
class Difference:
    """One difference of two runs.

    Attributes:
        name: The setting by its dotted name, or what differs in the samples ("data.nodes per graph").
        a: Value in the first run; None where it is not set.
        b: Value in the second.
        moves_device_memory: Whether it moves device memory; None: not known.
        bytes: What B's value adds to a step of A, all else as in A; None where that can't be said.
        reason: Why.
        host_bytes: What B's value adds to the batches that wait in host memory, all else as in A; None where it has
            no part in that, or where the batches are not known.
        strength: By about which factor it changes the memory of a step, as a logarithm: what is ranked by.
        direction: 1 where B takes more by it, -1 where it takes less, 0 where that is not known.
    """

    name: str
    a: Any
    b: Any
    moves_device_memory: bool | None
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
    """Two runs side by side.

    Attributes:
        a: Name of the first.
        b: Name of the second.
        differences: Those that move device memory, the strongest first; those that don't; those not known.
        likely_cause: One sentence.
        settings: How many settings the runs have in all.
        predicted_bytes: Of a mean batch of each run, with the model of the calibration; None where not known.
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
    a: Run,
    b: Run,
    *,
    data_a: Data | None = None,
    data_b: Data | None = None,
    calibration: Calibration | None = None,
) -> Diagnosis:
    """Rank the differences of two runs by what they do to device memory.

    Args:
        a: The first run: bytes are what a change adds to a step of it.
        b: The second.
        data_a: Its samples; of them, those of its training split where the run lists it.
        data_b: The other's; with one of the two alone, it is that of both runs.
        calibration: Of a training step of the first run: with data, it predicts bytes.

    Raises:
        InputError: Data that can't be measured, or that lacks a size that the calibration depends on.
    """
    first, second = data_a or data_b, data_b or data_a
    known = Known(a, _batch_size(a), None if first is None else Sized(first, a), calibration)
    flats = (a.flat, b.flat)
    found = [_difference(name, one, other, known, flats) for name, one, other in _changed(a, b)]
    found += _samples(a, b)
    predicted = None
    if second is not None:
        # Measured as A would make graphs of them: what other graph settings do is a difference of its own.
        found += _data(known, Sized(second, Run(b.name, a.settings, b.train_ids, a.is_alignn)))
        predicted = _predicted(known, _batch_size(b), Sized(second, b))
    ranked = tuple(sorted(found, key=_rank))
    return Diagnosis(a.name, b.name, ranked, _sentence(ranked), len({**a.flat, **b.flat}), predicted)


def _batch_size(run: Run) -> int | None:
    found = run.setting(*_BATCH_SIZES)
    return found if isinstance(found, int) and not isinstance(found, bool) and found > 0 else None


def _changed(a: Run, b: Run) -> list[tuple[str, Any, Any]]:
    first, second = a.flat, b.flat
    names = dict.fromkeys([*first, *second])
    pairs = [(name, first.get(name), second.get(name)) for name in names]
    return [(name, one, other) for name, one, other in pairs if not _equal(one, other)]


def _equal(one: Any, other: Any) -> bool:
    # JSON has NaN, which differs from itself; and true, which Python takes for 1.
    if isinstance(one, bool) != isinstance(other, bool):
        return False
    return bool(one == other or (one != one and other != other))


def _difference(name: str, a: Any, b: Any, known: Known, runs: Sequence[Mapping[str, Any]]) -> Difference:
    rule = rule_for(name, runs)
    if rule is None:
        return Difference(name, a, b, None, None, "nothing is known of this setting")
    reason = rule.explain(a, b)
    if not rule.moves:
        return Difference(name, a, b, False, None, reason, known.waiting(name, a, b))
    added = effect_of(rule.effect, known, name, a, b)
    if added is not None and known.total is not None and rule.effect in WHOLE:
        change = math.log(max(1 + added / known.total, _LEAST))
        return Difference(name, a, b, True, added, reason, None, abs(change), _sign(change))
    if added is not None and rule.effect in KEPT:
        reason += "; the bytes are those of parameters, gradients and optimizer state alone"
    return Difference(name, a, b, True, added, reason, None, *_guess(rule, a, b, added))


def _guess(rule: Rule, a: Any, b: Any, added: int | None) -> tuple[float, int]:
    """Return strength and direction where the bytes of a whole step are not known."""
    found = ratio(a, b)
    if found is not None and rule.power:
        change = rule.power * math.log(found)
        return abs(change), _sign(change)
    return math.log(1 + max(rule.typical, 0.3 * rule.power)), _sign(added or 0)


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)


def _samples(a: Run, b: Run) -> list[Difference]:
    if a.train_ids is None or b.train_ids is None or a.train_ids == b.train_ids:
        return []
    one, other = len(a.train_ids), len(b.train_ids)
    shared = len(set(a.train_ids) & set(b.train_ids))
    rule = rule_for("data.samples")
    reason = f"{rule.reason if rule else ''} ({shared} of them are in both)"
    return [Difference("data.samples", one, other, False, None, reason)]


def _data(known: Known, other: Sized) -> list[Difference]:
    table, total = other.table(), known.total
    return [_from_cause(cause, total) for cause in known.causes(table) if abs(cause.share) >= _SAME]


def _from_cause(cause: Cause, total: float | None) -> Difference:
    what = "the predicted bytes" if total is not None else "the largest size that is known"
    reason = f"the samples themselves: {cause.share:+.1%} {what} of a mean batch"
    added = None if total is None else round(cause.share * total)
    first, here = (float(f"{value:.4g}") for value in (cause.first, cause.second))
    change = math.log(max(1 + cause.share, _LEAST))
    return Difference(f"data.{cause.name}", first, here, True, added, reason, None, abs(change), _sign(change))


def _predicted(known: Known, batch_size: int | None, other: Sized) -> tuple[int, int] | None:
    if known.total is None or batch_size is None:
        return None
    there = known.predict(batch_size, other.table())
    return None if there is None else (round(known.total), round(there))


def _rank(difference: Difference) -> tuple[int, float]:
    return (True, False, None).index(difference.moves_device_memory), -difference.strength


def _sentence(ranked: Sequence[Difference]) -> str:
    """Name the most likely cause of more or less device memory."""
    if not ranked:
        return "The two runs have the same settings."
    top = ranked[0]
    if top.moves_device_memory:
        by = {1: ", by which B takes more", -1: ", by which B takes less", 0: ""}[top.direction]
        change = f"{_shown(top.a)} in A, {_shown(top.b)} in B"
        return f"The most likely cause is {top.name} ({change}){by}: {top.reason}."
    unknown = [difference.name for difference in ranked if difference.moves_device_memory is None]
    if unknown:
        return f"No difference is known to move device memory; nothing is known of {', '.join(unknown[:5])}."
    return "None of the differences moves device memory: look at the samples and at the code."


def _shown(value: Any) -> str:
    return "not set" if value is None else str(value)
