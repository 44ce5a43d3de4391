"""A training step captured as one CUDA graph and replayed on batches of one static shape."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from nodebudget.errors import InputError, MissingError, first_line
from nodebudget.workloads.padding.graphs import is_dgl
from nodebudget.workloads.padding.pyg import is_pyg

#: Steps before the capture: what is made lazily (optimizer state, library workspaces) must exist by then.
_WARM_UP = 3

_HINT = (
    "what can't be captured: values read on the host (.item(), print, bool() of a tensor, boolean masks as an index), "
    "optimizers without capturable=True, GradScaler with an optimizer that is not fused, autocast without "
    "cache_enabled=False, DGL graphs, and data loading inside the step"
)


class CapturedStep:
    """A captured step; call it with a batch. Made by `capture_step`.

    Attributes:
        output: What the step returned: tensors that each call overwrites.
    """

    def __init__(self, step: Callable[[Any], Any], example: Any) -> None:
        self._buffers = BatchBuffers(example)
        if not torch.cuda.is_available():
            hint = "run on a machine with an NVIDIA GPU, or call the step itself"
            raise MissingError("a CUDA graph without a CUDA device", hint=hint)
        devices = {tensor.device for tensor in self._buffers.tensors}
        if {device.type for device in devices} != {"cuda"}:
            shown = ", ".join(sorted(map(str, devices)))
            raise InputError(f"an example on {shown}", limit="a CUDA device", hint="move the batch there first")
        side: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(_WARM_UP):
                step(self._buffers.batch)
        torch.cuda.current_stream().wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(self._graph):
                self.output: Any = step(self._buffers.batch)
        except RuntimeError as error:
            raise InputError(f"the step can't be captured: {first_line(error)}", hint=_HINT) from error

    def __call__(self, batch: Any) -> Any:
        """Copy a batch into the static buffers, replay the step, and return its output.

        Raises:
            InputError: The batch differs from the example in more than the values of its tensors.
        """
        self._buffers.fill(batch)
        self._graph.replay()
        return self.output


def capture_step(step: Callable[[Any], Any], example: Any) -> CapturedStep:
    """Capture a training step - forward, backward and optimizer - as one CUDA graph.

    The step runs three times on the example first, which trains on it, and is then captured without running. A replay
    copies a batch to where the example was and starts all kernels at once.

    Args:
        step: Takes a batch; must not read values on the host. The optimizer needs `capturable=True`, autocast
            `cache_enabled=False`; gradient clipping by `clip_grad_norm_` works.
        example: A padded batch on the device, such as `pad_batch` returns: tensors, alignn's `TorchGraph`, PyTorch
            Geometric's `Batch`, and tuples, lists and dicts of these.

    Returns:
        A function of a batch of the same shape. It returns what `step` returned, in tensors that the next call
        overwrites: clone what is to stay.

    Raises:
        MissingError: There is no CUDA device.
        InputError: The example has DGL graphs or is not on a CUDA device, or the step can't be captured.
    """
    return CapturedStep(step, example)


class BatchBuffers:
    """The tensors of a batch, into which further batches are copied.

    Attributes:
        batch: The batch whose tensors are overwritten.
        tensors: These tensors.
    """

    def __init__(self, example: Any) -> None:
        self.batch = example
        self._leaves = dict(_leaves(example, "the batch"))
        self.tensors = [leaf for leaf in self._leaves.values() if isinstance(leaf, torch.Tensor)]
        if not self.tensors:
            raise InputError("an example without tensors", hint="give a padded batch")

    def fill(self, batch: Any) -> None:
        """Copy another batch of the same shape.

        Raises:
            InputError: It has other parts, or tensors of another shape or type.
        """
        leaves = dict(_leaves(batch, "the batch"))
        if leaves.keys() != self._leaves.keys():
            names = ", ".join(sorted(leaves.keys() ^ self._leaves.keys()))
            raise InputError(f"the batch differs from the example in {names}", hint="make all batches alike")
        pairs = [(name, leaf, self._leaves[name]) for name, leaf in leaves.items()]
        for name, new, old in pairs:
            if _kind(new) != _kind(old):
                raise InputError(
                    f"{name} is {_kind(new)}",
                    limit=f"the captured step has {_kind(old)}",
                    hint="pad all batches to one shape: static_collate(collate_fn, sampler.shape)",
                )
        for _, new, old in pairs:
            if isinstance(old, torch.Tensor) and new is not old:
                old.detach().copy_(new.detach(), non_blocking=True)


def _kind(leaf: Any) -> str:
    return f"{tuple(leaf.shape)} {leaf.dtype}" if isinstance(leaf, torch.Tensor) else repr(leaf)


def _leaves(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Yield the tensors and plain values of a batch with their names."""
    if is_dgl(value):
        raise InputError(
            f"{name} is a DGL graph",
            limit="its edges are no tensors that a captured step could read from the same place",
            hint="capture alignn's network without DGL (alignn_atomwise_pure), or one of PyTorch Geometric",
        )
    if is_pyg(value):
        value = value.to_dict()
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield from _leaves(part, f"{name}[{key!r}]")
    elif isinstance(value, (tuple, list)):
        for place, part in enumerate(value):
            yield from _leaves(part, f"{name}[{place}]")
    else:
        yield name, value
