"""Sizes of the samples of a stream, which are counted as they come."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from nodebudget.datasets.measure import measure
from nodebudget.datasets.size_table import SizeTable
from nodebudget.errors import InputError


def table_of_rows(rows: list[Mapping[str, float]]) -> SizeTable:
    """Return the sizes of samples, which have the same columns, as a table."""
    return SizeTable({name: np.array([row[name] for row in rows]) for name in rows[0]})


def count_sample(sample: Any) -> Mapping[str, float]:
    """Count a sample as `nodebudget.measure` does."""
    table = measure([sample])
    return {name: values[0].item() for name, values in table.columns.items()}


def describe_sample(sizes: Mapping[str, float], place: int) -> str:
    """Say how large a sample over the budget is."""
    shown = ", ".join(f"{value:,} {name}" for name, value in sizes.items())
    return f"sample {place} of the stream is larger than a batch may be: {shown}"


def checked_sizes(sizes: Any, place: int) -> Mapping[str, float]:
    """Return sizes that a function gave for a sample; raise an `InputError` over anything else."""
    if not isinstance(sizes, Mapping) or "nodes" not in sizes:
        raise InputError(
            f"size_of gave {sizes!r} for sample {place}",
            limit='sizes by name, "nodes" among them',
            hint="return a dict such as {'nodes': 12, 'edges': 144}",
        )
    return sizes
