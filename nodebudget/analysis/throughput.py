"""What timed training steps say: a time model, throughput against budget, and the budget to take."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from nodebudget.calibration.time_model import TimedStep, TimeModel, fit_times
from nodebudget.errors import DoesNotFitError
from nodebudget.utils.byte_units import format_bytes

#: A budget is as good as the best one if its throughput is at least this share of the best.
NEAR_BEST = 0.98


@dataclass(frozen=True)
class Point:
    """A budget and the steps that were timed at it.

    Attributes:
        budget_bytes: The budget.
        mean_sizes: Sizes of a batch, mean over all batches of the plan: the timed ones are too few to tell.
        steps: The timed ones; none where they ran out of memory.
    """

    budget_bytes: int
    mean_sizes: Mapping[str, float]
    steps: tuple[TimedStep, ...]


@dataclass(frozen=True)
class CurvePoint:
    """What a budget brings.

    Attributes:
        budget_bytes: The budget.
        graphs_per_batch: Graphs in a batch, mean.
        seconds: Median seconds of a step.
        model_seconds: What the time model says of the same batches.
        graphs_per_second: Graphs trained on a second; likewise `edges_per_second`.
        edges_per_second: See `graphs_per_second`.
        scatter: How far repeats of the same step lie apart, a fraction.
    """

    budget_bytes: int
    graphs_per_batch: float
    seconds: float
    model_seconds: float
    graphs_per_second: float
    edges_per_second: float
    scatter: float


@dataclass(frozen=True)
class Advice:
    """Throughput against budget, and which budget to take.

    Attributes:
        curve: One point a budget, ascending.
        recommended_bytes: The smallest budget within 2% of the best throughput.
        largest_bytes: The largest budget that was timed and fits.
        time_model: Seconds as a function of sizes.
        context: Further facts for the record.
    """

    curve: tuple[CurvePoint, ...]
    recommended_bytes: int
    largest_bytes: int
    time_model: TimeModel
    context: Mapping[str, Any] = field(default_factory=dict)

    def at(self, budget: int) -> CurvePoint:
        """Return the point of a budget of the curve."""
        return next(point for point in self.curve if point.budget_bytes == budget)

    @property
    def sentence(self) -> str:
        """The recommendation."""
        chosen, largest = self.at(self.recommended_bytes), self.at(self.largest_bytes)
        best = max(point.graphs_per_second for point in self.curve)
        share = chosen.graphs_per_second / best
        text = (
            f"Give batches {format_bytes(chosen.budget_bytes)}, about {chosen.graphs_per_batch:.0f} graphs: "
            f"{format_rate(chosen.graphs_per_second)} graphs a second, {share:.0%} of the best measured"
        )
        if chosen is largest:
            return f"{text}; it is the largest budget that was timed."
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


def analyse(points: Sequence[Point], memory: int | None = None) -> Advice:
    """Work out the advice from timed steps.

    Args:
        points: Timed budgets, in any order.
        memory: Budgets over so many bytes do not fit; None: all that were timed do.

    Raises:
        DoesNotFitError: No budget fits.
        InputError: Fewer timed steps than the time model has coefficients.
    """
    fitting = [point for point in points if point.steps and (memory is None or point.budget_bytes <= memory)]
    if not fitting:
        raise DoesNotFitError(
            "no budget of the ladder fits",
            limit="" if memory is None else f"at most {format_bytes(memory)}",
            hint="give more memory, or train a smaller model",
        )
    fitting.sort(key=lambda point: point.budget_bytes)
    model = fit_times([step for point in points for step in point.steps])
    curve = tuple(_curve_point(point, model) for point in fitting)
    best = max(point.graphs_per_second for point in curve)
    near = [point.budget_bytes for point in curve if point.graphs_per_second >= NEAR_BEST * best]
    return Advice(curve, near[0], curve[-1].budget_bytes, model)


def _curve_point(point: Point, model: TimeModel) -> CurvePoint:
    # The batches of a plan are alike in what they need, so that the median of some stands for all.
    seconds = statistics.median(step.seconds for step in point.steps)
    return CurvePoint(
        budget_bytes=point.budget_bytes,
        graphs_per_batch=point.mean_sizes["graphs"],
        seconds=seconds,
        model_seconds=model.predict_seconds(point.mean_sizes),
        graphs_per_second=point.mean_sizes["graphs"] / seconds,
        edges_per_second=point.mean_sizes.get("edges", 0.0) / seconds,
        scatter=statistics.median(step.scatter for step in point.steps),
    )


def format_rate(count: float) -> str:
    """Write a number of things a second for people."""
    return f"{count:,.0f}" if count >= 100 else f"{count:.3g}"
