"""From timed training steps to throughput by budget, a time model, and a recommended budget."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from nodebudget.calibration.time_model import TimedStep, TimeModel, fit_times
from nodebudget.errors import DoesNotFitError
from nodebudget.utils.byte_units import format_bytes

NEAR_BEST = 0.98  #: The smallest budget whose throughput is at least this fraction of the best is recommended.


@dataclass(frozen=True)
class TimedBudget:
    """A budget and its timed steps."""

    budget_bytes: int  #: The budget.
    mean_sizes: Mapping[str, float]  #: Mean sizes of a batch over all batches of the plan, since few are timed.
    steps: tuple[TimedStep, ...]  #: The timed steps; empty if they ran out of memory.


@dataclass(frozen=True)
class CurvePoint:
    """Throughput at a budget."""

    budget_bytes: int  #: The budget.
    graphs_per_batch: float  #: Mean graphs per batch.
    seconds: float  #: Median seconds of a step.
    model_seconds: float  #: Seconds of a mean batch by the time model.
    graphs_per_second: float  #: Graphs trained per second.
    edges_per_second: float  #: Edges trained per second.
    scatter: float  #: Half the range of repeated steps over their median; median over the timed batches.


@dataclass(frozen=True)
class Advice:
    """Throughput by budget, and the recommended budget."""

    curve: tuple[CurvePoint, ...]  #: One point per budget, ascending.
    recommended_bytes: int  #: The smallest budget within 2% of the best throughput.
    largest_bytes: int  #: The largest budget that was timed and fits.
    time_model: TimeModel  #: Seconds as a function of sizes.
    context: Mapping[str, Any] = field(default_factory=dict)  #: Further entries of the record.

    def at(self, budget: int) -> CurvePoint:
        """Return the point of a budget of the curve."""
        return next(point for point in self.curve if point.budget_bytes == budget)

    @property
    def sentence(self) -> str:
        """The recommendation."""
        chosen, largest = self.at(self.recommended_bytes), self.at(self.largest_bytes)
        share = chosen.graphs_per_second / max(point.graphs_per_second for point in self.curve)
        text = (
            f"Use a budget of {format_bytes(chosen.budget_bytes)}, about {chosen.graphs_per_batch:.0f} graphs per "
            f"batch: {format_rate(chosen.graphs_per_second)} graphs per second, {share:.0%} of the best measured"
        )
        if chosen is largest:
            return f"{text}; it is the largest timed budget."
        change = largest.graphs_per_second / chosen.graphs_per_second - 1
        return f"{text}; the largest that fits, {format_bytes(largest.budget_bytes)}, changes it by {change:+.1%}."

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "curve": [asdict(point) for point in self.curve],
            "recommended_bytes": self.recommended_bytes,
            "largest_bytes": self.largest_bytes,
            "time_model": {"coefficients": dict(self.time_model.coefficients), "mape": self.time_model.mape},
            "recommendation": self.sentence,
            **self.context,
        }


def analyse(budgets: Sequence[TimedBudget], memory: int | None = None) -> Advice:
    """Recommend one of the timed budgets; with `memory`, bytes, larger ones do not fit.

    Raises:
        DoesNotFitError: No budget fits.
        InputError: There are fewer timed steps than coefficients of the time model.
    """
    fitting = [entry for entry in budgets if entry.steps and (memory is None or entry.budget_bytes <= memory)]
    if not fitting:
        raise DoesNotFitError(
            "none of the timed budgets fits",
            limit="" if memory is None else f"the memory is {format_bytes(memory)}",
            hint="give more memory, or train a smaller model",
        )
    fitting.sort(key=lambda entry: entry.budget_bytes)
    model = fit_times([step for entry in budgets for step in entry.steps])
    curve = tuple(_curve_point(entry, model) for entry in fitting)
    best = max(point.graphs_per_second for point in curve)
    near = [point.budget_bytes for point in curve if point.graphs_per_second >= NEAR_BEST * best]
    return Advice(curve, near[0], curve[-1].budget_bytes, model)


def _curve_point(entry: TimedBudget, model: TimeModel) -> CurvePoint:
    # The batches of a plan take the same memory, so the median of some represents all.
    seconds = statistics.median(step.seconds for step in entry.steps)
    return CurvePoint(
        budget_bytes=entry.budget_bytes,
        graphs_per_batch=entry.mean_sizes["graphs"],
        seconds=seconds,
        model_seconds=model.predict_seconds(entry.mean_sizes),
        graphs_per_second=entry.mean_sizes["graphs"] / seconds,
        edges_per_second=entry.mean_sizes.get("edges", 0.0) / seconds,
        scatter=statistics.median(step.scatter for step in entry.steps),
    )


def format_rate(count: float) -> str:
    """Return a number per second as text: "1,234", "12.3"."""
    return f"{count:,.0f}" if count >= 100 else f"{count:.3g}"
