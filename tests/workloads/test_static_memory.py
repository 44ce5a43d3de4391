"""What static shapes are for: a peak that is equal to the byte in all batches of all epochs, and one compilation."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from crystals import entries

from nodebudget import NodeBudgetSampler, pad_batch
from nodebudget.profiling.open import open_probe
from nodebudget.workloads.sample_sizes import measure_samples

pytest.importorskip("alignn")
pytest.importorskip("dgl")

SMALL = {"alignn_layers": 1, "gcn_layers": 1, "hidden_features": 32, "embedding_features": 16}


def workload_of(name: str) -> Any:
    from nodebudget.workloads.alignn import AlignnWorkload, PureAlignnWorkload

    torch.manual_seed(0)
    if name == "dgl":
        return AlignnWorkload("cpu", **SMALL)
    return PureAlignnWorkload("cpu", calculate_gradient=name == "forces", **SMALL)


def peaks(workload: Any, samples: list[Any], sampler: NodeBudgetSampler, epochs: int, padded: bool) -> list[int]:
    """Return the traced peak of each step, bytes above the resident ones, once two steps have warmed up."""
    probe, found = open_probe("cpu"), []
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        for indices in sampler:
            batch = workload.batch([samples[index] for index in indices])
            if padded:
                batch, _ = pad_batch(batch, sampler.shapes)
            found.append(probe.measure(lambda batch=batch: workload.step(batch)).requested)
    return found[2:]


@pytest.mark.parametrize("name", ["pure", "forces", "dgl"])
def test_the_peak_of_every_step_is_equal_to_the_byte(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # alignn's own
        workload = workload_of(name)
        samples = [workload.sample(crystal) for crystal in entries(8, 60)]
    sizes = measure_samples(workload, entries(8, 60))
    sampler = NodeBudgetSampler(sizes, graphs_per_step=15, pack="static")
    assert len(sampler.shapes) == 1
    assert len(set(peaks(workload, samples, sampler, 3, padded=True))) == 1
    fixed = NodeBudgetSampler(sizes, max_graphs=15)
    assert len(set(peaks(workload, samples, fixed, 1, padded=False))) > 1


class Counting:
    """A backend of torch.compile that compiles nothing and counts how often it is asked to."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, graph: Any, inputs: Any) -> Any:
        self.graphs += 1
        return graph.forward


def test_alignn_is_compiled_once_for_all_batches_of_an_epoch() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # alignn's own
        workload = workload_of("pure")
        samples = [workload.sample(crystal) for crystal in entries(8, 60)]
        sampler = NodeBudgetSampler(measure_samples(workload, entries(8, 60)), graphs_per_step=15, pack="static")
        assert compilations(workload.model, workload.batch, samples, sampler) == [0]


def compilations(model: Any, collate: Any, samples: list[Any], sampler: NodeBudgetSampler) -> list[int]:
    """Return how many graphs each step of two epochs compiles after the first step, without repetitions."""
    torch._dynamo.reset()
    backend, counted = Counting(), []
    compiled = torch.compile(model, backend=backend, dynamic=False)
    for epoch in range(2):
        sampler.set_epoch(epoch)
        for indices in sampler:
            (*inputs, target), mask = pad_batch(collate([samples[index] for index in indices]), sampler.shape)
            before = backend.graphs
            out = compiled(tuple(inputs))["out"]
            ((out - target).square() * mask).sum().backward()
            counted.append(backend.graphs - before)
    assert counted[0] > 0
    return sorted(set(counted[1:]))


def test_a_network_of_pyg_is_compiled_once_and_as_one_graph() -> None:
    pyg = pytest.importorskip("torch_geometric")
    from static_steps import Net, graphs

    from nodebudget import SizeTable

    torch._dynamo.reset()
    data, backend = graphs(60), Counting()
    sizes = SizeTable.from_counts([one.num_nodes for one in data], [one.num_edges for one in data])
    sampler = NodeBudgetSampler(sizes, graphs_per_step=10, pack="static")
    model = torch.compile(Net(), backend=backend, dynamic=False, fullgraph=True)
    for epoch in range(2):
        sampler.set_epoch(epoch)
        for indices in sampler:
            batch, mask = pad_batch(pyg.data.Batch.from_data_list([data[index] for index in indices]), sampler.shape)
            ((model(batch) - batch.y).square() * mask).sum().backward()
    assert backend.graphs == 1
