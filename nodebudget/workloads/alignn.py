"""ALIGNN of the package alignn on DGL graphs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from nodebudget.datasets.counting.alignn_builder import dgl_graphs
from nodebudget.datasets.graph_settings import GraphSettings
from nodebudget.utils.optional_imports import check_dgl_on, load_dgl, require
from nodebudget.workloads.crystal_samples import SHAPE, CrystalWorkload, Sample, graph_settings_variants
from nodebudget.workloads.edge_subsampling import edge_subsampled_variants


class AlignnWorkload(CrystalWorkload):
    """One AdamW training step of `alignn.models.alignn.ALIGNN` on the mean squared error.

    Args:
        device: Where the model goes.
        learning_rate: AdamW's learning rate.
        target: Key of the regression target in a JARVIS dict. A missing target is 0: its value does not change the
            memory of a step.
        graphs: Graph settings: an object of `GraphSettings`, or a table of its arguments.
        **model: Arguments of alignn's `ALIGNNConfig`; `alignn_layers` and `gcn_layers` are 4 by default,
            `hidden_features` is 256.

    Raises:
        MissingError: alignn or DGL is not installed or does not import, or DGL can't use the device.
    """

    name = "alignn.models.alignn.ALIGNN"

    def __init__(
        self,
        device: torch.device | str = "cpu",
        *,
        learning_rate: float = 1e-3,
        target: str = "target",
        graphs: GraphSettings | Mapping[str, Any] | None = None,
        **model: Any,
    ) -> None:
        if torch.device(device).type == "cuda":
            check_dgl_on(str(device))
        module = require("alignn.models.alignn")
        config = module.ALIGNNConfig(name="alignn", **{**SHAPE, **model})
        settings = graphs if isinstance(graphs, GraphSettings) else GraphSettings(**(graphs or {}))
        super().__init__(device, module.ALIGNN, config, learning_rate, target, settings)

    def sample(self, item: Any) -> Sample:
        """Turn a JARVIS dict (or a tuple that starts with a graph) into (g, lg, lattice[3, 3], target[])."""
        if isinstance(item, Mapping):
            return self.from_crystal(item, self.graphs)
        graph, *rest = item if isinstance(item, (tuple, list)) else (item,)
        line_graph = rest[0] if rest and hasattr(rest[0], "num_edges") else _line_graph(graph)
        # ALIGNN takes the lattice and does not use it: the unit cell stands for one that is unknown.
        return graph, line_graph, torch.eye(3), torch.zeros(())

    def variants(self, item: Any) -> list[Any]:
        """Return variants with other numbers of neighbors for crystals, with subsampled edges for graphs."""
        return graph_settings_variants(self) if isinstance(item, Mapping) else edge_subsampled_variants(self, [item])

    def step(self, batch: Sequence[Any]) -> None:
        """Run one full training step."""
        *inputs, target = batch
        self.optimizer.zero_grad()
        predicted = self.model(tuple(inputs)).reshape(-1)
        loss = torch.nn.functional.mse_loss(predicted, target)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()

    def _build(self, atoms: Any, graphs: GraphSettings) -> tuple[Any, Any]:
        return dgl_graphs(atoms, graphs, "cgcnn", line_graph=True)  # type: ignore[no-any-return]

    def _join(self, graphs: Sequence[Any], line_graphs: Sequence[Any]) -> tuple[Any, Any]:
        dgl = load_dgl()
        return dgl.batch(graphs), dgl.batch(line_graphs)


def _line_graph(graph: Any) -> Any:
    line_graph = graph.line_graph(shared=True)
    if "r" in graph.edata:
        line_graph.apply_edges(require("alignn.graphs").compute_bond_cosines)
    return line_graph
