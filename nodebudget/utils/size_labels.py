"""The one table of how sizes are called in texts: the column "line_edges" is "line-graph edges"."""

from __future__ import annotations

from collections.abc import Mapping

#: Columns whose label is not their name with spaces for underscores.
_LABELS = {"line_edges": "line-graph edges", "bytes": "predicted bytes"}


def size_label(column: str, count: float = 2) -> str:
    """Return a size column in words, in the singular for a count of one: "line_edges" → "line-graph edges"."""
    label = _LABELS.get(column, column.replace("_", " "))
    return label.removesuffix("s") if count == 1 else label


def per_unit(column: str) -> str:
    """Return what a rate is per: "line_edges" → "per line-graph edge"."""
    return f"per {size_label(column, 1)}"


def count_sizes(sizes: Mapping[str, float]) -> str:
    """Return sizes with their counts: "64 graphs, 2,240 nodes, 26,880 edges"; "" where there are none."""
    counts = {name: f"{count:,.0f}" if float(count).is_integer() else f"{count:,.6g}" for name, count in sizes.items()}
    return ", ".join(f"{text} {size_label(name, sizes[name])}" for name, text in counts.items())
