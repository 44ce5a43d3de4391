"""A quickstart: epochs measured with a fixed batch size and with a budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nodebudget.report.charts import Axis, Chart, Series, lines, thin
from nodebudget.report.formats import mean_std, number, percent
from nodebudget.report.provenance import facts_of, model_and_device
from nodebudget.report.report import Advice, Report, Table
from nodebudget.utils.byte_units import format_bytes

KIND = "nodebudget.quickstart"  #: What `nodebudget quickstart` writes as runs.json.
SCHEMA_VERSION = 1

_BYTES = {"predicted": "predicted_bytes", "measured": "measured_bytes"}


def quickstart_report(record: Mapping[str, Any]) -> Report:
    """Report on the runs of a quickstart, as `nodebudget.analysis.quickstart.run_quickstart` returns them."""
    model, device = model_and_device(record)
    rows = [{**run, "series": thin(run["measured_peaks"])} for run in record["runs"]]
    values: dict[str, Any] = {"model": model, "device": device, "memory": float(record["memory"]), "rows": rows}
    dropped = sum(run.get("graphs_left_out", 0) for run in record["runs"] if run["batching"] == "fixed")
    intro = f"Epochs with a fixed batch size and with a budget of {format_bytes(values['memory'])}"
    return Report(
        "Quickstart",
        f"{intro}, on {device}" if device else intro,
        tables=[_runs(rows)],
        notes=[f"The fixed runs drop {dropped} crystals in incomplete last batches."] if dropped else [],
        advice=_advice(values),
        draw=lambda: _charts(values),
        facts=facts_of(record),
        values=values,
    )


def _runs(runs: Sequence[Mapping[str, Any]]) -> Table:
    rows = []
    for run in runs:
        labels = [f"{run['dataset']}, {run['batching']}", number(run["batches"]), mean_std(**run["graphs_per_batch"])]
        for name, key in _BYTES.items():
            cells = [name, format_bytes(run[key]["mean"]), format_bytes(run[key]["max"]), percent(run[key]["cv"], 1)]
            rows.append([*(labels if name == "predicted" else [""] * 3), *cells])
    head = ["run", "batches", "graphs per batch", "peak", "mean", "max", "CV"]
    return Table(head, rows, "Peak memory of the training steps", ["peak"])


def _charts(values: Mapping[str, Any]) -> list[Chart]:
    """Draw the measured peak of every step, a chart for each dataset."""
    rows = values["rows"]
    highest = 1.15 * max([values["memory"], *(row["measured_bytes"]["max"] for row in rows)])
    charts = []
    for dataset in dict.fromkeys(row["dataset"] for row in rows):
        series = [Series("level", "capacity", "the budget", [], [values["memory"]])]
        for row in (row for row in rows if row["dataset"] == dataset):
            style = "fixed" if row["batching"] == "fixed" else "budget"
            series += lines(row["series"], style, f"{row['label']}, CV {percent(row['measured_bytes']['cv'], 1)}")
        y = Axis("measured peak", "bytes", low=0.0, high=highest)
        charts.append(Chart(f"Every training step, {dataset}", Axis("batch", whole=True), y, series))
    return charts


def _advice(values: Mapping[str, Any]) -> list[Advice]:
    """Compare the measured peaks of the budget with those of the fixed batch size."""
    advice = []
    for dataset in dict.fromkeys(row["dataset"] for row in values["rows"]):
        by = {row["batching"]: row for row in values["rows"] if row["dataset"] == dataset}
        fixed, budget = by["fixed"], by["budget"]
        text = f"Peaks on {dataset}: {_spread(fixed)} with {fixed['label']}, {_spread(budget)} with the budget."
        advice.append(Advice("good" if budget["measured_bytes"]["max"] <= values["memory"] else "warn", text))
    return advice


def _spread(row: Mapping[str, Any]) -> str:
    peaks = row["measured_bytes"]
    return f"mean {format_bytes(peaks['mean'])}, maximum {format_bytes(peaks['max'])} (CV {percent(peaks['cv'], 1)})"
