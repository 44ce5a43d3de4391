"""The step of a static plan: its shape, and what it takes."""

from __future__ import annotations

from nodebudget.analysis.static_step import STEPS, StaticStep
from nodebudget.report.report import Advice, Report, Table
from nodebudget.utils.byte_units import format_bytes
from nodebudget.utils.size_labels import size_label


def static_step_report(step: StaticStep) -> Report:
    """Report on the one step of a static plan, and on the shapes that were tried."""
    device = step.context.get("device", {})
    rows = [[size_label(name), f"{count:,}"] for name, count in step.shape.items()]
    rows.append(["memory of every step", format_bytes(step.peak)])
    if step.memory is not None:
        rows.append(["memory that it may take", f"{format_bytes(step.memory)}, {step.peak / step.memory:.1%} used"])
    tried = [
        [f"{graphs:,}", "out of memory" if taken is None else format_bytes(taken)] for graphs, taken in step.probes
    ]
    text = f"Plan with pack='static' and max_graphs={step.graphs}; every batch then takes the same memory."
    return Report(
        "Static step",
        f"{STEPS} training steps of each shape on {device.get('device', 'the device')}: no model is fitted, since all "
        "steps of a static plan take the same memory",
        tables=[
            Table(["padded batch", ""], rows),
            *([Table(["graphs per batch", "step"], tried, "Shapes that were measured")] if len(tried) > 1 else []),
        ],
        advice=[Advice("note", text)],
        values=step.to_dict(),
    )
