"""Graphs over the budget on their own, named with what they need."""

from __future__ import annotations

from nodebudget.datasets.size_table import SizeTable
from nodebudget.errors import OversizedError
from nodebudget.sampling.budget import Budget
from nodebudget.sampling.packing.batch_grid import Ints
from nodebudget.sampling.plan_config import PlanConfig
from nodebudget.utils.byte_units import format_bytes

#: So many are named one by one.
_SHOWN = 5


def describe_oversized(graphs: Ints, sizes: SizeTable, budget: Budget) -> str:
    """Name up to five oversized graphs with their sizes, the maxima, and the memory that they need."""
    shown = "; ".join(_describe(int(graph), sizes, budget) for graph in graphs[:_SHOWN])
    return f"{shown}; and {len(graphs) - _SHOWN:,} more" if len(graphs) > _SHOWN else shown


def place_of(graph: int, sizes: SizeTable) -> int:
    """Return a graph's place in the dataset, of which the sizes may be a part."""
    return int(sizes.settings["indices"][graph]) if "indices" in sizes.settings else graph


def name_of(graph: int, sizes: SizeTable) -> str:
    """Name a graph by its place in the dataset and its id."""
    place = place_of(graph, sizes)
    return f"graph {place}" if sizes.ids is None else f"graph {place} ({sizes.ids[graph]})"


def _describe(graph: int, sizes: SizeTable, budget: Budget) -> str:
    name = name_of(graph, sizes)
    counts = {column: values[graph].item() for column, values in sizes.columns.items()}
    parts = [
        f"{counts[column]:,} {column}, {counts[column] - maximum:,} over the maximum of {maximum:,}"
        for column, maximum in budget.maxima.items()
        if counts[column] > maximum
    ]
    if budget.calibration is not None:
        parts = parts or [f"{counts['nodes']:,} nodes"]
        needed = budget.calibration.predict_bytes(graphs=1, **counts)
        parts.append(f"a step with it alone needs {format_bytes(needed)}")
    return f"{name}: {', '.join(parts)}"


def describe_changed(what: str, graphs: Ints, config: PlanConfig) -> str:
    """Say how many graphs are left out or come twice, and which."""
    names = ", ".join(name_of(int(graph), config.sizes) for graph in graphs[:_SHOWN])
    more = f" and {len(graphs) - _SHOWN:,} more" if len(graphs) > _SHOWN else ""
    return f"{len(graphs)} of {len(config.sizes)} graphs {what}, others in other epochs: {names}{more}"


def describe_policy(graphs: Ints, config: PlanConfig) -> str:
    """Say how many graphs are over the budget, which, and what becomes of them."""
    policy = "left out" if config.oversized == "skip" else "in a batch of their own"
    names = describe_oversized(graphs, config.sizes, config.budget)
    return f"{len(graphs)} of {len(config.sizes)}, over the budget ({config.budget.describe()}), {policy} ({names})"


def oversized_error(graphs: Ints, sizes: SizeTable, budget: Budget) -> OversizedError:
    """Return the error that names them."""
    count = "1 graph is" if len(graphs) == 1 else f"{len(graphs):,} graphs are"
    return OversizedError(
        f"{count} larger than a batch may be: {describe_oversized(graphs, sizes, budget)}",
        indices=[place_of(graph, sizes) for graph in graphs.tolist()],
        limit=budget.describe(),
        hint="raise the budget, or pass oversized='skip' to leave them out or 'alone' to give each its own batch",
    )
