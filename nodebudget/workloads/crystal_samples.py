"""ALIGNN's networks as workloads: crystals become samples, with the model's graph settings or with others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from nodebudget.datasets.graph_settings import GraphSettings
from nodebudget.datasets.measure import measure
from nodebudget.datasets.size_table import SizeTable
from nodebudget.errors import InputError
from nodebudget.utils.optional_imports import require

#: A crystal graph, its line graph, lattice[3, 3] in Å and target[].
Sample = tuple[Any, Any, torch.Tensor, torch.Tensor]

#: Arguments of alignn's configs by default: the settings that ALIGNN is usually trained with.
SHAPE = {"alignn_layers": 4, "gcn_layers": 4, "hidden_features": 256}


class CrystalWorkload:
    """What the two networks have in common; a subclass builds and joins the graphs and runs the step.

    Args:
        device: Where the model goes.
        network: Class of the model.
        config: Its one argument, a pydantic model.
        learning_rate: AdamW's learning rate.
        target: Key of the regression target in a JARVIS dict. A missing target is 0: its value does not change the
            memory of a step.
        graphs: Graph settings.
    """

    def __init__(
        self, device: torch.device | str, network: Any, config: Any, learning_rate: float, target: str, graphs: Any
    ) -> None:
        self.device, self.target = torch.device(device), target
        self.graphs: GraphSettings = graphs
        self.config: dict[str, Any] = config.model_dump()
        self.model: torch.nn.Module = network(config).to(self.device)
        self.optimizer: torch.optim.Optimizer = torch.optim.AdamW(self.model.parameters(), lr=learning_rate)

    def from_crystal(self, item: Mapping[str, Any], graphs: GraphSettings) -> Sample:
        """Turn a JARVIS dict into a sample, with these graph settings."""
        atoms = require("jarvis.core.atoms").Atoms.from_dict(item["atoms"])
        graph, line_graph = self._build(atoms, graphs)
        value = item.get(self.target, 0.0)
        label = torch.tensor(float(value) if isinstance(value, (int, float)) else 0.0)
        return graph, line_graph, torch.tensor(atoms.lattice_mat, dtype=torch.float32), label

    def batch(self, samples: Sequence[Any]) -> tuple[Any, ...]:
        """Collate samples as alignn does: (g, lg, lattice[B, 3, 3], target[B]) on the device."""
        if not samples:
            raise InputError("a batch of no samples", hint="give at least one")
        graphs, line_graphs, lattices, targets = zip(*samples, strict=True)
        parts = (*self._join(graphs, line_graphs), torch.stack(lattices), torch.stack(targets))
        return tuple(part.to(self.device) for part in parts)

    def _build(self, atoms: Any, graphs: GraphSettings) -> tuple[Any, Any]:
        raise NotImplementedError

    def _join(self, graphs: Sequence[Any], line_graphs: Sequence[Any]) -> tuple[Any, Any]:
        raise NotImplementedError


class GraphSettingsVariant:
    """Samples of the same crystals with other graph settings."""

    def __init__(self, workload: CrystalWorkload, graphs: GraphSettings) -> None:
        self._workload, self._graphs = workload, graphs

    def sizes(self, items: Sequence[Any]) -> SizeTable:
        """Measure the crystals with these settings, without training on them."""
        return measure(items, graphs=self._graphs)

    def sample(self, item: Any) -> Sample:
        """Build the graphs with these settings."""
        return self._workload.from_crystal(item, self._graphs)


def graph_settings_variants(workload: CrystalWorkload) -> list[GraphSettingsVariant]:
    """Return variants with other numbers of neighbors, or with other cutoffs if those decide."""
    graphs = workload.graphs
    if graphs.strategy not in ("k-nearest", "pure_torch"):
        settings = [replace(graphs, cutoff=graphs.cutoff * factor) for factor in (0.8, 1.1)]
        return [GraphSettingsVariant(workload, variant) for variant in settings]
    counts = sorted({max(1, graphs.neighbors // 3), graphs.neighbors * 3 // 2} - {graphs.neighbors})
    settings = [replace(graphs, neighbors=count) for count in counts]
    if graphs.three_body_cutoff is not None:
        # Only pairs of close bonds are line-graph edges; without the cutoff there are many more.
        settings.append(replace(graphs, three_body_cutoff=None))
    return [GraphSettingsVariant(workload, variant) for variant in settings]
