"""A plan on a page: its batches beside those of a fixed batch size on the same data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from nodebudget.calibration.memory_model import Calibration, ErrorSummary
from nodebudget.datasets.size_table import SizeTable
from nodebudget.report.html.charts import Axis, Chart, Series, lines, thin
from nodebudget.report.html.datasets import fits
from nodebudget.report.html.words import Advice, counted, percent
from nodebudget.sampling.budget import BYTES
from nodebudget.sampling.plan_io import SavedPlan
from nodebudget.utils.byte_units import format_bytes
from nodebudget.utils.size_labels import size_label

Floats = npt.NDArray[np.float64]

#: Entries of a plan's file that a page has no use for.
_LEFT_OUT = ("kind", "schema_version", "oversized_graphs")

_FIXED = (
    "Fixed: one shuffled epoch of the same data; its last, incomplete batch is dropped, as loaders for training do."
)

#: Under so many graphs a batch gradients are rough.
_FEW = 4

#: Batches fuller than this leave nothing to say.
_FULL = 0.9

#: A budget over so many times the largest measured step rests on little.
_FAR = 2.0


def describe_plan(
    plan: SavedPlan,
    tables: Sequence[tuple[str, SizeTable]],
    calibrations: Sequence[tuple[str, Calibration]],
    batch_size: int | None,
) -> dict[str, Any]:
    """Return what a page shows of a plan, as plain values.

    Args:
        plan: As its file has it.
        tables: Sizes that are there: those that the plan was made of are known by their fingerprint.
        calibrations: Those that are there; the one that the plan was made with is known by its coefficients.
        batch_size: Graphs of the fixed batches to compare with; None for as many as the plan's have on average.
    """
    limits = plan.about["limits"]
    found = next(((name, table) for name, table in tables if table.fingerprint() == plan.about["data"]), None)
    usable = [entry for entry in calibrations if found is None or fits(entry[1], found[1])]
    known = _calibration(limits, usable)
    values = {
        **{key: value for key, value in plan.about.items() if key not in _LEFT_OUT},
        "limit": _limit(limits),
        "sizes": None if found is None else found[0],
        "calibration": None if known is None else known[0],
        "reach": (limits["bound"] or {}).get("reach"),
        "graphs_a_batch": _described(plan.graphs.astype(np.float64), None),
        "measure": None,
        "cap": None,
        "budget": None,
        "fixed": None,
    }
    if found is not None:
        size = batch_size or max(1, round(float(plan.graphs.mean())))
        values |= _side_by_side(plan, found[1], known, size)
    return values


def _calibration(
    limits: Mapping[str, Any], calibrations: Sequence[tuple[str, Calibration]]
) -> tuple[str, Calibration | None] | None:
    """Find what predicts bytes: the plan's own calibration (("", None) where that is not there), else any."""
    if limits["coefficients"] is None:
        return next(iter(calibrations), None)
    own = [[dict(piece) for piece in known.segments] == limits["coefficients"] for _, known in calibrations]
    return calibrations[own.index(True)] if any(own) else ("", None)


def _limit(limits: Mapping[str, Any]) -> str:
    parts = [f"{value:,} {size_label(name)}" for name, value in limits["caps"].items()]
    parts += [f"{limits['max_graphs']:,} graphs"] if limits["max_graphs"] is not None else []
    parts += [format_bytes(limits["memory"])] if limits["memory"] is not None else []
    return ", ".join(parts)


def _side_by_side(
    plan: SavedPlan, sizes: SizeTable, known: tuple[str, Calibration | None] | None, batch_size: int
) -> dict[str, Any]:
    limits = plan.about["limits"]
    calibration = None if known is None else known[1] or _rebuilt(limits, sizes)
    if calibration is not None:
        measure, cap = BYTES, limits["memory"]
    else:
        measure = plan.about["balanced"]["column"]
        cap = limits["caps"].get(measure)
    order = np.random.default_rng(0).permutation(len(sizes))
    whole = len(order) // batch_size * batch_size
    fixed = SavedPlan({}, order[:whole], np.arange(0, whole + 1, batch_size))
    return {
        "measure": "bytes" if measure == BYTES else measure,
        "cap": cap,
        "budget": _described(_loads(plan, sizes, calibration, measure), cap),
        "fixed": None
        if not whole
        else {
            **_described(_loads(fixed, sizes, calibration, measure), cap),
            "batch_size": batch_size,
            "left_out": len(order) - whole,
        },
    }


def _rebuilt(limits: Mapping[str, Any], sizes: SizeTable) -> Calibration:
    """Make a calibration of the coefficients that a plan holds: it predicts, and knows no error."""
    first, *others = limits["coefficients"]
    none = ErrorSummary(0.0, 0.0, 0)
    return Calibration(first, ("graphs", *sizes.columns), 0.0, 0.0, none, none, tuple(others))


def _loads(plan: SavedPlan, sizes: SizeTable, calibration: Calibration | None, measure: str) -> Floats:
    """Return what each batch holds of the measure, shape (batches,)."""
    if calibration is None:
        return np.asarray(plan.loads(sizes[measure]), dtype=np.float64)
    totals: dict[str, Any] = {
        name: plan.loads(values) for name, values in sizes.columns.items() if name in calibration.columns
    }
    return np.asarray(calibration.predict_bytes(graphs=plan.graphs, **totals), dtype=np.float64)


def _described(loads: Floats, cap: float | None) -> dict[str, Any]:
    mean = float(loads.mean())
    return {
        "batches": len(loads),
        "mean": mean,
        "std": float(loads.std()),
        "max": float(loads.max()),
        "cv": float(loads.std()) / mean if mean else 0.0,
        "over": None if cap is None else int((loads > cap).sum()),
        "series": thin(loads.tolist()),
    }


def plan_charts(values: Mapping[str, Any]) -> list[Chart]:
    """Draw what each batch holds, fixed against budget; where the sizes are not known, its number of graphs."""
    if values["budget"] is None:
        return [
            Chart(
                "Graphs in each batch",
                Axis("batch", whole=True),
                Axis("graphs", low=0.0, high=1.25 * values["graphs_a_batch"]["max"], whole=True),
                tuple(lines(values["graphs_a_batch"]["series"], "budget", "budget")),
                wide=True,
            )
        ]
    measure, cap, fixed = values["measure"], values["cap"], values["fixed"]
    most = max(values["budget"]["max"], cap or 0.0, fixed["max"] if fixed else 0.0)
    series = [Series("level", "capacity", "the budget", [], [cap])] if cap else []
    if fixed:
        series += lines(fixed["series"], "fixed", f"batch size {fixed['batch_size']:,}")
    series += lines(values["budget"]["series"], "budget", "budget")
    return [
        Chart(
            f"What each batch of an epoch takes, {size_label(measure)}",
            Axis("batch", whole=True),
            Axis(size_label(measure), "bytes" if measure == "bytes" else "", low=0.0, high=1.12 * most),
            tuple(series),
            note=_FIXED if fixed else "",
            wide=True,
        )
    ]


def plan_advice(values: Mapping[str, Any]) -> list[Advice]:
    """Say what a plan makes of the memory, and what to look at."""
    found = []
    counts, fixed, budget = values["graphs_per_batch"], values["fixed"], values["budget"]
    if fixed and budget:
        found.append(Advice("good" if budget["cv"] <= fixed["cv"] else "note", _against_fixed(values)))
    else:
        found.append(Advice("note", _alone(values)))
    if values["oversized"]:
        found.append(Advice("warn", _oversized(values)))
    if counts["mean"] < _FEW:
        found.append(
            Advice(
                "warn", f"Only {counts['mean']:.1f} graphs fit in a batch: a larger budget gives steadier gradients."
            )
        )
    if values["fill"] < _FULL and values["pack"] == "balanced":
        found.append(Advice("note", _fill(values)))
    memory = values["limits"]["memory"]
    if memory and values["reach"] and memory > _FAR * values["reach"]:
        found.append(
            Advice(
                "warn",
                f"The budget of {format_bytes(memory)} is far beyond the largest step that was measured, "
                f"{format_bytes(values['reach'])}: calibrate with a larger --max-graphs.",
            )
        )
    return found


def _against_fixed(values: Mapping[str, Any]) -> str:
    fixed, budget = values["fixed"], values["budget"]
    show = format_bytes if values["measure"] == "bytes" else lambda value: f"{value:,.0f}"
    what = size_label(values["measure"])
    text = (
        f"{_batches(values)} vary by {percent(budget['cv'])} in {what}, at most {show(budget['max'])}. A fixed batch "
        f"size of {fixed['batch_size']:,} on the same data varies by {fixed['cv']:.1%}, and its worst batch takes "
        f"{show(fixed['max'])}"
    )
    if fixed["over"]:
        text += f"; {fixed['over']:,} of its {fixed['batches']:,} batches {_go(fixed['over'])} over the budget"
    return text + "."


def _go(count: int) -> str:
    return "goes" if count == 1 else "go"


def _oversized(values: Mapping[str, Any]) -> str:
    if values["oversized_policy"] == "skip":
        text = counted(values["oversized"], "graph is", "graphs are") + " left out of training"
    else:
        text = counted(values["oversized"], "graph goes", "graphs go") + " over the budget, each in a batch of its own"
    return f"{text}: raise the budget if that is not meant."


def _alone(values: Mapping[str, Any]) -> str:
    cv, column = values["balanced"]["cv"], values["balanced"]["column"]
    return (
        f"{_batches(values)} vary by {percent(cv)} in {size_label(column)}. Give the sizes that it was planned "
        "for too, to see it beside a fixed batch size."
    )


def _batches(values: Mapping[str, Any]) -> str:
    counts = values["graphs_per_batch"]
    return f"{values['batches']:,} batches of {counts['mean']:.1f} ± {counts['std']:.1f} graphs"


def _fill(values: Mapping[str, Any]) -> str:
    # As many batches as no plan can do without: the rest of the memory is no waste of this one.
    if values["batches"] <= values["lower_bound"]:
        return (
            f"Batches are {values['fill']:.0%} full: one batch fewer would not hold all graphs, and these are equal "
            "parts of them."
        )
    return f"Batches are {values['fill']:.0%} full, {values['batches']:,} where {values['lower_bound']:,} might do."
