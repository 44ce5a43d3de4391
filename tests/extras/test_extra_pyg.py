"""The extra `pyg`: graphs of PyTorch Geometric are counted, batched and watched."""

from __future__ import annotations

import pytest
import torch
from apart import need

from nodebudget import MemoryMonitor, NodeBudgetSampler, measure
from nodebudget.monitor.log_reader import read_run
from nodebudget.utils.optional_imports import require

need("pyg", "torch_geometric")

# What PyTorch Geometric warns of in its own code is not ours to mend.
pytestmark = pytest.mark.filterwarnings("ignore")


def rings():
    make = require("torch_geometric.data").Data
    ends = [(torch.arange(n), (torch.arange(n) + 1) % n) for n in range(3, 23)]
    return [make(x=torch.zeros(len(a), 1), edge_index=torch.stack([a, b])) for a, b in ends]


def test_graphs_are_counted():
    found = measure(rings())
    assert found["nodes"].tolist() == found["edges"].tolist() == found["line_edges"].tolist() == list(range(3, 23))


def test_a_budget_in_its_loader(tmp_path):
    graphs = rings()
    loader = require("torch_geometric.loader").DataLoader(graphs, batch_sampler=NodeBudgetSampler(graphs, max_nodes=60))
    monitor = MemoryMonitor(tmp_path / "run.jsonl", device="cpu")
    assert sum(batch.num_nodes for batch in monitor.watch(loader)) == sum(range(3, 23))
    monitor.close()
    assert max(step["sizes"]["nodes"] for step in read_run(tmp_path / "run.jsonl").steps) <= 60
