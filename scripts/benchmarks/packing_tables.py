"""What the comparison of ways to pack prints and draws."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from nodebudget.utils.optional_imports import require

HEAD = (
    "way",
    "batches / bound",
    "fill",
    "CV",
    "max / mean",
    "graphs per batch",
    "first, next ms",
    "argsorts",
    "over budget",
)


def cells(row: dict[str, Any]) -> list[str]:
    if "not_run" in row:
        return [row["way"], f"not run: {row['not_run']}", *[""] * (len(HEAD) - 1)]
    return [
        row["way"],
        f"{row['batches']:,} / {row['lower_bound']:,} = {row['over_bound']:.4f}",
        f"{row['fill']:.1%}",
        f"{row['cv']:.2%}",
        f"{row['max_over_mean']:.3f}",
        f"{row['graphs_mean']:.1f} ± {row['graphs_std']:.1%}",
        f"{row['first_ms']:.1f}, {row['next_ms']:.1f}",
        f"{row['sorts']:.2f}" if row["sorts"] < 10 else f"{row['sorts']:,.0f}",
        f"{row['over_cap']:,}",
        f"{row['lost']:,} / {row['repeated']:,}",
    ]


def show(rows: list[dict[str, Any]], title: str) -> None:
    """Print Markdown tables, one for each set and budget."""
    print(f"\n## {title}")
    head = [*HEAD, "lost / repeated"]
    groups: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["set"], row["mean_graphs"]), []).append(row)
    for (name, batch), group in groups.items():
        row = group[0]
        print(f"\n### {name}, budget of {batch} mean graphs\n")
        print(f"{row['graphs']:,} graphs, the largest {row['largest_over_cap']:.0%} of the budget", end="")
        print(f"; {row['oversized']:,} over it, left out\n" if row["oversized"] else "\n")
        print("| " + " | ".join(head) + " |\n" + "| --- " * len(head) + "|")
        for row in group:
            print("| " + " | ".join(cells(row)) + " |")


def least_std(mean: float) -> float:
    """Return the least spread (std over mean) of whole numbers that have this mean."""
    part = mean - int(mean)
    return float(np.sqrt(part * (1 - part)) / mean)


def summary(rows: list[dict[str, Any]]) -> None:
    """Print one line for each way: mean and worst over the sets and budgets of `rows`."""
    cases = len({(row["set"], row["mean_graphs"]) for row in rows})
    print(f"\n## Mean and worst of {cases} cases, those where no graph is over half the budget\n")
    head = (
        "way",
        "batches / bound",
        "CV",
        "max / mean",
        "graphs per batch, std",
        "over budget",
        "lost / repeated",
        "cases",
    )
    print("| " + " | ".join(head) + " |\n" + "| --- " * len(head) + "|")
    for way in dict.fromkeys(row["way"] for row in rows):
        mine = [row for row in rows if row["way"] == way and "batches" in row]
        if not mine:
            continue
        even = [_both(mine, key, form) for key, form in SHOWN.items()]
        over = sum(row["over_cap"] for row in mine) / sum(row["batches"] for row in mine)
        wrong = f"{sum(row['lost'] for row in mine):,} / {sum(row['repeated'] for row in mine):,}"
        print("| " + " | ".join([way, *even, f"{over:.1%}", wrong, str(len(mine))]) + " |")


SHOWN = {"over_bound": ".4f", "cv": ".2%", "max_over_mean": ".3f", "graphs_std": ".2%"}


def _both(rows: list[dict[str, Any]], key: str, form: str) -> str:
    values = [row[key] for row in rows]
    return f"{format(float(np.mean(values)), form)}, {format(max(values), form)}"


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw the spread of bytes and of graph counts of every way, a line for each set and budget."""
    require("matplotlib").use("Agg")
    pyplot = require("matplotlib.pyplot")
    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4.5), sharey=True)
    ways = list(dict.fromkeys(row["way"] for row in rows))
    for axis, key, label in zip(
        axes, ("cv", "graphs_std"), ("bytes a batch, CV", "graphs per batch, std / mean"), strict=True
    ):
        for place, way in enumerate(ways):
            values = [100 * row[key] for row in rows if row["way"] == way and key in row]
            axis.scatter(np.maximum(values, 1e-3), [place] * len(values), alpha=0.6)
        axis.set(xscale="log", xlabel=f"{label}, %", yticks=range(len(ways)), yticklabels=ways)
        axis.grid(axis="x", alpha=0.3)
    axes[0].invert_yaxis()
    figure.tight_layout()
    figure.savefig(path, dpi=150)
