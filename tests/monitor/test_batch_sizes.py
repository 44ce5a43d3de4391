"""Sizes of batches of all kinds, and of some that can't be counted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from crystals import alignn_graphs, entries, small_prototypes

from nodebudget import MemoryMonitor, SizeTable, oom_guard, read_run
from nodebudget.datasets.measure import measure
from nodebudget.errors import DoesNotFitError, InputError
from nodebudget.monitor.batch_sizes import sizes_of, try_sizes_of
from nodebudget.utils.optional_imports import load_dgl, require


def test_alignn_batches_have_the_sizes_of_their_crystals():
    from nodebudget.workloads.alignn import AlignnWorkload

    workload = AlignnWorkload(alignn_layers=1, gcn_layers=1, hidden_features=8)
    samples = [workload.sample(entry) for entry in entries(6, 5)]
    expected = measure(samples).totals(range(5))
    batch = workload.batch(samples)
    assert sizes_of(batch) == expected
    assert sizes_of(samples) == expected
    graph, line_graph, *_ = batch
    assert sizes_of({"graph": graph, "line": line_graph, "target": None}) == expected
    assert sizes_of(SimpleNamespace(inputs=(graph, line_graph))) == expected


def test_without_a_line_graph_its_edges_are_counted_only_where_needed():
    graph, _ = alignn_graphs(small_prototypes(6)[0])
    assert set(sizes_of(graph)) == {"graphs", "nodes", "edges"}
    batch = load_dgl().batch([graph, graph])
    sizes = sizes_of((batch, torch.zeros(2)), line_edges=True)
    assert sizes["graphs"] == 2
    assert sizes["line_edges"] == 2 * graph.line_graph().num_edges()


def test_a_pyg_batch():
    data = require("torch_geometric.data")
    one = data.Data(edge_index=torch.tensor([[0, 1], [1, 0]]), num_nodes=3)
    batch = data.Batch.from_data_list([one] * 4)
    assert sizes_of(batch) == {"graphs": 4, "nodes": 12, "edges": 8}
    assert sizes_of([one] * 4) == {"graphs": 4, "nodes": 12, "edges": 8}


def test_indices_of_a_sampler_are_looked_up():
    table = SizeTable.from_counts(nodes=[1, 2, 3], edges=[10, 20, 30])
    for batch in ([0, 2], np.array([0, 2]), torch.tensor([0, 2])):
        assert sizes_of(batch, table) == {"graphs": 2, "nodes": 4, "edges": 40}
    assert sizes_of("anything", table, indices=[1]) == {"graphs": 1, "nodes": 2, "edges": 20}
    with pytest.raises(InputError, match="index 3 of a batch"):
        sizes_of([3], table)
    with pytest.raises(InputError, match="without a table"):
        sizes_of(None, indices=[3])


def test_text_beside_graphs_and_a_function_of_sizes(samples):
    graph, line_graph = samples[0]
    batch = {"graphs": (graph, line_graph), "input_ids": torch.zeros(1, 7, dtype=torch.long)}
    assert sizes_of(batch)["tokens"] == 7
    assert sizes_of(batch)["nodes"] == graph.num_nodes
    assert sizes_of(batch, lambda batch: {"tokens": torch.tensor(5)})["tokens"] == 5
    assert sizes_of(object()) == {}
    for value in (-1, float("nan"), float("inf")):
        with pytest.raises(InputError, match="tokens of a batch is"):
            sizes_of(batch, lambda batch, value=value: {"tokens": value})


@dataclass
class Later:
    """A field that is set after the batch was made, if ever."""

    nodes: torch.Tensor
    edges: torch.Tensor = field(init=False)


class Raising:
    """Attributes that raise."""

    def __getattr__(self, name: str) -> object:
        raise RuntimeError(f"{name} was freed")


class Unfinished:
    """Looks like a graph, and has no number of edges."""

    edge_index, num_nodes, num_edges = None, 3, None


class Textless:
    """Attributes that raise an error whose text raises."""

    class Error(Exception):
        def __str__(self) -> str:
            raise RuntimeError("freed")

    def __getattr__(self, name: str) -> object:
        raise self.Error


class Slots:
    """Nothing that can be counted, and no dict."""

    __slots__ = ("num_nodes", "positions")


class Endless(dict):
    """Values that never end in the same place."""

    def values(self) -> Iterator[object]:  # type: ignore[override]
        raise RecursionError("deep")


def hetero() -> object:
    data = require("torch_geometric.data")
    graph = data.HeteroData()
    graph["a"].x = torch.rand(5, 2)
    graph["a", "to", "a"].edge_index = torch.tensor([[0, 1], [1, 0]])
    return data.Batch.from_data_list([graph, graph])


def test_a_batch_of_several_types_of_nodes():
    assert sizes_of(hetero()) == {"graphs": 2, "nodes": 10, "edges": 4}


HOSTILE = {
    "a field set later": lambda: Later(torch.ones(3)),
    "attributes that raise": Raising,
    "errors without a text": Textless,
    "slots": Slots,
    "a graph without edges": Unfinished,
    "a dict that raises": Endless,
}


@pytest.mark.parametrize("make", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_batch_that_cannot_be_counted_does_not_end_the_training(make, tmp_path):
    batch = make()
    sizes, reason = try_sizes_of(batch)
    assert sizes == {}
    warned = pytest.warns(UserWarning, match="can't be counted")
    with MemoryMonitor(tmp_path / "run.jsonl", device="cpu") as monitor, warned:
        assert [one is batch for one in monitor.watch([batch, batch, batch])] == [True] * 3
    run = read_run(monitor.path)
    assert [step["sizes"] for step in run.steps] == [{}] * 3
    [text] = [event["text"] for event in run.events if event["event"] == "warning"]
    assert f"{type(batch).__name__} can't be counted ({reason}); pass sizes=" in text
    with pytest.raises(DoesNotFitError, match="a batch of unknown sizes"), oom_guard(batch):
        raise MemoryError


def test_a_function_of_sizes_that_raises_does_not_end_the_training(tmp_path):
    monitor = MemoryMonitor(tmp_path / "run.jsonl", device="cpu", sizes=lambda batch: {"nodes": batch["nodes"]})
    with pytest.warns(
        UserWarning, match=r"a batch of type dict can't be counted \(KeyError: 'nodes'\); pass sizes="
    ) as caught:
        assert sum(1 for _ in monitor.watch([{}, {}])) == 2
    assert len(caught) == 1
    monitor.close()
