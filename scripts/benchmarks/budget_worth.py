"""What a budget is worth: graphs per batch in the same memory, with a fixed batch size and with a budget.

    python scripts/benchmarks/budget_worth.py [--sets NAME,NAME] [--json]

The fixed batch size is the largest one of which 99.9% of shuffled epochs fit, as `nodebudget suggest --memory` finds
it; the budget's batches are those of `NodeBudgetSampler`. The bytes of a graph are those of an ALIGNN training step
(`sets.py`), by nodes alone where edges were not counted. The memory holds 64 mean graphs, and then 16.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

from sets import PRICES, REAL, read

from nodebudget import Calibration, largest_safe_batch_size
from nodebudget.calibration.memory_model import ErrorSummary

MEANS = (64, 16)
#: A million graphs and more take minutes to simulate.
SETS = tuple(name for name in REAL if name != "mptrj_natoms_histogram")


def alignn(columns: tuple[str, ...]) -> Calibration:
    """Return the memory model of an ALIGNN training step whose parameters take nothing."""
    prices = {f"per_{name.removesuffix('s')}": float(PRICES[name]) for name in columns}
    no_error = ErrorSummary(0.0, 0.0, 0)
    return Calibration({"fixed": 0.0, **prices}, ("graphs", *columns), 0.0, 0.0, no_error, no_error)


def compare(name: str) -> dict[str, Any]:
    """Compare both on one set."""
    sizes = read(name)
    calibration = alignn(tuple(column for column in PRICES if column in sizes))
    costs = calibration.graph_bytes(sizes)
    rows = {}
    for graphs in MEANS:
        # A graph that takes more than that on its own must fit too.
        memory = int(max(1.005 * graphs * costs.mean(), 1.001 * costs.max()))
        risk = largest_safe_batch_size(sizes, calibration, memory)
        rows[graphs] = {
            **{"memory": memory, "fixed": risk.batch_size, "budget": risk.budget_graphs[0], "gain": risk.gain},
            **{"fixed_fill": risk.mean_bytes / memory, "budget_fill": risk.budget_bytes / memory},
        }
    return {"graphs": len(sizes), "rows": rows}


def text(results: dict[str, Any]) -> str:
    """Lay out the table."""
    lines = [f"{'':26}" + "".join(f"{f'memory of {graphs} mean graphs':>36}" for graphs in MEANS)]
    lines.append(f"{'set':26}" + f"{'fixed':>18}{'budget':>9}{'gain':>9}" * len(MEANS))
    for name, result in results.items():
        cells = (f"{row['fixed']:18}{row['budget']:9.1f}{row['gain']:8.2f}x" for row in result["rows"].values())
        lines.append(f"{name:26}{''.join(cells)}")
    return "\n".join(lines)


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    results = {name: compare(name) for name in options.sets.split(",")}
    print(json.dumps(results, indent=2) if options.json else text(results))


if __name__ == "__main__":
    main()
