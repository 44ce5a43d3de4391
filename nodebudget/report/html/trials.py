"""A quickstart on a page: epochs measured with a fixed batch size and with a budget."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nodebudget.report.html.charts import Axis, Chart, Series, lines, thin
from nodebudget.report.html.words import Advice, facts_of, model_and_device, percent
from nodebudget.utils.byte_units import format_bytes

#: What `nodebudget quickstart` writes as runs.json.
KIND = "nodebudget.quickstart"
SCHEMA_VERSION = 1


def describe_trial(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a page shows of the measured epochs of a quickstart, as plain values."""
    model, device = model_and_device(record)
    return {
        "model": model,
        "device": device,
        "facts": facts_of(record),
        "memory": float(record["memory"]),
        "rows": [{**run, "series": thin(run["measured_peaks"])} for run in record["runs"]],
    }


def trial_charts(values: Mapping[str, Any]) -> list[Chart]:
    """Draw the measured peak of every step, a chart a dataset."""
    rows = values["rows"]
    most = 1.15 * max([values["memory"], *(row["measured_bytes"]["max"] for row in rows)])
    return [
        Chart(
            f"Measured peak of every training step, {dataset}",
            Axis("batch", whole=True),
            Axis("measured peak", "bytes", low=0.0, high=most),
            (
                Series("level", "capacity", "the budget", [], [values["memory"]]),
                *(
                    series
                    for row in rows
                    if row["dataset"] == dataset
                    for series in lines(row["series"], _style(row), row["label"])
                ),
            ),
        )
        for dataset in dict.fromkeys(row["dataset"] for row in rows)
    ]


def _style(row: Mapping[str, Any]) -> str:
    return "fixed" if row["batching"] == "fixed" else "budget"


def trial_advice(values: Mapping[str, Any]) -> list[Advice]:
    """Say what the budget did to the measured peaks."""
    found = []
    for dataset in dict.fromkeys(row["dataset"] for row in values["rows"]):
        by = {row["batching"]: row for row in values["rows"] if row["dataset"] == dataset}
        fixed, budget = by["fixed"], by["budget"]
        text = f"Measured on {dataset}: {fixed['label']} takes {_spread(fixed)}; the budget {_spread(budget)}."
        found.append(Advice("good" if budget["measured_bytes"]["max"] <= values["memory"] else "warn", text))
    return found


def _spread(row: Mapping[str, Any]) -> str:
    peaks = row["measured_bytes"]
    return f"{format_bytes(peaks['mean'])} on average, {format_bytes(peaks['max'])} at most (CV {percent(peaks['cv'])})"
