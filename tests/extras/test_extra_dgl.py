"""The extra `dgl`: graphs of DGL are counted and batched, without jarvis-tools and alignn."""

from __future__ import annotations

import json

import torch
from apart import call, need

from nodebudget import MemoryMonitor, NodeBudgetSampler, measure
from nodebudget.monitor.log_reader import read_run
from nodebudget.utils.optional_imports import load_dgl

need("dgl", "dgl")


def rings():
    dgl = load_dgl()
    return [dgl.graph((torch.arange(n), (torch.arange(n) + 1) % n)) for n in range(3, 23)]


def test_graphs_and_their_line_graphs_are_counted():
    found = measure([(graph, graph.line_graph(), 0.0) for graph in rings()])
    assert found["nodes"].tolist() == found["edges"].tolist() == found["line_edges"].tolist() == list(range(3, 23))


def test_a_cache_of_graphs(tmp_path, capsys):
    load_dgl().save_graphs(str(tmp_path / "graphs.bin"), rings())
    assert call("measure", tmp_path / "graphs.bin", "--json", "-q", "--no-cache") == 0
    assert json.loads(capsys.readouterr().out)["nodes"]["total"] == sum(range(3, 23))


def test_a_budget_in_dgls_loader(tmp_path):
    dgl = load_dgl()
    graphs = rings()
    sampler = NodeBudgetSampler(graphs, max_nodes=60)
    loader = dgl.dataloading.GraphDataLoader(graphs, batch_sampler=sampler)
    monitor = MemoryMonitor(tmp_path / "run.jsonl", device="cpu")
    assert sum(batch.num_nodes() for batch in monitor.watch(loader)) == sum(range(3, 23))
    monitor.close()
    assert max(step["sizes"]["nodes"] for step in read_run(tmp_path / "run.jsonl").steps) <= 60
