"""How long an epoch of batches takes to plan, against one np.argsort of as many random doubles in the same run.

Example:
  python scripts/benchmarks/planning_speed.py --graphs 1e6 1e7 --batch 64
  python scripts/benchmarks/planning_speed.py --sizes sizes.npz --column nodes --json
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np

from nodebudget import SizeTable
from nodebudget.sampling.budget import Budget
from nodebudget.sampling.packing.balancing import Target, balance
from nodebudget.sampling.packing.batch_grid import BatchGrid
from nodebudget.sampling.packing.reproducible import RandomStream, shuffled
from nodebudget.sampling.plan_config import PlanConfig, StepConfig
from nodebudget.sampling.planner import Planner
from nodebudget.sampling.step_planner import StepPlanner

GOAL_SORTS, GOAL_BYTES, GOAL_STEPS = 2.5, 100.0, 1.5

#: Batches per optimizer step of plans in steps.
PER_STEP = 8


def seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def one_argsort(graphs: int, seed: int) -> float:
    doubles = np.random.default_rng(seed).random(graphs)
    return seconds(lambda: np.argsort(doubles))


def lognormal(graphs: int) -> np.ndarray:
    return np.maximum(1, np.random.default_rng(0).lognormal(3, 0.6, graphs)).astype(np.int64)


def measure(name: str, values: np.ndarray, batch: int, repeats: int) -> dict[str, Any]:
    sizes = SizeTable.from_counts(values)
    budget = Budget.make(max_nodes=int(np.ceil(values.mean() * batch)))
    sorts, first, following = [], [], []
    in_steps: tuple[list[float], list[float]] = ([], [])
    for turn in range(repeats):
        sorts.append(one_argsort(len(values), turn))
        planner = Planner(PlanConfig(sizes, budget, oversized="skip"))
        first.append(seconds(lambda planner=planner: planner.plan(0)))
        sorts.append(one_argsort(len(values), turn))
        following.append(seconds(lambda planner=planner, turn=turn: planner.plan(turn + 1)))
        steps = StepPlanner(PlanConfig(sizes, budget, oversized="skip", steps=StepConfig(PER_STEP * batch)))
        in_steps[0].append(seconds(lambda steps=steps: steps.plan(0)))
        in_steps[1].append(seconds(lambda steps=steps, turn=turn: steps.plan(turn + 1)))
    plan = planner.plan(0)
    figures = plan.statistics()
    sort = statistics.median(sorts)
    return {
        "sizes": name,
        "graphs": len(values),
        "mean_graphs": batch,
        "argsort_seconds": sort,
        "first_epoch": statistics.median(first) / sort,
        "next_epoch": statistics.median(following) / sort,
        "steps_first": statistics.median(in_steps[0]) / statistics.median(first),
        "steps_next": statistics.median(in_steps[1]) / statistics.median(following),
        "bytes_per_graph": peak_bytes(sizes, budget) / len(values),
        "batches_over_bound": figures["batches"] / figures["lower_bound"],
        "cv": figures["balanced"]["cv"],
        "graphs_std": figures["graphs_per_batch"]["std"] / figures["graphs_per_batch"]["mean"],
        "spent_on": {stage: spent / sort for stage, spent in stages(planner, len(plan)).items()},
    }


def peak_bytes(sizes: SizeTable, budget: Budget) -> int:
    """Return the most bytes that planning holds at once, beside the sizes themselves."""
    tracemalloc.start()
    planner = Planner(PlanConfig(sizes, budget, oversized="skip"))
    planner.plan(0)
    planner.plan(1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def stages(planner: Planner, batches: int) -> dict[str, float]:
    """Time the parts of an epoch's plan one by one."""
    items = planner.items
    values, maximum = items.compact_columns[0]
    times = [time.perf_counter()]
    order = shuffled(len(items), RandomStream(0, 1))
    times.append(time.perf_counter())
    grid = BatchGrid.of_order(order, batches)
    grid.use([values])
    times.append(time.perf_counter())
    balance(grid, [Target(maximum)])
    times.append(time.perf_counter())
    grid.batches_in_order(RandomStream(0, 1).permutation(batches))
    times.append(time.perf_counter())
    return dict(zip(("shuffle", "assign", "balance", "read out"), np.diff(times).tolist(), strict=True))


def show(rows: list[dict[str, Any]]) -> None:
    print("times in np.argsorts of as many doubles, in the same run; goal:", GOAL_SORTS, "or less")
    print(f"in steps of {PER_STEP} batches: times of plans with graphs_per_step over those without; goal:", GOAL_STEPS)
    head = "sizes", "graphs", "per batch", "argsort", "first", "next", "B/graph", "bound", "CV", "graph std", "in steps"
    form = "{:<12}{:>12}{:>11}{:>10}{:>8}{:>8}{:>9}{:>9}{:>9}{:>11}{:>12}"
    print(form.format(*head))
    for row in rows:
        print(
            form.format(
                row["sizes"],
                f"{row['graphs']:,}",
                row["mean_graphs"],
                f"{row['argsort_seconds'] * 1e3:.1f} ms",
                f"{row['first_epoch']:.2f}",
                f"{row['next_epoch']:.2f}",
                f"{row['bytes_per_graph']:.0f}",
                f"{row['batches_over_bound']:.4f}",
                f"{row['cv']:.2%}",
                f"{row['graphs_std']:.2%}",
                f"{row['steps_first']:.2f}, {row['steps_next']:.2f}",
            )
        )
        print("  spent on:", ", ".join(f"{stage} {spent:.2f}" for stage, spent in row["spent_on"].items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--graphs", type=float, nargs="+", default=[1e6, 1e7], help="how many graphs")
    parser.add_argument("--batch", type=int, nargs="+", default=[64], help="mean graphs per batch")
    parser.add_argument("--sizes", help="measured sizes to draw from, beside lognormal ones")
    parser.add_argument("--column", default="nodes", help="the column of --sizes")
    parser.add_argument("--repeats", type=int, default=3, help="the median of so many is shown")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    rows = []
    for graphs in map(int, options.graphs):
        drawn = {"lognormal": lognormal(graphs)}
        if options.sizes:
            measured = SizeTable.load(options.sizes)[options.column]
            drawn["measured"] = np.random.default_rng(0).choice(measured, graphs)
        for name, values in drawn.items():
            rows += [measure(name, values, batch, options.repeats) for batch in options.batch]
    reached = all(
        max(row["first_epoch"], row["next_epoch"]) <= GOAL_SORTS
        and row["bytes_per_graph"] <= GOAL_BYTES
        and max(row["steps_first"], row["steps_next"]) <= GOAL_STEPS
        for row in rows
    )
    if options.json:
        print(json.dumps({"rows": rows, "reached": reached}, indent=2))
    else:
        show(rows)
        print("goals reached" if reached else "goals not reached")


if __name__ == "__main__":
    main()
