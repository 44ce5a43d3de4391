"""`nodebudget plan`: sizes and a budget → batches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from nodebudget.cli.common import (
    Command,
    json_option,
    note,
    output_options,
    pickle_option,
    print_json,
    quiet_option,
    say,
)
from nodebudget.cli.known import measure_known, model_options, open_calibration
from nodebudget.errors import InputError
from nodebudget.report.console import PlainConsole
from nodebudget.utils.byte_units import format_bytes, parse_bytes
from nodebudget.utils.files import check_output

if TYPE_CHECKING:
    from nodebudget.calibration.memory_model import Calibration
    from nodebudget.sampling.budget import Budget
    from nodebudget.sampling.plan import Plan

_HELP = """Pack DATA into batches that keep to a budget, and say how even they are.

DATA is what 'nodebudget measure' takes, sizes measured before (.npz, .csv, .parquet) among it. The budget is one or
more caps, or a calibration with an amount of memory, or both. -o writes the batches.

\b
Example:
  nodebudget plan sizes.npz --calibration calibration.json --memory 40GiB -o plan.json
"""


@click.command("plan", cls=Command, help=_HELP, short_help="Pack a dataset into batches that keep to a budget.")
@click.argument("data", type=click.Path())
@click.option("--max-nodes", type=float, help="Most nodes in a batch.")
@click.option("--max-edges", type=float, help="Most edges in a batch.")
@click.option("--max-line-edges", type=float, help="Most line-graph edges in a batch.")
@click.option("--max-graphs", type=float, help="Most graphs in a batch.")
@click.option("--calibration", type=click.Path(), help="What 'nodebudget calibrate' wrote; goes with --memory.")
@model_options
@click.option("--memory", help="Bytes that a training step may take at its peak, such as 40GiB.")
@click.option("--capacity", help="Instead of --memory: bytes of the whole GPU; what PyTorch keeps is subtracted.")
@click.option(
    "--pack",
    type=click.Choice(["balanced", "dense", "sequential"]),
    default="balanced",
    show_default=True,
    help="Even batches for training, fullest ones for inference, or dataset order.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Where randomness comes from.")
@click.option("--epoch", type=int, default=0, show_default=True, help="Which epoch's batches.")
@click.option("--shuffle/--no-shuffle", default=True, show_default=True, help="Mix anew every epoch.")
@click.option("--ranks", type=int, default=1, show_default=True, help="Processes that share the batches.")
@click.option(
    "--oversized",
    type=click.Choice(["raise", "skip", "alone"]),
    default="raise",
    show_default=True,
    help="What happens to a graph that is over a cap on its own.",
)
@output_options("Write the batches here: .json or .npz.")
@pickle_option
@json_option
@quiet_option
def command(
    data: str,
    max_nodes: float | None,
    max_edges: float | None,
    max_line_edges: float | None,
    max_graphs: float | None,
    calibration: str | None,
    workload: str | None,
    allow_mismatch: bool,
    memory: str | None,
    capacity: str | None,
    pack: str,
    seed: int,
    epoch: int,
    shuffle: bool,
    ranks: int,
    oversized: str,
    output: str | None,
    force: bool,
    allow_pickle: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Pack DATA into batches."""
    caps = {"nodes": max_nodes, "edges": max_edges, "line_edges": max_line_edges, "graphs": max_graphs}
    known = None
    if calibration is not None:
        known = open_calibration(calibration, workload=workload, allow_mismatch=allow_mismatch, quiet=quiet)
    limits = _limits(caps, None if known is None else known.calibration, memory, capacity, quiet)
    if output is not None:
        _check(output, force)
    from nodebudget.sampling.planner import make_plan

    plan = make_plan(
        measure_known(data, known, quiet=quiet, allow_pickle=allow_pickle),
        limits,
        pack=pack,
        shuffle=shuffle,
        seed=seed,
        epoch=epoch,
        oversized=oversized,
        num_replicas=ranks,
    )
    if output is not None:
        plan.save(output, force=force)
        note(f"{len(plan):,} batches in {output}", quiet=quiet)
    if as_json:
        print_json(plan.statistics())
    else:
        _show(plan)


def _limits(
    caps: dict[str, Any], known: Calibration | None, memory: str | None, capacity: str | None, quiet: bool
) -> Budget:
    from nodebudget.sampling.budget import Budget

    for name, value in caps.items():
        # click reads 1e6 as a float; what is no whole number is refused with the rest.
        if value is not None and value == value // 1:
            caps[name] = int(value)
    if known is not None:
        _warn(known, memory or capacity, quiet)
    given = {f"max_{name}": value for name, value in caps.items()}
    room = memory if capacity is None else _room(capacity, memory, known, quiet)
    return Budget.make(**given, calibration=known, memory=room)


def _warn(known: Calibration, memory: str | None, quiet: bool) -> None:
    if memory is not None and parse_bytes(memory) > 2 * known.bound.reach:
        reach = format_bytes(known.bound.reach)
        note(f"the largest step that was measured took {reach}; calibrate with a larger --max-graphs", quiet=quiet)


def _room(capacity: str, memory: str | None, known: Calibration | None, quiet: bool) -> int:
    from nodebudget.analysis.device_budget import device_budget
    from nodebudget.report.text import budget_text

    if memory is not None or known is None:
        raise InputError("--capacity goes with --calibration and without --memory", hint="give one of the two")
    budget = device_budget(parse_bytes(capacity), known)
    note(budget_text(budget), quiet=quiet)
    return budget.memory


def _check(output: str, force: bool) -> None:
    if not output.endswith((".json", ".npz")):
        raise InputError(
            f"{output!r} is no file of a plan", limit="suffix .json, .npz", hint="choose one of these suffixes"
        )
    check_output(output, force=force)


def _show(plan: Plan) -> None:
    from nodebudget.report.text import table_of

    found = plan.statistics()
    counts, even = found["graphs_per_batch"], found["balanced"]
    rows = [
        ["batches", f"{found['batches']:,}"],
        ["lower bound", f"{found['lower_bound']:,}"],
        ["fill", f"{found['fill']:.1%}"],
        ["graphs a batch", f"{counts['mean']:.1f} ± {counts['std']:.1f}"],
        [f"{even['column']} a batch, mean", plan.show_load(even["mean"])],
        [f"{even['column']} a batch, max", plan.show_load(even["max"])],
        [f"{even['column']} a batch, CV", f"{even['cv']:.2%}"],
        ["oversized graphs", f"{found['oversized']:,}"],
    ]
    say(f"{found['graphs']:,} graphs, {plan.limits.describe()} a batch")
    PlainConsole().print(table_of(["", "plan"], rows))
    say(_advice(plan))


def _advice(plan: Plan) -> str:
    found = plan.statistics()
    mean = found["graphs_per_batch"]["mean"]
    if found["oversized"]:
        what = "are left out of training" if plan.oversized_policy == "skip" else "go over the budget on their own"
        return f"{found['oversized']:,} graphs {what}: raise the budget if that is not meant."
    if mean < 4:
        return f"Only {mean:.1f} graphs fit in a batch: a larger budget gives steadier gradients."
    if plan.pack == "balanced":
        return f"Compare with batch_size={mean:.0f}: as many graphs a step, and so the same learning rate."
    return "Meant for inference and validation: --pack balanced gives even batches for training."
