"""Columns that a model's memory hangs on, beside nodes and edges: read off its samples, or named by a rule."""

from __future__ import annotations

from collections import namedtuple
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from ase.build import bulk, molecule
from models import crystal_graphs, pyg_graph

from nodebudget import (
    InputError,
    NodeBudgetSampler,
    calibrate,
    load_workload,
    measure,
    measure_samples,
    squares,
    triplets,
)
from nodebudget.calibration.compatibility import measure_as_calibrated
from nodebudget.datasets.counting.graph import count_graph
from nodebudget.utils.optional_imports import require

GRAPH, LINE_GRAPH = crystal_graphs(0)
COUNTS = count_graph((GRAPH, LINE_GRAPH))


@dataclass
class Sample:
    label: Any
    crystal: Any


PLACES = {
    "(label, g)": (torch.ones(1), GRAPH),
    "(g, state, label, lg)": (GRAPH, torch.ones(2), 1.0, LINE_GRAPH),
    "a dict": {"graph": GRAPH, "lines": LINE_GRAPH},
    "a dataclass": Sample(torch.ones(1), GRAPH),
    "a dataclass of a tuple": Sample(torch.ones(1), (GRAPH, LINE_GRAPH)),
}


@pytest.mark.parametrize("sample", PLACES.values(), ids=PLACES.keys())
def test_a_graph_in_whatever_place_of_a_sample(sample):
    table = measure([sample, sample])
    assert {name: table[name].tolist() for name in COUNTS} == {name: [value] * 2 for name, value in COUNTS.items()}


def test_a_line_graph_of_a_part_of_the_edges():
    dgl = require("dgl")
    pruned = dgl.node_subgraph(LINE_GRAPH, torch.arange(LINE_GRAPH.num_nodes() // 2))
    assert count_graph((GRAPH, torch.eye(3), pruned))["line_edges"] == pruned.num_edges() < COUNTS["line_edges"]


@pytest.mark.filterwarnings("ignore:Sparse:UserWarning")
def test_graphs_of_other_libraries():
    data = require("torch_geometric.data")
    index = torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])
    hetero = data.HeteroData()
    hetero["a"].x, hetero["b"].x = torch.ones(3, 1), torch.ones(2, 1)
    hetero["a", "to", "b"].edge_index = index[:, :2]
    assert count_graph(hetero) == {"nodes": 5, "edges": 2}
    plain = data.Data(pos=torch.ones(3, 3), edge_index=index)
    sparse = data.Data(pos=torch.ones(3, 3), adj_t=torch.sparse_coo_tensor(index.flip(0), torch.ones(4), (3, 3)))
    compressed = data.Data(pos=torch.ones(3, 3), adj_t=sparse.adj_t.to_sparse_csr())
    assert count_graph(plain) == count_graph(sparse) == count_graph(compressed)
    assert count_graph(data.Data(pos=torch.ones(3, 3))) == {"nodes": 3}
    fields = namedtuple("GraphsTuple", "nodes edges senders receivers n_node n_edge globals")
    tuple_of = fields(np.ones((3, 2)), None, index[0].numpy(), index[1].numpy(), np.array([3]), np.array([4]), None)
    assert count_graph(tuple_of) == count_graph(plain)
    chgnet = namedtuple("CrystalGraph", "atomic_number atom_graph bond_graph")
    assert count_graph((chgnet(torch.ones(3), torch.ones(4, 2), torch.ones(7, 5)), {"e": 1.0})) == {
        "nodes": 3,
        "edges": 4,
        "line_edges": 7,
    }


def test_a_budget_of_nodes_needs_no_edges_and_one_of_edges_says_what_is_missing():
    data = require("torch_geometric.data").Data
    samples = [data(pos=torch.ones(n, 3)) for n in (9, 9, 21, 12)]
    sampler = NodeBudgetSampler(samples, max_nodes=32)
    assert sorted(index for batch in sampler for index in batch) == [0, 1, 2, 3]
    with pytest.raises(InputError, match="edges"):
        NodeBudgetSampler(samples, max_edges=32)


def test_triplets_and_squares():
    atoms = [bulk("NaCl", "rocksalt", a=5.64), molecule("CH4")]
    table = measure(atoms, size_of=triplets(3.0))
    assert table["triplets"].tolist() == [2 * 6 * 5, 5 * 4 * 3]
    assert measure(atoms, size_of=squares())["squares"].tolist() == [4, 25]
    data = require("torch_geometric.data").Data(pos=torch.from_numpy(atoms[1].positions).float())
    assert triplets(1.2)(data) == {"triplets": 4 * 3}
    for cutoff in (0, -1, float("nan"), "x"):
        with pytest.raises(InputError, match="cutoff"):
            triplets(cutoff)


class Angles:
    """A network whose bytes grow with a number of angles that no edge tells."""

    def __init__(self, device="cpu"):
        self.model = torch.nn.Sequential(torch.nn.Linear(8, 64), torch.nn.SiLU(), torch.nn.Linear(64, 1))
        self.optimizer = torch.optim.AdamW(self.model.parameters())

    def batch(self, samples):
        return torch.cat([sample.angle_features for sample in samples]), torch.cat([sample.x for sample in samples])

    def step(self, batch):
        self.optimizer.zero_grad()
        (self.model(batch[0]).mean() + batch[1].float().mean()).backward()
        self.optimizer.step()


def angle_samples():
    rng = np.random.default_rng(0)
    samples = []
    for index in range(60):
        graph = pyg_graph(index % 12).clone()
        graph.angle_features = torch.rand(int(rng.integers(50, 3000)), 8)
        graph.more_of_these = torch.rand(2 * len(graph.angle_features), 1)
        graph.cell = torch.eye(3)
        samples.append(graph)
    return samples


def test_the_lengths_of_tensors_that_the_memory_hangs_on_become_columns():
    samples = angle_samples()
    sizes = measure_samples(Angles(), samples)
    # Proportional ones are merged into the longest.
    assert set(sizes.columns) == {"nodes", "edges", "line_edges", "more_of_these"}
    calibration = calibrate(Angles(), samples)
    assert "more_of_these" in calibration.columns
    assert calibration.holdout.mape < 0.005
    again = measure_as_calibrated(samples, calibration)
    assert again["more_of_these"].tolist() == sizes["more_of_these"].tolist()
    sampler = NodeBudgetSampler(samples, calibration=calibration, memory="6MiB")
    assert sorted(index for batch in sampler for index in batch) == list(range(60))


class Plain(Angles):
    """The same samples, of which the angles are not used."""

    def batch(self, samples):
        x = torch.cat([sample.edge_attr for sample in samples]).float()
        return x[:, None].expand(-1, 8).contiguous(), x


def test_lengths_that_the_memory_does_not_hang_on_are_left_out():
    calibration = calibrate(Plain(), angle_samples())
    assert "more_of_these" not in calibration.columns
    assert calibration.holdout.mape < 0.01


def test_a_workload_names_columns_in_its_toml(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "attention.py").write_text(
        "import torch\n\n\nclass Dense:\n"
        "    def __init__(self, device):\n"
        "        self.model = torch.nn.Linear(8, 8)\n"
        "        self.optimizer = torch.optim.SGD(self.model.parameters())\n\n"
        "    def sample(self, item):\n        return {'z': torch.ones(len(item), 8)}\n\n"
        "    def batch(self, samples):\n        return [sample['z'] for sample in samples]\n\n"
        "    def step(self, batch):\n        self.optimizer.zero_grad()\n        out = []\n"
        "        for x in batch:\n            x = self.model(x)\n            for _ in range(12):\n"
        "                x = (x @ x.T).softmax(1) @ x\n            out.append(x.sum())\n        sum(out).backward()\n"
    )
    (tmp_path / "a.toml").write_text('workload = "attention:Dense"\ncolumns = ["squares", "triplets(3.0)"]\n')
    workload = load_workload("a.toml")
    atoms = [bulk("NaCl", "rocksalt", a=5.64) * (n, 1, 1) for n in range(1, 30)]
    sizes = measure_samples(workload, atoms)
    assert sizes["squares"].tolist() == (sizes["nodes"] ** 2).tolist()
    assert sizes["triplets"].tolist() == [60 * n for n in range(1, 30)]
    calibration = calibrate(workload, atoms)
    with pytest.warns(UserWarning, match=r"square of a graph's nodes"):
        without = calibrate(load_workload("attention:Dense"), atoms)
    # The largest crystal alone adds a little, which is not a sum.
    assert calibration.holdout.mape < 0.03 < 0.1 < without.holdout.mape
    (tmp_path / "b.toml").write_text('workload = "attention:Dense"\ncolumns = ["cubes"]\n')
    with pytest.raises(InputError, match=r"unknown column 'cubes'.*'squares'"):
        load_workload("b.toml")


def test_samples_without_anything_that_can_be_counted_say_what_was_looked_for():
    class Odd(Angles):
        def sample(self, item):
            return {"values": torch.ones(3)}

    with pytest.raises(
        InputError, match=r"without a graph of DGL.*\(values\) none is called z.*method sizes"
    ) as caught:
        measure_samples(Odd(), [0, 1])
    assert str(caught.value).isprintable()
