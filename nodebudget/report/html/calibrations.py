"""A calibration on a page: what a step takes, how well that is known, and where it was measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from nodebudget.calibration.memory_model import CONFIDENCE, Calibration, Observation, coefficient_name
from nodebudget.report.html.charts import Axis, Chart, Series
from nodebudget.report.html.words import Advice, counted, facts_of, model_and_device, percent
from nodebudget.utils.byte_units import format_bytes
from nodebudget.utils.size_labels import count_sizes, per_unit

#: Predictions with at most so much error, mean and under, on held-out steps can be relied on.
_GOOD_MEAN, _GOOD_UNDER = 0.01, 0.02

#: A step that differs from itself by more than this makes a calibration no better than that.
_NOISY = 0.01

_ROLES = {
    "fit": "fitted",
    "holdout": "held out",
    "floor": "lightest step",
    "repeat": "measured again",
    "out-of-memory": "out of memory",
}


def describe_calibration(calibration: Calibration) -> dict[str, Any]:
    """Return what a page shows of a calibration, as plain values; bytes and fractions."""
    weak = () if calibration.determination is None else calibration.determination.undetermined
    model, device = model_and_device(calibration.context)
    noise = calibration.context.get("noise")
    return {
        "model": model,
        "device": device,
        "facts": facts_of(calibration.context),
        "holdout": dict(calibration.holdout.__dict__),
        "fit": dict(calibration.fit.__dict__),
        "margin": float(calibration.bound.margin(0.0, CONFIDENCE)),
        "sure": CONFIDENCE,
        "reach": float(calibration.bound.max_measured),
        "noise": None if noise is None else float(noise),
        "condition": None if calibration.determination is None else calibration.determination.condition,
        "resident": calibration.resident,
        "floor": calibration.floor,
        "pieces": len(calibration.segments),
        "columns": list(calibration.columns),
        "coefficients": _coefficients(calibration, weak),
        "undetermined": [_cost_label(name, calibration) for name in weak],
        "observations": [_observation(calibration, entry) for entry in calibration.observations],
        "bound": _bound(calibration),
    }


def _coefficients(calibration: Calibration, weak: tuple[str, ...]) -> list[dict[str, Any]]:
    errors = {} if calibration.determination is None else calibration.determination.standard_errors
    rows = []
    for column in (None, *calibration.columns):
        name = "fixed" if column is None else coefficient_name(column)
        rows.append(
            {
                "name": name,
                "label": "fixed per step" if column is None else per_unit(column),
                "bytes": [piece.get(name, 0.0) for piece in calibration.segments],
                "standard_error": errors.get(name),
                "share": _share(calibration, column),
                "identifiable": name not in weak,
            }
        )
    return rows


def _share(calibration: Calibration, column: str | None) -> float | None:
    """Return how much of a mean graph's bytes a column holds, a fraction; None where the record does not say."""
    statistics = (calibration.context.get("data") or {}).get("statistics") or {}
    means = {
        name: 1.0 if name == "graphs" else (statistics.get(name) or {}).get("mean") for name in calibration.columns
    }
    if column is None or None in means.values():
        return None
    parts = {name: calibration.coefficient(name) * float(mean or 0.0) for name, mean in means.items()}
    return parts[column] / sum(parts.values()) if any(parts.values()) else None


def _cost_label(name: str, calibration: Calibration) -> str:
    return next((per_unit(column) for column in calibration.columns if coefficient_name(column) == name), name)


def _observation(calibration: Calibration, entry: Observation) -> dict[str, Any]:
    predicted = float(calibration.predict_bytes(**entry.sizes))
    lost = entry.role == "out-of-memory"
    return {
        "role": entry.role,
        "label": _ROLES.get(entry.role, entry.role),
        "sizes": {str(name): float(value) for name, value in entry.sizes.items()},
        "measured": float(entry.peak),
        "predicted": predicted,
        "error": None if lost else float(entry.peak) / predicted - 1,
        "reserved": None if entry.reserved is None else float(entry.reserved),
        "seconds": None if entry.seconds is None else float(entry.seconds),
    }


def _bound(calibration: Calibration) -> dict[str, list[float]]:
    """Return the margin from nothing to the largest step that was measured, and to a little more."""
    most = max([calibration.bound.max_measured, *(float(entry.peak) for entry in calibration.observations), 1.0])
    places = (
        np.array([0.0, calibration.bound.max_measured, 1.05 * most])
        if calibration.bound.n
        else np.array([0, 1.05 * most])
    )
    return {"predicted": places.tolist(), "margin": calibration.bound.margin(places, CONFIDENCE).tolist()}


def calibration_charts(values: Mapping[str, Any]) -> list[Chart]:
    """Draw measured peaks against predicted ones, and how far they are apart."""
    seen = [entry for entry in values["observations"] if entry["error"] is not None]
    if not seen:
        return []
    return [_against(values, seen), _errors(values, seen)]


def _against(values: Mapping[str, Any], seen: list[dict[str, Any]]) -> Chart:
    places, margin = values["bound"]["predicted"], values["bound"]["margin"]
    upper = [place * (1 + more) for place, more in zip(places, margin, strict=True)]
    return Chart(
        "Measured against predicted peak",
        Axis("predicted", "bytes", low=0.0),
        Axis("measured", "bytes", low=0.0),
        (
            Series("band", "bound", f"within the bound ({values['sure']:.0%} sure)", places, upper, places),
            Series("line", "exact", "exactly as predicted", places, places),
            *_dots(seen, "measured"),
        ),
        note=f"The band above the line is what budgets add: {percent(values['margin'])}.",
    )


def _errors(values: Mapping[str, Any], seen: list[dict[str, Any]]) -> Chart:
    places, margin = values["bound"]["predicted"], values["bound"]["margin"]
    most = 1.25 * max([*margin, *(abs(entry["error"]) for entry in seen), 1e-6])
    return Chart(
        "How far measured peaks are from predicted ones",
        Axis("predicted", "bytes", low=0.0),
        Axis("measured above predicted", "percent", low=-most, high=most),
        (
            Series("band", "bound", "the bound", places, margin, [-entry for entry in margin]),
            Series("level", "exact", "", [], [0.0]),
            *_dots(seen, "error"),
        ),
        note=f"A step above the band would go over its budget; about {1 - values['sure']:.0%} are expected to.",
    )


def _dots(seen: list[dict[str, Any]], what: str) -> list[Series]:
    found = []
    for style, label, roles in (
        ("fitted", "fitted", ("fit",)),
        ("other", "lightest step, repeat", ("floor", "repeat")),
        ("heldout", "held out", ("holdout",)),
    ):
        chosen = [entry for entry in seen if entry["role"] in roles]
        if chosen:
            found.append(
                Series(
                    "dots",
                    style,
                    f"{label} ({len(chosen)})",
                    [entry["predicted"] for entry in chosen],
                    [entry[what] for entry in chosen],
                    titles=[_title(entry) for entry in chosen],
                )
            )
    return found


def _title(entry: Mapping[str, Any]) -> str:
    sizes = count_sizes(entry["sizes"])
    return (
        f"{entry['label']}: measured {format_bytes(entry['measured'])}, predicted {format_bytes(entry['predicted'])} "
        f"({entry['error']:+.2%}); {sizes}"
    )


def calibration_advice(values: Mapping[str, Any]) -> list[Advice]:
    """Say how far a calibration can be relied on, and what would better it."""
    found = [_quality(values)]
    noise = values["noise"]
    if noise is not None and noise > _NOISY:
        found.append(
            Advice(
                "warn",
                f"The same step measured twice differs by {noise:.1%}: something else allocates on the device. "
                "Calibrate again with the device to yourself.",
            )
        )
    if values["undetermined"]:
        names = ", ".join(values["undetermined"])
        found.append(
            Advice(
                "note",
                f"The coefficients {names} are not identifiable from this data: their cost is in the other coefficients. "
                "Predictions hold for data like this; calibrate again for graphs that are built in another way.",
            )
        )
    lost = sum(entry["role"] == "out-of-memory" for entry in values["observations"])
    if lost:
        found.append(
            Advice(
                "note",
                counted(lost, "probe ran out of memory and is", "probes ran out of memory and are")
                + " not in the fit.",
            )
        )
    return found


def _quality(values: Mapping[str, Any]) -> Advice:
    held, sure = values["holdout"], f"{values['sure']:.0%}"
    if not held["n"]:
        return Advice("warn", "No step was held out, so its error is not known: make it with 'nodebudget calibrate'.")
    text = (
        f"Predictions are off by {percent(held['mape'])} on average and under by at most {percent(held['max_under'])}, "
        f"on {held['n']} held-out steps. Budgets made with it add {percent(values['margin'])}"
    )
    if held["mape"] <= _GOOD_MEAN and held["max_under"] <= _GOOD_UNDER:
        return Advice("good", f"{text}: each batch keeps to them with {sure} probability.")
    return Advice(
        "warn",
        f"{text} to be {sure} sure, which is memory not used: calibrate with more steps (nodebudget calibrate "
        "--probes 48), or with nothing else on the device.",
    )
