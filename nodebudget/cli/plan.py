"""nodebudget plan."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import click

from nodebudget.cli import options
from nodebudget.cli.inputs import measure_sizes, open_calibration
from nodebudget.cli.printer import Printer
from nodebudget.errors import InputError
from nodebudget.utils.byte_units import format_bytes

if TYPE_CHECKING:
    from nodebudget.calibration.memory_model import Calibration


@click.command("plan", short_help="Pack a dataset into batches within a budget.")
@click.argument("data", type=click.Path())
@options.maximum("--max-nodes", "Maximum nodes per batch.")
@options.maximum("--max-edges", "Maximum edges per batch.")
@options.maximum("--max-line-edges", "Maximum line-graph edges per batch.")
@options.maximum("--max-graphs", "Maximum graphs per batch.")
@options.calibration("Written by 'nodebudget calibrate'; needs --memory or --capacity.")
@options.memory("--memory", "Peak memory of a training step, such as 40GiB.")
@options.memory("--capacity", "Memory of the whole GPU, instead of --memory: subtracts what CUDA and PyTorch need.")
@click.option(
    "--pack",
    type=click.Choice(["balanced", "dense", "sequential", "static"]),
    help="Even batches (default), fewest for inference, dataset order (default with --no-shuffle), or of one shape.",
)
@click.option("--graphs-per-step", type=click.IntRange(1), help="Graphs per optimizer step, over all ranks.")
@click.option("--seed", type=int, default=0, show_default=True, help="Random seed.")
@click.option("--epoch", type=int, default=0, show_default=True, help="Epoch to plan.")
@click.option("--shuffle/--no-shuffle", default=True, show_default=True, help="Reshuffle every epoch.")
@click.option("--ranks", "num_replicas", type=int, default=1, show_default=True, help="Ranks that share the batches.")
@click.option(
    "--oversized",
    type=click.Choice(["raise", "skip", "alone"]),
    default="raise",
    show_default=True,
    help="What to do with a single graph over the budget: fail, leave it out, or give it a batch of its own.",
)
@options.outputs("Write the batches here: .json or .npz.", suffixes=(".json", ".npz"))
@options.allow_pickle
@options.printer
def command(
    data: str,
    max_nodes: int | None,
    max_edges: int | None,
    max_line_edges: int | None,
    max_graphs: int | None,
    calibration: options.CalibrationOptions,
    memory: int | None,
    capacity: int | None,
    outputs: options.Outputs,
    allow_pickle: bool,
    printer: Printer,
    **how: Any,
) -> None:
    """Pack DATA into batches within a budget, and report how even they are.

    DATA is anything that 'nodebudget measure' reads or writes. The budget is one or more of the --max options, or a
    --calibration with --memory, or both. -o writes the batches.

    \b
    Example:
      nodebudget plan sizes.npz --calibration calibration.json --memory 40GiB -o plan.json
    """
    from nodebudget.analysis.dataset_storage import storage_record
    from nodebudget.analysis.padding import padding_of_plan
    from nodebudget.report.plan import plan_report
    from nodebudget.report.sizes import storage_report
    from nodebudget.sampling.budget import Budget
    from nodebudget.sampling.planner import make_plan

    opened = open_calibration(calibration)
    if capacity is not None:
        memory = _memory_of(capacity, memory, opened.calibration, printer)
    budget = Budget.make(max_nodes, max_edges, max_line_edges, max_graphs, opened.calibration, memory)
    largest = math.inf if opened.calibration is None else opened.calibration.bound.max_measured
    if memory is not None and memory > 2 * largest:
        printer.note(
            f"nodebudget: {format_bytes(memory)} is far more than the largest calibrated step took "
            f"({format_bytes(largest)}); for a tighter prediction calibrate with a larger --max-graphs"
        )
    sizes = measure_sizes(data, opened, printer, allow_pickle=allow_pickle)
    plan = make_plan(sizes, budget, **how)
    if outputs.output is not None:
        plan.save(outputs.output, force=outputs.force)
        printer.note(f"{len(plan):,} batches in {outputs.output}")
    padding = padding_of_plan(plan) if plan.config.pack == "static" else None
    record = {**plan.statistics(), **(padding or {}), "storage": storage_record(sizes)}
    printer.result(record, plan_report(plan, padding), storage_report(sizes))


def _memory_of(capacity: int, memory: int | None, calibration: Calibration | None, printer: Printer) -> int:
    from nodebudget.analysis.device_budget import device_budget
    from nodebudget.report.calibration import device_budget_report
    from nodebudget.report.text.render import render

    if memory is not None or calibration is None:
        raise InputError("--capacity goes with --calibration and without --memory", hint="give one of the two")
    budget = device_budget(capacity, calibration)
    printer.note(render(device_budget_report(budget)))
    return budget.memory
