"""What padding batches to a static shape costs: in every size, and in time for planning.

    python scripts/benchmarks/static_shapes.py
    python scripts/benchmarks/static_shapes.py --sets mpts_52_val --batch 64 --json

Columns: the largest graph, in parts of a batch; shapes; what is padded, as a part of the graphs' total, in nodes, edges
and line-graph edges, by a static shape (the largest of three epochs and two seeds), by batches of as many shuffled
graphs padded to the largest, and by jraph's dynamic batches, whose budget is the mean rounded up to a multiple of 64;
milliseconds until the first epoch and a further one are planned, and the same for balanced plans under maxima of the
same columns and as many batches.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from sets import MIXTURE, Make, lognormal, mixture, read

from nodebudget import SizeTable
from nodebudget.analysis.padding import padding_of_plan
from nodebudget.sampling.budget import Budget
from nodebudget.sampling.plan_config import PlanConfig
from nodebudget.sampling.planner import Planner

COLUMNS = ("nodes", "edges", "line_edges")
REAL = (
    *("jarvis_dft3d_natoms_only", "jarvis_dft3d_tc_supercon", "mpts_52_val", "mp_20_biternary_val"),
    *("perov5", "core_mof_2014", "mptrj_natoms_histogram"),
)
SETS: dict[str, Make] = {
    **{name: partial(read, name) for name in REAL},
    MIXTURE: mixture,
    "lognormal (1M, generated)": partial(lognormal, 1_000_000),
}
#: Graphs per batch → padding in every size where the largest graph is under a tenth of a batch.
GOALS = {64: 0.004, 16: 0.03}
#: Planning costs up to so many times what balanced plans cost.
TIMES = 2.0
#: Where planning takes less, a ratio of times says nothing, milliseconds.
QUICK = 100.0


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = work()
    return 1e3 * (time.perf_counter() - start), result


def planned(sizes: SizeTable, budget: Budget, pack: str) -> tuple[float, float, list[Any]]:
    """Plan three epochs; return milliseconds of the first and of a further one, and the plans."""
    made, planner = timed(lambda: Planner(PlanConfig(sizes, budget, pack)))
    first, plan = timed(lambda: planner.plan(0))
    first += made
    further, other = timed(lambda: planner.plan(1))
    return first, further, [plan, other, planner.plan(2)]


def compare(name: str, sizes: SizeTable, graphs: int) -> dict[str, Any]:
    sizes = SizeTable.from_counts(**{column: sizes[column] for column in COLUMNS if column in sizes})
    budget = Budget.make(max_graphs=graphs)
    first, further, plans = planned(sizes, budget, "static")
    seeded = Planner(PlanConfig(sizes, budget, "static", seed=1))
    found = [padding_of_plan(plan) for plan in (*plans, *(seeded.plan(epoch) for epoch in range(3)))]
    ways = found[0]["padding"]
    padding = {column: max(one["padding"]["static"][column] for one in found) for column in ways["static"]}
    batches = len(plans[0])
    # Every batch may take the mean of so many batches, or the largest graph.
    means = {column: -(-int(sizes[column].sum()) // batches) for column in padding}
    tops = {f"max_{column}": max(mean, int(sizes[column].max())) for column, mean in means.items()}
    balanced = planned(sizes, Budget.make(**tops), "balanced")
    return {
        "set": name,
        "graphs": len(sizes),
        "batch": graphs,
        "largest": max(float(sizes[column].max()) / mean for column, mean in means.items()),
        "shapes": found[0]["shapes"],
        "padding": {**ways, "static": padding},
        # The least that whole numbers of nodes allow: the mean rounded up, and a node of the padding graph.
        "least": {column: (mean + 1) * batches / int(sizes[column].sum()) - 1 for column, mean in means.items()},
        "ms": {"static": [first, further], "balanced": list(balanced[:2])},
    }


def missed(row: dict[str, Any]) -> list[str]:
    """Name the goals that a row misses."""
    misses = []
    goal = GOALS.get(row["batch"])
    if goal is not None and row["largest"] < 0.1:
        misses += [
            f"{row['set']}, {row['batch']}: {part:.2%} of {column} is padded, goal {goal:.1%}"
            + (f"; whole numbers allow {row['least'][column]:.2%}" if row["least"][column] > goal else "")
            for column, part in row["padding"]["static"].items()
            if part > goal
        ]
    for epoch, static, balanced in zip(("first", "further"), row["ms"]["static"], row["ms"]["balanced"], strict=True):
        if static > TIMES * max(balanced, QUICK):
            misses.append(
                f"{row['set']}, {row['batch']}: {epoch} epoch planned in {static / balanced:.1f} times as long"
            )
    return misses


def parts(padding: dict[str, float]) -> str:
    return ", ".join(f"{part:.2%}" for part in padding.values())


def show(row: dict[str, Any]) -> str:
    ms = [f"{first:.0f}, {further:.0f}" for first, further in row["ms"].values()]
    ways = [parts(row["padding"][way]) for way in ("static", "fixed", "jraph")]
    cells = [row["set"], f"{row['batch']}", f"{row['largest']:.2f}", f"{len(row['shapes'])}", *ways, *ms]
    return f"| {' | '.join(cells)} |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", help="only sets whose name contains one of these")
    parser.add_argument("--batch", type=int, nargs="+", default=[64, 16], help="graphs per batch")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    chosen = {
        name: make for name, make in SETS.items() if not options.sets or any(part in name for part in options.sets)
    }
    if not options.json:
        head = ["set", "graphs per batch", "largest graph", "shapes", "static", "fixed", "jraph"]
        print(f"| {' | '.join([*head, 'static, ms', 'balanced, ms'])} |")
        print("|" + " --- |" * 9)
    rows = []
    for graphs in options.batch:
        for name, make in chosen.items():
            rows.append(compare(name, make(), graphs))
            if not options.json:
                print(show(rows[-1]), flush=True)
    misses = [miss for row in rows for miss in missed(row)]
    print(json.dumps({"rows": rows, "missed": misses}, indent=2) if options.json else "\n".join(["", *misses]))
    return 0


if __name__ == "__main__":
    np.seterr(all="raise", under="ignore")
    sys.exit(main())
