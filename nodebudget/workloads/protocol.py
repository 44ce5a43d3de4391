"""What a workload is, and what can be counted of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import torch

from nodebudget.datasets.size_table import SizeTable


@runtime_checkable
class Workload(Protocol):
    """A model, its optimizer, and how a list of samples becomes one training step.

    Made by a callable that takes the device: `Mine(device=torch.device("cuda:0"), **arguments)`.

    A workload may also have `sample(item)`, which turns an item of the data (a JARVIS dict, a DGL graph) into
    what `batch` takes; `graphs`, the `GraphSettings` that `sample` builds graphs with; `size_of(item)`, further sizes
    of an item, such as {"tokens": 312}; `variants(item)`, other ways to make samples of such items, which help to tell
    the sizes apart (without it, graphs of DGL and PyTorch Geometric are thinned); and `name`.
    """

    model: torch.nn.Module
    optimizer: torch.optim.Optimizer

    def batch(self, samples: Sequence[Any]) -> Any:
        """Collate samples into one batch on the device."""
        ...

    def step(self, batch: Any) -> Any:
        """Run one full training step: gradients zeroed, forward, backward, optimizer."""
        ...


class Variant(Protocol):
    """Another way to make samples of the same items, with other ratios of nodes, edges and line-graph edges."""

    def sizes(self, items: Sequence[Any]) -> SizeTable:
        """Measure what `sample` would make of the items, without training on it."""
        ...

    def sample(self, item: Any) -> Any:
        """Return what `batch` takes for an item."""
        ...


def to_sample(workload: Workload, item: Any) -> Any:
    """Return what `workload.batch` takes for an item of the data."""
    convert = getattr(workload, "sample", None)
    return item if convert is None else convert(item)


def collate(workload: Workload, items: Sequence[Any]) -> Any:
    """Return the batch on the device that items of the data make."""
    return workload.batch([to_sample(workload, item) for item in items])


def parameter_count(workload: Workload) -> int:
    """Return the number of the model's parameters."""
    return sum(parameter.numel() for parameter in workload.model.parameters())


def dtype_of(workload: Workload) -> str:
    """Return the type that most of the parameters have, such as "float32"."""
    counts: dict[str, int] = {}
    for parameter in workload.model.parameters():
        name = str(parameter.dtype).removeprefix("torch.")
        counts[name] = counts.get(name, 0) + parameter.numel()
    return max(counts, key=counts.__getitem__) if counts else "none"


def resident_bytes(workload: Workload) -> int:
    """Return the bytes that stay between steps: parameters, buffers, gradients and optimizer state.

    Storages shared by several tensors count once.
    """
    seen = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in _held(workload)}
    return sum(seen.values())


def _held(workload: Workload) -> Iterator[torch.Tensor]:
    for parameter in workload.model.parameters():
        yield parameter
        if parameter.grad is not None:
            yield parameter.grad
    yield from workload.model.buffers()
    for state in workload.optimizer.state.values():
        yield from (value for value in state.values() if isinstance(value, torch.Tensor))
