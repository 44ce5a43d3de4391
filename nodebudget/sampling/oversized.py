"""Graphs over a cap on their own, named with what they need."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from nodebudget.datasets.size_table import SizeTable
from nodebudget.errors import OversizedError
from nodebudget.sampling.budget import Budget
from nodebudget.utils.byte_units import format_bytes
from nodebudget.utils.size_labels import count_sizes

Ints = npt.NDArray[np.integer[Any]]

#: So many are named one by one.
_SHOWN = 5


def name_oversized(graphs: Ints, sizes: SizeTable, limits: Budget) -> str:
    """Name up to five oversized graphs with their size, the cap, and the memory that they would need."""
    shown = "; ".join(_name(int(graph), sizes, limits) for graph in graphs[:_SHOWN])
    return f"{shown}; and {len(graphs) - _SHOWN:,} more" if len(graphs) > _SHOWN else shown


def _name(graph: int, sizes: SizeTable, limits: Budget) -> str:
    name = f"graph {graph}" if sizes.ids is None else f"graph {graph} ({sizes.ids[graph]})"
    caps, calibration = limits.caps, limits.calibration
    over = {column: sizes[column][graph].item() for column in caps}
    parts = [
        f"{count_sizes({column: size})}, {size - caps[column]:,} over the cap of {caps[column]:,}"
        for column, size in over.items()
        if size > caps[column]
    ]
    if calibration is not None:
        own = {name: values[graph].item() for name, values in sizes.columns.items()}
        needed = calibration.predict_bytes(graphs=1, **own)
        parts += [count_sizes({"nodes": own["nodes"]})] if not parts else []
        parts.append(f"a step with it alone needs {format_bytes(needed)}")
    return f"{name}: {', '.join(parts)}"


def too_large(graphs: Ints, sizes: SizeTable, limits: Budget) -> OversizedError:
    """Return the error that names them."""
    many = "1 graph is" if len(graphs) == 1 else f"{len(graphs):,} graphs are"
    return OversizedError(
        f"{many} larger than a batch may be: {name_oversized(graphs, sizes, limits)}",
        indices=graphs.tolist(),
        limit=limits.describe(),
        hint="raise the cap, or pass oversized='skip' to leave them out or 'alone' to give each its own batch",
    )
