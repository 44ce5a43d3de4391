"""Real ALIGNN on DGL graphs, with the settings that it is usually trained with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from nodebudget.datasets.counting.alignn_builder import dgl_graphs
from nodebudget.datasets.graph_settings import GraphSettings
from nodebudget.errors import InputError
from nodebudget.utils.optional_imports import check_dgl_on, load_dgl, require
from nodebudget.workloads.crystal_samples import Sample, make_sample, other_graphs
from nodebudget.workloads.edge_subsampling import thinned_variants


class AlignnWorkload:
    """One AdamW training step of `alignn.models.alignn.ALIGNN`.

    Args:
        device: Where the model goes.
        alignn_layers: ALIGNN layers (crystal graph and line graph).
        gcn_layers: Layers on the crystal graph alone.
        hidden_features: Width of the hidden layers.
        learning_rate: AdamW's learning rate.
        target: Key of the regression target in a JARVIS dict; 0 where it is missing, since the value of a
            target does not change what a step needs.
        graphs: Graph settings: an object of `GraphSettings`, or a table of its arguments.
        **model: Further arguments of `ALIGNNConfig`.

    Raises:
        MissingError: alignn or DGL is not there or does not import, or DGL can't use the device.
    """

    name = "alignn.models.alignn.ALIGNN"

    def __init__(
        self,
        device: torch.device | str = "cpu",
        *,
        alignn_layers: int = 4,
        gcn_layers: int = 4,
        hidden_features: int = 256,
        learning_rate: float = 1e-3,
        target: str = "target",
        graphs: GraphSettings | Mapping[str, Any] | None = None,
        **model: Any,
    ) -> None:
        self.device = torch.device(device)
        if self.device.type == "cuda":
            check_dgl_on(str(self.device))
        module = require("alignn.models.alignn")
        self.target = target
        self.graphs = graphs if isinstance(graphs, GraphSettings) else GraphSettings(**(graphs or {}))
        config = module.ALIGNNConfig(
            name="alignn",
            alignn_layers=alignn_layers,
            gcn_layers=gcn_layers,
            hidden_features=hidden_features,
            **model,
        )
        self.config = config.model_dump()
        self.model = module.ALIGNN(config).to(self.device)
        self.optimizer: torch.optim.Optimizer = torch.optim.AdamW(self.model.parameters(), lr=learning_rate)

    def sample(self, item: Any) -> Sample:
        """Turn a JARVIS dict (or a tuple that starts with a graph) into (g, lg, lattice[3, 3], target[])."""
        if isinstance(item, Mapping):
            return self.from_crystal(item, self.graphs)
        graph, *rest = item if isinstance(item, (tuple, list)) else (item,)
        line_graph = rest[0] if rest and hasattr(rest[0], "num_edges") else _line_graph(graph)
        # ALIGNN takes the lattice and does not use it: what is not known stands as the unit cell.
        return graph, line_graph, torch.eye(3), torch.zeros(())

    def variants(self, item: Any) -> list[Any]:
        """Return other neighbour counts for crystals, thinned edges for graphs."""
        if not isinstance(item, Mapping):
            return thinned_variants(self, [item])
        return other_graphs(self)

    def from_crystal(self, item: Mapping[str, Any], graphs: GraphSettings) -> Sample:
        """Turn a JARVIS dict into a sample, with these graph settings."""
        return make_sample(item, self.target, lambda atoms: build_graphs(atoms, graphs))

    def batch(self, samples: Sequence[Any]) -> tuple[Any, ...]:
        """Collate samples as alignn does: (g, lg, lattice[B, 3, 3], target[B]) on the device."""
        dgl = load_dgl()
        if not samples:
            raise InputError("a batch of no samples", hint="give at least one")
        graphs, line_graphs, lattices, targets = zip(*samples, strict=True)
        parts = (dgl.batch(graphs), dgl.batch(line_graphs), torch.stack(lattices), torch.stack(targets))
        return tuple(part.to(self.device) for part in parts)

    def step(self, batch: Sequence[Any]) -> None:
        """Run one full training step on the mean squared error."""
        graph, line_graph, lattice, target = batch
        self.optimizer.zero_grad()
        predicted = self.model((graph, line_graph, lattice)).reshape(-1)
        loss = torch.nn.functional.mse_loss(predicted, target)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()


def build_graphs(atoms: Any, graphs: GraphSettings) -> tuple[Any, Any]:
    """Build alignn's crystal graph and line graph of jarvis `Atoms`."""
    return dgl_graphs(atoms, graphs, "cgcnn", line_graph=True)  # type: ignore[no-any-return]


def _line_graph(graph: Any) -> Any:
    line_graph = graph.line_graph(shared=True)
    if "r" in graph.edata:
        line_graph.apply_edges(require("alignn.graphs").compute_bond_cosines)
    return line_graph
