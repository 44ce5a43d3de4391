"""A plan, as a table and advice."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nodebudget.report.text import render, table_of

if TYPE_CHECKING:
    from nodebudget.sampling.plan import Plan


def plan_text(plan: Plan) -> str:
    """Describe a plan: how many batches, how full and how even they are, and what to do about it."""
    statistics = plan.statistics()
    counts, balanced = statistics["graphs_per_batch"], statistics["balanced"]
    column = balanced["column"].replace("_", " ")
    rows = [
        ["batches", f"{statistics['batches']:,}"],
        ["lower bound", f"{statistics['lower_bound']:,}"],
        ["fill", f"{statistics['fill']:.1%}"],
        ["graphs per batch", f"{counts['mean']:.1f} ± {counts['std']:.1f}"],
        [f"{column} per batch, mean", plan.show_load(balanced["mean"])],
        [f"{column} per batch, max", plan.show_load(balanced["max"])],
        [f"{column} per batch, CV", f"{balanced['cv']:.2%}"],
        ["oversized graphs", f"{statistics['oversized']:,}"],
    ]
    head = f"{statistics['graphs']:,} graphs, {plan.limits.describe()} per batch"
    return "\n".join([head, render(table_of(["", "plan"], rows)), _advice(plan)])


def _advice(plan: Plan) -> str:
    oversized, mean = len(plan.oversized), float(plan.graphs.mean())
    if oversized:
        effect = "are left out of training" if plan.oversized_policy == "skip" else "exceed the budget"
        return f"{oversized:,} single graphs {effect}: raise the budget if you did not intend this."
    if mean < 4:
        return f"Only {mean:.1f} graphs fit in a batch: a larger budget gives less noisy gradients."
    if plan.pack == "balanced":
        return f"This replaces batch_size={mean:.0f}: as many graphs per step, so keep the learning rate."
    return "For inference and validation. For training, --pack balanced gives even batches."
