"""A calibration: the memory cost of each part of a batch, how accurate it is, and where it was measured."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nodebudget.analysis.device_budget import DeviceBudget
from nodebudget.calibration.memory_model import CONFIDENCE, Calibration, Observation, coefficient_name
from nodebudget.datasets.size_table import SizeTable
from nodebudget.report.charts import Axis, Chart, Series
from nodebudget.report.formats import counted, duration, number, or_dash, percent
from nodebudget.report.provenance import facts_of, model_and_device
from nodebudget.report.report import Advice, Report, Table
from nodebudget.utils.byte_units import format_bytes
from nodebudget.utils.size_labels import count_sizes, per_unit, size_label

#: Predictions within these errors on held-out steps, mean and maximum underprediction, can be relied on.
_GOOD_MEAN, _GOOD_UNDER = 0.01, 0.02

_NOISY = 0.01  #: A step that differs from itself by more than this limits how accurate a calibration can be.

#: Roles of measured steps: label, then label of a series of them and its style, if they are drawn.
_ROLES = {
    "fit": ("fitted", "fitted"),
    "holdout": ("held out", "heldout"),
    "floor": ("smallest step", "other"),
    "repeat": ("measured again", "other"),
    "out-of-memory": ("out of memory", ""),
}


def calibration_report(
    calibration: Calibration,
    sizes: SizeTable | None = None,
    batch_size: int = 64,
    data: str = "your data",
    budgets: Sequence[DeviceBudget] = (),
) -> Report:
    """Report on a calibration, with the memory of batches of `data`, and what devices leave for a training step."""
    context, holdout = calibration.context, calibration.holdout
    name, device = model_and_device(context), context.get("device", {})
    return Report(
        "Calibration",
        f"Peak memory of a training step{' of ' if name[0] else ''}{name[0]} on {device.get('device', 'the device')} "
        f"({device.get('name', 'unknown')})",
        {
            "mean error on held-out steps": percent(holdout.mape) if holdout.n else "not known",
            "max underprediction": percent(holdout.max_under) if holdout.n else "not known",
            f"added for {CONFIDENCE:.0%} confidence": percent(_margin(calibration)),
            "largest measured step": format_bytes(calibration.bound.max_measured),
        },
        [_costs(calibration), *([_steps(calibration)] if calibration.observations else []), *map(_budget, budgets)],
        [*_notes(calibration), *(_batches(calibration, sizes, batch_size, data) if sizes else ())],
        [*_advice(calibration), *(Advice("note", budget.advice) for budget in budgets if budget.advice)],
        lambda: _charts(calibration),
        facts_of(context),
        calibration.to_dict(),
    )


def device_budget_report(budget: DeviceBudget) -> Report:
    """Report on the memory of a device that is left for a training step."""
    return Report("Device budget", tables=[_budget(budget)], notes=[budget.advice] if budget.advice else [])


def _budget(budget: DeviceBudget) -> Table:
    rows = [["the device", format_bytes(budget.capacity)]]
    rows += [[what, f"- {format_bytes(count)}"] for what, count in budget.lines]
    rows.append(["left for a training step", format_bytes(budget.memory)])
    return Table([f"{budget.setting} segments", "memory"], rows)


def _margin(calibration: Calibration) -> float:
    return float(calibration.bound.margin(0.0, CONFIDENCE))


def _weak(calibration: Calibration) -> Sequence[str]:
    return () if calibration.determination is None else calibration.determination.undetermined


def _costs(calibration: Calibration) -> Table:
    segments, shares = calibration.segments, _shares(calibration)
    errors = {} if calibration.determination is None else calibration.determination.standard_errors
    weak, rows = _weak(calibration), []
    for column in ("", *calibration.columns):
        name = coefficient_name(column) if column else "fixed"
        costs = [format_bytes(segment.get(name, 0.0)) for segment in segments]
        cost, error = segments[0].get(name, 0.0), errors.get(name)
        relative = "–" if error is None or not cost else percent(error / cost)
        share = or_dash(shares.get(column), lambda share: percent(share, 1))
        note = ["not identifiable" if name in weak else ""] if weak else []
        rows.append([per_unit(column) if column else "fixed per step", *costs, relative, share, *note])
    memory = ["memory"] if len(segments) == 1 else [f"memory, segment {place + 1}" for place in range(len(segments))]
    head = ["part of a batch", *memory, "standard error", "of a mean graph", *([""] if weak else [])]
    return Table(head, rows, "Memory cost", [""])


def _shares(calibration: Calibration) -> dict[str, float]:
    """Return the fraction of a mean graph's bytes that each column accounts for, where the record says."""
    statistics = {**((calibration.context.get("data") or {}).get("statistics") or {}), "graphs": {"mean": 1.0}}
    parts = {}
    for name in calibration.columns:
        mean = (statistics.get(name) or {}).get("mean")
        if mean is None:
            return {}
        parts[name] = calibration.coefficient(name) * float(mean)
    return {name: part / sum(parts.values()) for name, part in parts.items()} if any(parts.values()) else {}


def _error(calibration: Calibration, step: Observation) -> float | None:
    lost = step.role == "out-of-memory"
    return None if lost else float(step.peak) / float(calibration.predict_bytes(**step.sizes)) - 1


def _steps(calibration: Calibration) -> Table:
    rows = [
        [
            _ROLES.get(step.role, (step.role,))[0],
            *(or_dash(step.sizes.get(name), number) for name in calibration.columns),
            format_bytes(step.peak),
            format_bytes(calibration.predict_bytes(**step.sizes)),
            or_dash(_error(calibration, step), lambda error: f"{error:+.2%}"),
            or_dash(step.reserved, format_bytes),
            or_dash(step.seconds, duration),
        ]
        for step in calibration.observations
    ]
    head = ["step", *map(size_label, calibration.columns), "measured", "predicted", "error", "reserved", "time"]
    return Table(head, rows, f"All {len(rows)} measured steps", page_only="folded")


def _notes(calibration: Calibration) -> list[str]:
    noise, fit = calibration.context.get("noise"), calibration.determination
    notes = [f"{format_bytes(calibration.resident)} live between steps; no step takes less than "]
    notes[0] += f"{format_bytes(calibration.floor)}."
    segments = len(calibration.segments)
    if segments > 1:
        notes.append(f"The peak is the maximum over {segments} segments; errors are of the first.")
    if fit is not None:
        notes.append(f"Condition number of the fit: {number(fit.condition)}.")
    if noise is not None:
        notes.append(f"The same step measured twice differs by {percent(noise)}.")
    return notes


def _batches(calibration: Calibration, sizes: SizeTable, batch_size: int, data: str) -> list[str]:
    costs = calibration.graph_bytes(sizes)
    mean = float(costs.mean()) * batch_size + calibration.fixed
    spread = 2 * float(np.std(costs)) * batch_size**0.5
    low, high = format_bytes(max(mean - spread, calibration.fixed)), format_bytes(mean + spread)
    return [f"A batch of {batch_size} graphs of {data}: mean {format_bytes(mean)}, typically {low} to {high}."]


def _charts(calibration: Calibration) -> list[Chart]:
    steps = [step for step in calibration.observations if _ROLES.get(step.role, ("", ""))[1]]
    if not steps:
        return []
    bound, peaks = calibration.bound, [float(step.peak) for step in steps]
    end = 1.05 * max(bound.max_measured, *peaks)
    places = [0.0, bound.max_measured, end] if bound.n else [0.0, end]
    margin = bound.margin(np.array(places), CONFIDENCE).tolist()
    upper = [place * (1 + share) for place, share in zip(places, margin, strict=True)]
    errors = [_error(calibration, step) or 0.0 for step in steps]
    largest = 1.25 * max([*margin, *map(abs, errors), 1e-6])
    predicted, label = Axis("predicted", "bytes", low=0.0), f"{CONFIDENCE:.0%} bound"
    return [
        Chart(
            "Measured against predicted peak",
            predicted,
            Axis("measured", "bytes", low=0.0),
            (
                Series("band", "bound", label, places, upper, places),
                Series("line", "exact", "exactly as predicted", places, places),
                *_dots(calibration, steps, peaks),
            ),
            note=f"The band above the line is the margin that budgets add: {percent(_margin(calibration))}.",
        ),
        Chart(
            "Error of predicted peaks",
            predicted,
            Axis("measured above predicted", "percent", low=-largest, high=largest),
            (
                Series("band", "bound", label, places, margin, [-share for share in margin]),
                Series("level", "exact", "", [], [0.0]),
                *_dots(calibration, steps, errors),
            ),
            note=f"A step above the band goes over its budget; about {1 - CONFIDENCE:.0%} are expected to.",
        ),
    ]


def _dots(calibration: Calibration, steps: Sequence[Observation], y: Sequence[float]) -> list[Series]:
    predicted = [float(calibration.predict_bytes(**step.sizes)) for step in steps]
    series = []
    for style, label in (("fitted", "fitted"), ("other", "smallest step, repeat"), ("heldout", "held out")):
        places = [place for place, step in enumerate(steps) if _ROLES[step.role][1] == style]
        titles = [
            f"{_ROLES[steps[place].role][0]}: measured {format_bytes(steps[place].peak)}, predicted "
            f"{format_bytes(predicted[place])}; {count_sizes(steps[place].sizes)}"
            for place in places
        ]
        if places:
            x, chosen = [predicted[place] for place in places], [y[place] for place in places]
            series.append(Series("dots", style, f"{label} ({len(places)})", x, chosen, titles=titles))
    return series


def _advice(calibration: Calibration) -> list[Advice]:
    advice, noise = [_accuracy(calibration)], calibration.context.get("noise")
    if noise is not None and noise > _NOISY:
        text = f"The same step measured twice differs by {noise:.1%}: another process allocates on the device. "
        advice.append(Advice("warn", text + "Calibrate again while nothing else runs on it."))
    weak = [per_unit(column) for column in calibration.columns if coefficient_name(column) in _weak(calibration)]
    if weak:
        text = f"Not identifiable from this data: the cost {', '.join(weak)}, which is in the other coefficients. "
        text += "Predictions hold for data like this; calibrate again for graphs that are built in another way."
        advice.append(Advice("note", text))
    lost = sum(entry.role == "out-of-memory" for entry in calibration.observations)
    if lost:
        text = counted(lost, "probe ran out of memory and is", "probes ran out of memory and are")
        advice.append(Advice("note", f"{text} not in the fit."))
    return advice


def _accuracy(calibration: Calibration) -> Advice:
    holdout = calibration.holdout
    if not holdout.n:
        return Advice("warn", "No step was held out, so the error is not known: use 'nodebudget calibrate'.")
    text = (
        f"Held-out error over {holdout.n} steps: {percent(holdout.mape)} mean, {percent(holdout.max_under)} max "
        f"underprediction. Budgets add {percent(_margin(calibration))}, more beyond "
        f"{format_bytes(calibration.bound.max_measured)}, so that a batch fits with {CONFIDENCE:.0%} confidence"
    )
    if holdout.mape <= _GOOD_MEAN and holdout.max_under <= _GOOD_UNDER:
        return Advice("good", f"{text}.")
    text += ". To lower this margin, calibrate with more steps (nodebudget calibrate --probes 48), or while nothing "
    return Advice("warn", f"{text}else runs on the device.")
