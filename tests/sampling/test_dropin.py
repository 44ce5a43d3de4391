"""`batch_sampler=` in the three loaders that people train crystal networks with: real crystals, real networks.

DGL's `GraphDataLoader` has an argument `use_ddp`, which makes a sampler of single graphs that shares them out
between ranks. A batch sampler takes the place of that one, and `NodeBudgetSampler` shares out whole batches by
itself wherever `torch.distributed` is initialised: `use_ddp` stays False, under DistributedDataParallel too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed
from crystals import alignn_graphs, entries, small_prototypes
from torch.utils.data import DataLoader

from nodebudget import NodeBudgetSampler
from nodebudget.utils import optional_imports as frameworks
from nodebudget.workloads.alignn import AlignnWorkload

EPOCHS = 3
LINE_EDGES = 6_000


def volume(atoms: Any) -> float:
    """Something that a network can learn: the logarithm of the volume of an atom, Å³."""
    return float(np.log(atoms.volume / atoms.num_atoms))


@pytest.fixture(scope="module")
def work() -> AlignnWorkload:
    torch.manual_seed(0)
    return AlignnWorkload(hidden_features=16, alignn_layers=1, gcn_layers=1, embedding_features=8, learning_rate=1e-2)


@pytest.fixture(scope="module")
def samples(work: AlignnWorkload) -> list[Any]:
    chosen = zip(entries(most=8, count=40), small_prototypes(8)[:40], strict=True)
    return [work.sample({**entry, "target": volume(atoms)}) for entry, atoms in chosen]


def fit(
    sampler: NodeBudgetSampler, loader: Iterable[Any], step: Callable[[Any], tuple[float, int]], epochs: int = EPOCHS
) -> list[float]:
    """Train, and return each epoch's mean loss over graphs."""
    losses = []
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        done = [step(batch) for batch in loader]
        assert len(done) == len(sampler)
        assert sum(graphs for _, graphs in done) == len(sampler.sizes)
        losses.append(sum(loss * graphs for loss, graphs in done) / len(sampler.sizes))
    return losses


@pytest.mark.parametrize("kind", ["torch", "dgl"])
def test_alignn_learns_from_budget_batches(kind: str, work: AlignnWorkload, samples: list[Any]) -> None:
    torch.manual_seed(0)
    model = frameworks.require("alignn.models.alignn").ALIGNN(type(work.model.config)(**work.config))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)

    def step(batch: Any) -> tuple[float, int]:
        graph, line_graph, lattice, target = batch
        assert line_graph.num_edges() <= LINE_EDGES
        loss = torch.nn.functional.mse_loss(model((graph, line_graph, lattice)).reshape(-1), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item(), len(target)

    loaders = {"torch": DataLoader, "dgl": frameworks.require("dgl.dataloading").GraphDataLoader}
    sampler = NodeBudgetSampler(samples, max_line_edges=LINE_EDGES, seed=1)
    assert len(sampler) > 3
    losses = fit(sampler, loaders[kind](samples, batch_sampler=sampler, collate_fn=work.batch), step)
    assert losses[-1] < 0.5 * losses[0]


def test_use_ddp_of_dgls_loader_stays_false(samples: list[Any], tmp_path: Path) -> None:
    loader = frameworks.require("dgl.dataloading").GraphDataLoader
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        sampler = NodeBudgetSampler(samples, max_line_edges=LINE_EDGES)
        with pytest.raises(ValueError, match="mutually exclusive"):
            loader(samples, batch_sampler=sampler, use_ddp=True)
        shares = [NodeBudgetSampler(samples, max_line_edges=LINE_EDGES, num_replicas=2, rank=rank) for rank in (0, 1)]
    finally:
        torch.distributed.destroy_process_group()
    batches = [list(share) for share in shares]
    assert len(batches[0]) == len(batches[1])
    assert sorted(graph for share in batches for batch in share for graph in batch) == list(range(len(samples)))


class CrystalNetwork(torch.nn.Module):
    """A crystal graph convolutional network (CGCNN) of two layers."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.layers = frameworks.require("torch_geometric.nn")
        self.elements = torch.nn.Embedding(120, width)
        self.conv = torch.nn.ModuleList([self.layers.CGConv(width, dim=8, batch_norm=True) for _ in range(2)])
        self.head = torch.nn.Linear(width, 1)

    def forward(self, batch: Any) -> torch.Tensor:
        hidden = self.elements(batch.z)
        for conv in self.conv:
            hidden = conv(hidden, batch.edge_index, batch.edge_attr)
        return self.head(self.layers.global_mean_pool(hidden, batch.batch)).reshape(-1)


def crystal_data() -> list[Any]:
    data = frameworks.require("torch_geometric.data").Data
    found = []
    for atoms in small_prototypes(8)[:60]:
        graph, _ = alignn_graphs(atoms)
        lengths = graph.edata["r"].norm(dim=1, keepdim=True).float()
        found.append(
            data(
                z=graph.ndata["atom_features"].long().reshape(-1),
                edge_index=torch.stack(graph.edges()).long(),
                edge_attr=torch.exp(-((lengths - torch.arange(1, 9)) ** 2)),
                y=torch.tensor([volume(atoms)], dtype=torch.float32),
                num_nodes=graph.num_nodes(),
            )
        )
    return found


def test_a_crystal_network_of_pyg_learns_from_budget_batches() -> None:
    torch.manual_seed(0)
    crystals = crystal_data()
    model = CrystalNetwork()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)

    def step(batch: Any) -> tuple[float, int]:
        assert batch.num_nodes <= 40
        assert batch.num_edges <= 600
        loss = torch.nn.functional.mse_loss(model(batch), batch.y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item(), batch.num_graphs

    sampler = NodeBudgetSampler(crystals, max_nodes=40, max_edges=600, seed=1)
    loader = frameworks.require("torch_geometric.loader").DataLoader(crystals, batch_sampler=sampler)
    losses = fit(sampler, loader, step, epochs=8)
    assert losses[-1] < 0.5 * losses[0]
