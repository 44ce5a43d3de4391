"""The sampler in the loaders that people use, with worker processes, and resumed in the middle."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from nodebudget.datasets.size_table import SizeTable
from nodebudget.sampling.sampler import NodeBudgetSampler
from nodebudget.utils import optional_imports as frameworks

NODES = np.random.default_rng(0).integers(5, 30, 200)
SIZES = SizeTable.from_counts(NODES, NODES * 4)


class Numbers(Dataset[int]):
    """A dataset whose samples are their own index."""

    def __getitem__(self, index: int) -> int:
        return index

    def __len__(self) -> int:
        return len(NODES)


def plain(samples: list[int]) -> list[int]:
    return samples


def make_sampler(**options: Any) -> NodeBudgetSampler:
    return NodeBudgetSampler(SIZES, max_nodes=150, seed=1, **options)


@pytest.mark.parametrize(
    ("context", "persistent"), [("fork", True), ("spawn", True), ("forkserver", True), ("fork", False)]
)
def test_worker_processes_of_every_kind(context: str, persistent: bool) -> None:
    sampler = make_sampler()
    loader = DataLoader(
        Numbers(),
        batch_sampler=sampler,
        num_workers=2,
        collate_fn=plain,
        multiprocessing_context=context,
        persistent_workers=persistent,
    )
    assert len(loader) == len(sampler)
    seen = []
    for epoch in range(2):
        sampler.set_epoch(epoch)
        batches = list(loader)
        assert batches == list(make_sampler_at(epoch))
        seen.append(batches)
    assert seen[0] != seen[1]


def make_sampler_at(epoch: int) -> NodeBudgetSampler:
    sampler = make_sampler()
    sampler.set_epoch(epoch)
    return sampler


def test_a_pickled_sampler_goes_on_where_it_was() -> None:
    sampler = make_sampler()
    whole = list(sampler)
    sampler.load_state_dict(sampler.state_dict(consumed=4))
    assert list(pickle.loads(pickle.dumps(sampler))) == whole[4:]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_sampler_goes_on_in_a_loader_with_workers(workers: int) -> None:
    sampler = make_sampler()
    whole = list(sampler)
    sampler.load_state_dict(sampler.state_dict(consumed=4))
    loader = DataLoader(Numbers(), batch_sampler=sampler, num_workers=workers, collate_fn=plain)
    assert list(loader) == whole[4:]
    assert list(loader) == whole


@pytest.mark.filterwarnings("ignore:.set_vital. is deprecated:UserWarning")  # torchdata calls it
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("stop", [0, 1, 7])
def test_stateful_loader_resumes_with_prefetching_workers(workers: int, stop: int) -> None:
    stateful = pytest.importorskip("torchdata.stateful_dataloader")

    def make() -> tuple[NodeBudgetSampler, Any]:
        sampler = make_sampler()
        return sampler, stateful.StatefulDataLoader(
            Numbers(), batch_sampler=sampler, num_workers=workers, collate_fn=plain
        )

    sampler, loader = make()
    sampler.set_epoch(2)
    whole = list(loader)
    going = iter(loader)
    head = [next(going) for _ in range(stop)]
    state = pickle.loads(pickle.dumps(loader.state_dict()))
    del going
    again, other = make()
    other.load_state_dict(state)
    assert head + list(other) == whole
    assert again.epoch == 2
    again.set_epoch(3)
    assert len(list(other)) == len(whole)


def test_one_cycle_does_not_overrun() -> None:
    sampler = make_sampler()
    loader = DataLoader(Numbers(), batch_sampler=sampler, collate_fn=plain)
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=3 * len(loader))
    for epoch in range(3):
        sampler.set_epoch(epoch)
        for batch in loader:
            loss = (weight - float(len(batch))) ** 2
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    assert schedule.last_epoch == 3 * len(loader)


def test_dgl_loader_trains() -> None:
    dgl = frameworks.load_dgl()
    graphs = [dgl.rand_graph(int(n), int(n) * 4) for n in NODES]
    for graph in graphs:
        graph.ndata["x"] = torch.ones(graph.num_nodes(), 3)
    loaders = frameworks.require("dgl.dataloading")
    sampler = NodeBudgetSampler(graphs, max_nodes=150, max_edges=600)
    loader = loaders.GraphDataLoader(graphs, batch_sampler=sampler)
    conv = frameworks.require("dgl.nn.pytorch").GraphConv(3, 1, allow_zero_in_degree=True)
    trained = _train(conv, ((conv(graph, graph.ndata["x"]), graph.num_nodes()) for graph in loader))
    assert len(trained) == len(sampler)
    assert max(trained) <= 150
    assert sum(trained) == NODES.sum()


def test_pyg_loader_trains() -> None:
    data = frameworks.require("torch_geometric.data")
    graphs = [
        data.Data(x=torch.ones(int(n), 3), edge_index=torch.randint(int(n), (2, 4 * int(n))), num_nodes=int(n))
        for n in NODES
    ]
    sampler = NodeBudgetSampler(graphs, max_nodes=150)
    loader = frameworks.require("torch_geometric.loader").DataLoader(graphs, batch_sampler=sampler)
    conv = frameworks.require("torch_geometric.nn").GCNConv(3, 1)
    trained = _train(conv, ((conv(batch.x, batch.edge_index), batch.num_nodes) for batch in loader))
    assert len(trained) == len(sampler)
    assert max(trained) <= 150
    assert sum(trained) == NODES.sum()


def _train(model: torch.nn.Module, outputs: Any) -> list[int]:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    sizes = []
    for output, nodes in outputs:
        optimizer.zero_grad()
        loss = ((output - 1) ** 2).mean()
        loss.backward()
        optimizer.step()
        assert torch.isfinite(loss)
        sizes.append(nodes)
    return sizes
