"""Crystals as samples, and the same crystals with other graph settings: probes with other ratios of sizes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import torch

from nodebudget.datasets.graph_settings import GraphSettings
from nodebudget.datasets.measure import measure_dataset
from nodebudget.datasets.size_table import SizeTable
from nodebudget.utils.optional_imports import require

#: A crystal graph, its line graph, lattice[3, 3] in Å and target[].
Sample = tuple[Any, Any, torch.Tensor, torch.Tensor]


def make_sample(item: Mapping[str, Any], target: str, build: Callable[[Any], tuple[Any, Any]]) -> Sample:
    """Turn a JARVIS dict into a sample.

    Args:
        item: The dict.
        target: Key of its target; 0 where it is missing or no number.
        build: Makes graph and line graph of jarvis `Atoms`.
    """
    atoms = require("jarvis.core.atoms").Atoms.from_dict(item["atoms"])
    graph, line_graph = build(atoms)
    value = item.get(target, 0.0)
    label = torch.tensor(float(value) if isinstance(value, (int, float)) else 0.0)
    return graph, line_graph, torch.tensor(atoms.lattice_mat, dtype=torch.float32), label


class FromCrystals(Protocol):
    """A workload that builds graphs of crystals with the settings that it is given."""

    graphs: GraphSettings

    def from_crystal(self, item: Any, graphs: GraphSettings) -> Any:
        """Turn a JARVIS dict into a sample, with these graph settings."""
        ...


class OtherGraphs:
    """Samples of the same crystals with other graph settings."""

    def __init__(self, workload: FromCrystals, graphs: GraphSettings) -> None:
        self._workload, self._graphs = workload, graphs

    def sizes(self, items: Sequence[Any]) -> SizeTable:
        """Measure the crystals with these settings, without training on them."""
        return measure_dataset(items, graphs=self._graphs)

    def sample(self, item: Any) -> Any:
        """Build the graphs with these settings."""
        return self._workload.from_crystal(item, self._graphs)


def other_graphs(workload: FromCrystals) -> list[Any]:
    """Return variants with other neighbour counts, or with other cutoffs where those decide."""
    graphs = workload.graphs
    if graphs.strategy not in ("k-nearest", "pure_torch"):
        return [OtherGraphs(workload, replace(graphs, cutoff=graphs.cutoff * factor)) for factor in (0.8, 1.1)]
    counts = sorted({max(1, graphs.neighbors // 3), graphs.neighbors * 3 // 2} - {graphs.neighbors})
    variants = [replace(graphs, neighbors=count) for count in counts]
    if graphs.three_body_cutoff is not None:
        # The edges of the line graph are those of close pairs alone: with all pairs there are many more.
        variants.append(replace(graphs, three_body_cutoff=None))
    return [OtherGraphs(workload, variant) for variant in variants]
