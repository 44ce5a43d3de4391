"""What a captured step takes: batches that are alike but for the values of their tensors."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from nodebudget import InputError, MissingError, capture_step
from nodebudget.workloads.capture import BatchBuffers


def example(value: float, rows: int = 3) -> Any:
    return {"x": torch.full((rows, 2), value), "more": (torch.tensor([value]), 5, None)}


def test_buffers_take_the_values_of_another_batch() -> None:
    first = example(1.0)
    buffers = BatchBuffers(first)
    places = [tensor.data_ptr() for tensor in buffers.tensors]
    buffers.fill(example(7.0))
    assert first["x"].unique().tolist() == [7.0]
    assert first["more"][0].tolist() == [7.0]
    assert [tensor.data_ptr() for tensor in buffers.tensors] == places


def test_graphs_of_pyg_and_alignn_are_seen_through() -> None:
    data = pytest.importorskip("torch_geometric.data")
    builder = pytest.importorskip("alignn.torch_graph_builder")
    one = [data.Data(torch.full((2, 1), float(value)), torch.tensor([[0], [1]])) for value in range(2)]
    first = data.Batch.from_data_list(one[:1])
    BatchBuffers(first).fill(data.Batch.from_data_list(one[1:]))
    assert first.x.unique().tolist() == [1.0]
    graphs = [builder.TorchGraph(2, torch.tensor([0]), torch.tensor([value])) for value in (0, 1)]
    BatchBuffers(graphs[0]).fill(graphs[1])
    assert graphs[0].dst.tolist() == [1]
    with pytest.raises(InputError, match=r"the batch\['num_nodes'\] is 9"):
        BatchBuffers(graphs[0]).fill(builder.TorchGraph(9, torch.tensor([0]), torch.tensor([0])))


def test_batches_that_differ_are_refused() -> None:
    buffers = BatchBuffers(example(1.0))
    with pytest.raises(
        InputError, match=r"the batch\['x'\] is \(4, 2\) torch\.float32 \(the captured step has \(3, 2\)"
    ):
        buffers.fill(example(1.0, rows=4))
    with pytest.raises(InputError, match="differs from the example in the batch"):
        buffers.fill({"x": torch.ones(3, 2)})
    with pytest.raises(InputError, match="an example without tensors"):
        BatchBuffers((1, 2))
    graph = SimpleNamespace(canonical_etypes=[], in_degrees=None)
    with pytest.raises(InputError, match=r"the batch\[0\] is a DGL graph"):
        BatchBuffers((graph,))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_cuda_device() -> None:
    with pytest.raises(MissingError, match="a CUDA graph without a CUDA device"):
        capture_step(lambda batch: None, example(1.0))
