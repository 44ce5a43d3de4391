"""What a workload is, and what can be counted of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from nodebudget.datasets.size_table import SizeTable

if TYPE_CHECKING:
    import torch  # on first use only: reading a calibration needs no torch


class Workload(Protocol):
    """A model, its optimizer, and how a list of samples becomes one training step.

    It is created by a callable that takes the device: `Mine(device=torch.device("cuda:0"), **arguments)`.

    Optional attributes:

    - `name`: name of the model in records and messages.
    - `sample(item)`: turns an item of the dataset (a JARVIS dict, a DGL graph) into what `batch` takes.
    - `graphs`: the `GraphSettings` that `sample` builds graphs with.
    - `size_of(item)`: further sizes of an item, such as {"tokens": 312}.
    - `variants(item)`: a list of `Variant`, other ways to make samples of such items, with other ratios of sizes, which
      make the coefficients identifiable. Without it, edges of DGL and PyTorch Geometric graphs are subsampled.
    - `gpu_only`: why a step takes other memory on a GPU than on the CPU, if it does: "it uses autocast on a GPU only".
    - `validate(batch)`: one validation step, whose peak a calibration then measures as well.
    """

    model: torch.nn.Module
    optimizer: torch.optim.Optimizer

    def batch(self, samples: Sequence[Any]) -> Any:
        """Collate samples into one batch on the device."""

    def step(self, batch: Any) -> Any:
        """Run one full training step: zero the gradients, forward, backward, optimizer."""


class Variant(Protocol):
    """Another way to make samples of the same items, with other ratios of nodes, edges and line-graph edges."""

    def sizes(self, items: Sequence[Any]) -> SizeTable:
        """Measure what `sample` would make of the items, without training on it."""

    def sample(self, item: Any) -> Any:
        """Return what `batch` takes for an item."""


def to_sample(workload: Workload, item: Any) -> Any:
    """Return what `workload.batch` takes for an item of the dataset."""
    convert = getattr(workload, "sample", None)
    return item if convert is None else convert(item)


def collate(workload: Workload, items: Sequence[Any]) -> Any:
    """Return the batch on the device that items of the dataset make."""
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


def resident_storages(workload: Workload) -> dict[int, tuple[str, int]]:
    """Return the storages that stay between steps, as address → (kind, bytes).

    Kinds are "parameters" (buffers too), "gradients" and "optimizer state". A storage that several tensors share comes
    once.
    """
    import torch

    parameters = list(workload.model.parameters())
    tensors = [("parameters", tensor) for tensor in [*parameters, *workload.model.buffers()]]
    tensors += [("gradients", parameter.grad) for parameter in parameters if parameter.grad is not None]
    for state in workload.optimizer.state.values():
        tensors += [("optimizer state", value) for value in state.values() if isinstance(value, torch.Tensor)]
    storages: dict[int, tuple[str, int]] = {}
    for kind, tensor in tensors:
        storage = tensor.untyped_storage()
        storages.setdefault(storage.data_ptr(), (kind, storage.nbytes()))
    return storages


def resident_bytes(workload: Workload) -> int:
    """Return the bytes that stay between steps: parameters, buffers, gradients and optimizer state."""
    return sum(nbytes for _, nbytes in resident_storages(workload).values())
