"""Throughput against budget, and which budget to train with."""

from __future__ import annotations

from nodebudget.analysis.throughput import NEAR_BEST, Advice, format_rate
from nodebudget.report import report as base
from nodebudget.report.charts import Axis, Chart, Series
from nodebudget.report.formats import duration
from nodebudget.report.report import Report, Table
from nodebudget.utils.byte_units import format_bytes
from nodebudget.utils.size_labels import per_unit


def throughput_report(advice: Advice) -> Report:
    """Report on the throughput at each budget, and on what the time of a step consists of."""
    best = max(point.graphs_per_second for point in advice.curve)
    rows = [
        [
            format_bytes(point.budget_bytes) + (" *" if point.budget_bytes == advice.recommended_bytes else ""),
            f"{point.graphs_per_batch:.1f}",
            duration(point.seconds),
            format_rate(point.graphs_per_second),
            format_rate(point.edges_per_second),
            f"{point.graphs_per_second / best:.1%}",
        ]
        for point in advice.curve
    ]
    head = ["budget", "graphs per batch", "time per step", "graphs per second", "edges per second", "of the best"]
    parts = [
        f"{duration(weight)} {name if name == 'fixed' else per_unit(name.removeprefix('per_') + 's')}"
        for name, weight in advice.time_model.coefficients.items()
        if weight
    ]
    notes = [f"Time of a step: {' + '.join(parts)} (mean error {advice.time_model.mape:.1%})."]
    scatter = max(point.scatter for point in advice.curve)
    if scatter > 1 - NEAR_BEST:
        notes.append(
            f"Repeats of a step differ by up to ±{scatter:.0%}, so smaller differences between budgets are noise: "
            "time more repeats, or while nothing else runs on the device."
        )
    recommended = base.Advice("note", advice.sentence)
    return Report("Throughput", "", {}, [Table(head, rows)], notes, [recommended], lambda: [_chart(advice)])


def _chart(advice: Advice) -> Chart:
    """Draw throughput against budget, measured and by the time model, with the recommended budget marked."""
    budgets = [point.budget_bytes for point in advice.curve]
    chosen = advice.at(advice.recommended_bytes)
    measured = [point.graphs_per_second for point in advice.curve]
    model = [point.graphs_per_batch / point.model_seconds for point in advice.curve]
    # Powers of two are round numbers, unlike the budgets.
    powers = [2**power for power in range(64) if 0.7 * budgets[0] <= 2**power <= 1.4 * budgets[-1]]
    ticks = powers[:: max(1, len(powers) // 8)] if len(powers) > 1 else budgets
    label = f"recommended: {format_bytes(chosen.budget_bytes)}"
    return Chart(
        "Throughput against budget",
        Axis("budget of a batch", ticks=[(tick, format_bytes(tick)) for tick in ticks], log=True),
        Axis("graphs per second", low=0.0, high=1.15 * max(*measured, *model)),
        (
            Series("line", "predicted", "time model", budgets, model),
            Series("line", "measured", "measured", budgets, measured),
            Series("dots", "measured", "", budgets, measured),
            Series("dots", "capacity", label, [chosen.budget_bytes], [chosen.graphs_per_second]),
        ),
    )
