"""Several datasets in one epoch, by temperature or by weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nodebudget.datasets.size_table import SizeTable
from nodebudget.errors import InputError


@dataclass(frozen=True, eq=False)
class Mixture:
    """Sizes of several datasets one after the other, as `torch.utils.data.ConcatDataset` has them, and weights.

    Attributes:
        sizes: One row per graph.
        weights: Probability of each graph, shape (graphs,).
        shares: Dataset → the share of an epoch's graphs that come from it.
    """

    sizes: SizeTable
    weights: npt.NDArray[np.float64]
    shares: Mapping[str, float]


def mix(
    tables: Mapping[str, SizeTable], *, temperature: float = 1.0, weights: Mapping[str, float] | None = None
) -> Mixture:
    """Mix datasets: give the result to a `NodeBudgetSampler`, whose epochs are drawn by it.

    Args:
        tables: Dataset → its sizes, in the order of the `ConcatDataset`.
        temperature: Datasets come in proportion to their numbers of graphs to this power: 1 is as often as they have
            graphs, 0.5 by the square root, 0 equally often.
        weights: Dataset → the share of it, instead of a temperature; relative.

    Raises:
        InputError: No tables, weights of other datasets, or a filtered table that lost its dataset's length.
    """
    if not tables or (weights is not None and weights.keys() != tables.keys()):
        given = ", ".join(weights or ()) or "none"
        raise InputError(
            f"weights of {given}", limit=f"datasets: {', '.join(tables) or 'none'}", hint="give one per dataset"
        )
    counts = {name: len(table) for name, table in tables.items()}
    asked = {name: count**temperature for name, count in counts.items()} if weights is None else dict(weights)
    if not all(np.isfinite(share) and share >= 0 for share in asked.values()) or not sum(asked.values()):
        raise InputError(f"weights of {asked}", limit="numbers of 0 or more", hint="give one per dataset")
    shares = {name: share / sum(asked.values()) for name, share in asked.items()}
    of_graphs = [np.full(counts[name], shares[name] / max(counts[name], 1)) for name in tables]
    return Mixture(_joined(list(tables.values())), np.concatenate(of_graphs), shares)


def _joined(tables: list[SizeTable]) -> SizeTable:
    names = [name for name in tables[0].columns if all(name in table for table in tables)]
    columns = {name: np.concatenate([table[name] for table in tables]) for name in names}
    if not any("indices" in table.settings for table in tables):
        return SizeTable(columns)
    indices: list[int] = []
    first = 0
    for table in tables:
        of_table = table.settings.get("indices", range(len(table)))
        length = len(table) + len(table.settings.get("skipped", ()))
        if len(of_table) and max(of_table) >= length:
            raise InputError(
                "a table that was filtered does not say how long its dataset is",
                limit="the place of each graph in the ConcatDataset must be known",
                hint="mix whole tables, and leave graphs out with indices=",
            )
        indices += [first + index for index in of_table]
        first += length
    return SizeTable(columns, None, {"indices": indices})
