"""A network of edge-gated convolutions on a graph and its line graph, as ALIGNN has them, in plain PyTorch.

Its graphs are index tensors made on the host and copied over, so it runs on devices that no graph library reaches.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from nodebudget.measure import GraphSettings

ELEMENTS = 100


@dataclass(frozen=True)
class Graph:
    """A graph as PyTorch Geometric's `Data` looks: edge_index[2, edges]."""

    edge_index: Tensor
    num_nodes: int

    @property
    def num_edges(self) -> int:
        return self.edge_index.shape[1]


@dataclass(frozen=True)
class Batch:
    """A batch on the device."""

    elements: Tensor  # [nodes]
    lengths: Tensor  # [edges]
    cosines: Tensor  # [line_edges]
    edges: Tensor  # [2, edges]
    line_edges: Tensor  # [2, line_edges]
    graph_of: Tensor  # [nodes]
    target: Tensor  # [graphs]


class Gated(nn.Module):
    """Edge-gated convolution: nodes[n, width] and edges[e, width] to new ones."""

    def __init__(self, width: int, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.gates = nn.ModuleList(nn.Linear(width, width) for _ in range(3))
        self.updates = nn.ModuleList(nn.Linear(width, width) for _ in range(2))
        self.norms = nn.ModuleList(norm(width) for _ in range(2))

    def forward(self, index: Tensor, nodes: Tensor, edges: Tensor) -> tuple[Tensor, Tensor]:
        source, target = index
        gate = self.gates[0](nodes).index_select(0, source) + self.gates[1](nodes).index_select(0, target)
        gate = gate + self.gates[2](edges)
        open_ = torch.sigmoid(gate)
        sent = open_ * self.updates[0](nodes).index_select(0, source)
        total = torch.zeros_like(nodes).index_add(0, target, sent)
        weight = torch.zeros_like(nodes).index_add(0, target, open_)
        new = self.updates[1](nodes) + total / (weight + 1e-6)
        return (
            nodes + nn.functional.silu(self.norms[0](new)),
            edges + nn.functional.silu(self.norms[1](gate)),
        )


class LineGraphNet(nn.Module):
    """Layers that pass messages between pairs of bonds, then between atoms."""

    def __init__(self, width: int, layers: int, norm: str) -> None:
        super().__init__()
        self.atoms, self.bonds, self.angles = nn.Embedding(ELEMENTS, width), nn.Linear(1, width), nn.Linear(1, width)
        self.on_line_graph = nn.ModuleList(Gated(width, getattr(nn, norm)) for _ in range(layers))
        self.on_graph = nn.ModuleList(Gated(width, getattr(nn, norm)) for _ in range(layers))
        self.head = nn.Linear(width, 1)

    def forward(self, batch: Batch) -> Tensor:
        nodes = self.atoms(batch.elements)
        edges = self.bonds(batch.lengths[:, None])
        angles = self.angles(batch.cosines[:, None])
        for line_layer, layer in zip(self.on_line_graph, self.on_graph, strict=True):
            edges, angles = line_layer(batch.line_edges, edges, angles)
            nodes, edges = layer(batch.edges, nodes, edges)
        pooled = nodes.new_zeros(len(batch.target), nodes.shape[1]).index_add(0, batch.graph_of, nodes)
        return self.head(pooled)[:, 0]


class LineGraphWorkload:
    """One AdamW training step of `LineGraphNet`.

    Args:
        device: Where the model goes.
        width: Width of the hidden layers.
        layers: Pairs of layers.
        norm: Name of the normalising layer.
        optimizer: Name of the optimizer, with its default settings.
        fail_over: Raise where a batch has more nodes than this, as a bug in the user's code would.
        hold: Bytes of the device that something else in this process holds.
    """

    name = "linegraph_net.LineGraphNet"

    def __init__(
        self,
        device: torch.device | str = "cpu",
        *,
        width: int = 32,
        layers: int = 2,
        norm: str = "LayerNorm",
        optimizer: str = "AdamW",
        fail_over: int | None = None,
        hold: int = 0,
    ) -> None:
        self.device = torch.device(device)
        self.held = torch.empty(hold, dtype=torch.uint8, device=self.device)
        self.graphs = GraphSettings()
        self.fail_over = fail_over
        self.model = LineGraphNet(width, layers, norm).to(self.device)
        self.optimizer = getattr(torch.optim, optimizer)(self.model.parameters(), lr=1e-3)

    def sample(self, item: object) -> tuple[Graph, Graph]:
        """Turn a JARVIS dict, or (nodes, edges, line_edges) for a random graph, into graph and line graph."""
        if isinstance(item, dict):
            return of_crystal(item)
        return random_graphs(*item)  # type: ignore[misc]

    def batch(self, samples: Sequence[tuple[Graph, Graph]]) -> Batch:
        """Join samples on the host and copy them to the device."""
        crystals, lines = [pair[0] for pair in samples], [pair[1] for pair in samples]
        edges, line_edges = _join(crystals), _join(lines)
        nodes = sum(graph.num_nodes for graph in crystals)
        owner = torch.repeat_interleave(torch.tensor([graph.num_nodes for graph in crystals]))
        host = Batch(
            elements=torch.arange(nodes) % ELEMENTS,
            lengths=torch.ones(edges.shape[1]),
            cosines=torch.ones(line_edges.shape[1]),
            edges=edges,
            line_edges=line_edges,
            graph_of=owner,
            target=torch.zeros(len(samples)),
        )
        return Batch(**{name: tensor.to(self.device) for name, tensor in vars(host).items()})

    def step(self, batch: Batch) -> None:
        """Run one full training step on the mean squared error."""
        if self.fail_over is not None and len(batch.elements) > self.fail_over:
            raise ValueError("a label is missing")
        self.optimizer.zero_grad()
        nn.functional.mse_loss(self.model(batch), batch.target).backward()
        self.optimizer.step()


def of_crystal(item: dict) -> tuple[Graph, Graph]:
    """Make the edges of alignn's k-nearest graph of a JARVIS dict, and those of its line graph, without DGL."""
    from alignn.graphs import build_undirected_edgedata, nearest_neighbor_edges
    from jarvis.core.atoms import Atoms

    atoms = Atoms.from_dict(item["atoms"])
    near, _images = nearest_neighbor_edges(atoms=atoms, cutoff=8.0, max_neighbors=12, id=None, use_canonize=True)
    source, target = (np.asarray(ends) for ends in build_undirected_edgedata(atoms, near)[:2])
    graph = Graph(torch.from_numpy(np.stack([source, target])), atoms.num_atoms)
    first, second = np.nonzero(target[:, None] == source)
    others = first != second
    return graph, Graph(torch.from_numpy(np.stack([first[others], second[others]])), len(source))


@functools.lru_cache(maxsize=4096)
def random_graphs(nodes: int, edges: int, line_edges: int) -> tuple[Graph, Graph]:
    """Make a graph and something of a line graph's shape with random ends, always the same for the same sizes."""
    rng = np.random.default_rng((nodes, edges, line_edges))
    graph = Graph(torch.from_numpy(rng.integers(0, nodes, (2, edges))), nodes)
    return graph, Graph(torch.from_numpy(rng.integers(0, edges, (2, line_edges))), edges)


def random_sizes(count: int, *, seed: int = 0, mean: float = 12.0) -> list[tuple[int, int, int]]:
    """Draw (nodes, edges, line_edges) of lognormal crystals with some 13 neighbours each."""
    rng = np.random.default_rng(seed)
    nodes = np.clip(rng.lognormal(np.log(mean), 0.7, count), 1, None).astype(int)
    edges = (nodes * rng.uniform(11.5, 15.0, count)).astype(int)
    line_edges = (edges * rng.uniform(11.5, 15.0, count)).astype(int)
    return [(int(n), int(e), int(t)) for n, e, t in zip(nodes, edges, line_edges, strict=True)]


def _join(graphs: Sequence[Graph]) -> Tensor:
    offsets = np.cumsum([0, *(graph.num_nodes for graph in graphs)])
    return torch.cat([graph.edge_index + int(o) for graph, o in zip(graphs, offsets, strict=False)], dim=1)
