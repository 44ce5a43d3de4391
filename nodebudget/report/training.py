"""What a budgeted run of alignn starts with: memory model, memory of a step, and plan."""

from __future__ import annotations

from nodebudget.integrations.alignn_train import TrainingBudget
from nodebudget.report.formats import mean_std
from nodebudget.report.report import Report, Table
from nodebudget.sampling.plan import Plan
from nodebudget.utils.byte_units import format_bytes


def training_report(budget: TrainingBudget) -> Report:
    """Report on what was computed before the first epoch."""
    calibration, device = budget.calibration, budget.device
    costs = " + ".join(
        f"{format_bytes(value)} {name.replace('_', ' ').replace('line edge', 'line-graph edge')}"
        for name, value in calibration.coefficients.items()
        if name != "fixed" and value
    )
    name = calibration.context.get("model", {}).get("name", "the model")
    intro = (
        f"{name} ({budget.origin}, held-out error {calibration.holdout.mape:.2%}): "
        f"{format_bytes(calibration.coefficients['fixed'])} + {costs}"
    )
    lines = [] if device is None else [[what, f"- {format_bytes(count)}"] for what, count in device.lines]
    device_rows = [] if device is None else [["the device", format_bytes(device.capacity)], *lines]
    memory = Table(["memory", ""], [*device_rows, ["a training step may take", format_bytes(budget.memory)]])
    plans = Table(
        ["batches", "number", "graphs", "predicted peak", "largest"],
        [_row("training", budget.plan), _row("validation", budget.validation)],
    )
    return Report("Budget", intro, tables=[memory, plans])


def _row(name: str, plan: Plan) -> list[str]:
    values = plan.statistics()
    taken = values["predicted_bytes"]
    peaks = [format_bytes(taken[key]) for key in ("mean", "max")]
    return [name, f"{len(plan):,}", mean_std(**values["graphs_per_batch"]), *peaks]
