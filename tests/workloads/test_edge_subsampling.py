"""Graphs with a part of their edges."""

import numpy as np
import pytest
import torch
from models import Alignn, Pyg, crystal_graphs, pyg_graph

from nodebudget.datasets.counting.graph import count_graph, line_edges
from nodebudget.workloads.edge_subsampling import can_subsample_edges, subsample_edges, variants_of


@pytest.mark.parametrize("index", [0, 5, 40])
def test_features_stay_with_the_edges_and_pairs_of_edges_that_stay(index):
    graph, line_graph = crystal_graphs(index)
    thinned, thinned_line, label = subsample_edges((graph, line_graph, "label"), 0.5)
    assert label == "label"
    assert thinned.num_nodes() == graph.num_nodes()
    assert 0.2 * graph.num_edges() < thinned.num_edges() < 0.8 * graph.num_edges()
    assert thinned.edata["r"].shape == (thinned.num_edges(), 3)
    assert set(map(tuple, thinned.edata["r"].tolist())) <= set(map(tuple, graph.edata["r"].tolist()))
    assert torch.equal(thinned.ndata["atom_features"], graph.ndata["atom_features"])
    # The line graph is that of the thinned graph, and keeps its angles.
    source, target = (ends.numpy() for ends in thinned.edges())
    assert thinned_line.num_edges() == line_edges(source, target, thinned.num_nodes())
    assert thinned_line.edata["h"].shape[0] == thinned_line.num_edges()


def test_a_graph_of_pytorch_geometric_keeps_its_nodes_and_attributes():
    data = pyg_graph(3)
    thinned = subsample_edges(data, 0.8)
    assert thinned.num_nodes == data.num_nodes
    assert thinned.edge_attr.shape[0] == thinned.num_edges < data.num_edges
    assert torch.equal(thinned.y, data.y)


def test_the_same_graph_keeps_the_same_edges():
    graph, _ = crystal_graphs(7)
    one, other = (subsample_edges(graph, 0.8).edges() for _ in range(2))
    assert all(map(torch.equal, one, other))


def test_variants_count_what_they_run():
    samples = [crystal_graphs(index) for index in (1, 2)]
    for variant in variants_of(Alignn(), samples):
        counted = [count_graph(variant.sample(sample)) for sample in samples]
        assert np.array_equal(variant.sizes(samples)["line_edges"], [row["line_edges"] for row in counted])


def test_a_step_that_refuses_subsampled_graphs_is_calibrated_without_them():
    class Complete(Pyg):
        def batch(self, samples):
            for data in samples:
                if data.num_edges not in complete:
                    raise ValueError("an edge is missing")
            return super().batch(samples)

    samples = [pyg_graph(index) for index in (1, 2)]
    complete = {data.num_edges for data in samples}
    workload = Complete()
    assert variants_of(workload, samples) == []
    assert all(parameter.grad is None for parameter in workload.model.parameters())


def test_other_samples_are_left_alone():
    assert not can_subsample_edges({"atoms": {}})
    assert not can_subsample_edges(torch.ones(3))
    assert not can_subsample_edges(())
