"""Throughput against budget, as a table and a picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, BinaryIO

from nodebudget.analysis.throughput import NEAR_BEST, Advice, CurvePoint, format_rate
from nodebudget.report.text import render, table_of
from nodebudget.utils.byte_units import format_bytes
from nodebudget.utils.optional_imports import require
from nodebudget.utils.size_labels import per_unit

# Two colours that stay apart for colour-blind eyes (Okabe and Ito, 2008) and in grey print.
_MEASURED, _MODEL = "#0072b2", "#d55e00"

_SECONDS = (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6), ("ns", 1e-9))


def format_seconds(seconds: float) -> str:
    """Write seconds for people: three significant digits with a unit, such as "12.3 ms"."""
    if seconds == 0:
        return "0 s"
    unit, scale = next((entry for entry in _SECONDS if seconds >= 0.9995 * entry[1]), _SECONDS[-1])
    return f"{seconds / scale:#.3g}".rstrip(".") + f" {unit}"


def curve_text(advice: Advice) -> str:
    """Describe how fast training goes at which budget, and what a step's time is made of."""
    best = max(point.graphs_per_second for point in advice.curve)
    head = ["budget", "graphs a batch", "a step", "graphs a second", "edges a second", "of the best"]
    rows = [_row(point, best, point.budget_bytes == advice.recommended_bytes) for point in advice.curve]
    parts = [
        f"{format_seconds(weight)} {_unit(name)}" for name, weight in advice.time_model.coefficients.items() if weight
    ]
    text = [
        render(table_of(head, rows)),
        f"Time of a step: {' + '.join(parts)} (mean error {advice.time_model.mape:.1%}).",
        advice.sentence,
    ]
    scatter = max(point.scatter for point in advice.curve)
    if scatter > 1 - NEAR_BEST:
        text.append(
            f"Repeats of a step differ by up to ±{scatter:.0%}, so budgets nearer than that are not told apart: "
            "time more repeats, or on a device with nothing else to do."
        )
    return "\n".join(text)


def _row(point: CurvePoint, best: float, recommended: bool) -> list[str]:
    return [
        format_bytes(point.budget_bytes) + (" *" if recommended else ""),
        f"{point.graphs_per_batch:.1f}",
        format_seconds(point.seconds),
        format_rate(point.graphs_per_second),
        format_rate(point.edges_per_second),
        f"{point.graphs_per_second / best:.1%}",
    ]


def _unit(name: str) -> str:
    if name == "fixed":
        return name
    return per_unit(name.removeprefix("per_") + "s")


def draw_curve(advice: Advice, file: BinaryIO, *, caption: str = "") -> None:
    """Draw throughput against budget, measured and as the time model has it, with the recommended budget marked.

    Args:
        advice: What `nodebudget.analysis.throughput.analyse` found.
        file: Where the PNG goes.
        caption: Said under the panel: what was measured on what.

    Raises:
        MissingError: matplotlib is not there.
    """
    require("matplotlib").use("Agg")
    pyplot = require("matplotlib.pyplot")
    figure, axis = pyplot.subplots(figsize=(6.4, 4.0), layout="constrained")
    budgets = [point.budget_bytes for point in advice.curve]
    axis.plot(
        budgets,
        [point.graphs_per_batch / point.model_seconds for point in advice.curve],
        color=_MODEL,
        linewidth=1.2,
        linestyle="--",
        label="time model",
    )
    axis.plot(budgets, [point.graphs_per_second for point in advice.curve], "o-", color=_MEASURED, label="measured")
    _mark(axis, advice)
    _axes(axis, budgets)
    if caption:
        figure.supxlabel(caption, fontsize=8, color="#555555")
    figure.savefig(file, format="png", dpi=130)
    pyplot.close(figure)


def _mark(axis: Any, advice: Advice) -> None:
    chosen = advice.at(advice.recommended_bytes)
    axis.plot(
        [chosen.budget_bytes],
        [chosen.graphs_per_second],
        "o",
        markersize=13,
        markerfacecolor="none",
        markeredgecolor="#222222",
        label=f"recommended: {format_bytes(chosen.budget_bytes)}",
    )


def _axes(axis: Any, budgets: Sequence[int]) -> None:
    axis.set_xscale("log", base=2)
    # Powers of two between the budgets read better than the budgets themselves, which are no round numbers.
    powers = [2**power for power in range(64) if 0.7 * budgets[0] <= 2**power <= 1.4 * budgets[-1]]
    marks = powers[:: max(1, len(powers) // 8)] if len(powers) > 1 else list(budgets)
    axis.set_xticks(marks, labels=[format_bytes(mark) for mark in marks], fontsize=8)
    axis.xaxis.set_minor_locator(require("matplotlib.ticker").NullLocator())
    axis.set_ylim(0, 1.15 * axis.get_ylim()[1])
    axis.set_xlabel("budget of a batch")
    axis.set_ylabel("graphs a second")
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis="y", color="#e5e5e5", linewidth=0.8)
    axis.legend(frameon=False, fontsize=9, loc="lower right")
