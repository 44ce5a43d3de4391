"""Training steps traced on the CPU, replayed through a model of the CUDA allocator.

Not in the trace of a CPU: workspaces of libraries other than cuBLAS (cuDNN, NCCL), temporaries of kernels that exist
only on the GPU (mostly for sorting), and what a graph library allocates without PyTorch's allocator.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from nodebudget.profiling.cpu_trace import BlockTrace, trace_blocks
from nodebudget.profiling.cuda_allocator.allocator import CUBLAS_WORKSPACES, CachingAllocator
from nodebudget.workloads.protocol import Workload, resident_storages

#: Allocations up to this size, bytes, stay on the host when tensors are on a GPU: factors of the optimizer, its step
#: counters.
_HOST_NUMBER = 8


def replay(trace: BlockTrace, allocator: CachingAllocator) -> None:
    """Feed a trace to an allocator, which continues from its current state; raise a DoesNotFitError when it is full."""
    for block, nbytes in zip(trace.blocks.tolist(), trace.nbytes.tolist(), strict=True):
        if nbytes >= 0:
            allocator.allocate(block, nbytes)
        else:
            allocator.free(block)


def trace_resident(workload: Workload) -> BlockTrace:
    """Return the allocations of a model on the CPU as it is moved to the GPU.

    Gradients and optimizer state come with its first traced step.
    """
    storages = resident_storages(workload).items()
    return _trace((address, nbytes) for address, (kind, nbytes) in storages if kind == "parameters")


def trace_steps(
    workload: Workload, batches: Iterable[Sequence[Any]], *, workspaces: tuple[int, int] = CUBLAS_WORKSPACES
) -> Iterator[BlockTrace]:
    """Run training steps on the CPU, from the first on, and yield the allocations that each would make on a GPU.

    A batch is made on the host and copied to the GPU, so only its final tensors count; they are released after the
    step. `workspaces` are the bytes that the first matrix product of the forward and of the backward pass allocates for
    good.
    """
    missing = dict(zip(("first_forward", "first_backward"), workspaces, strict=True))
    for samples in batches:
        batch, step = _trace_step(workload, samples)
        step = _with_workspaces(step, missing)
        blocks, nbytes = np.append(batch.blocks, step.blocks), np.append(batch.nbytes, step.nbytes)
        on_device = np.abs(nbytes) > _HOST_NUMBER
        yield BlockTrace(blocks[on_device], nbytes[on_device])


def _trace_step(workload: Workload, samples: Sequence[Any]) -> tuple[BlockTrace, BlockTrace]:
    """Return the final allocations of making a batch, and all of a training step on it."""
    held: list[Any] = []

    def step() -> None:
        workload.step(held[0])
        held.clear()

    batch = trace_blocks(lambda: held.append(workload.batch(samples)))
    with _as_on_cuda(workload.optimizer):
        return _remaining(batch), trace_blocks(step)


@contextmanager
def _as_on_cuda(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Let the optimizer update all parameters at once: its default on a GPU, which has a higher peak."""
    changed = [group for group in optimizer.param_groups if group.get("foreach", 0) is None and not group.get("fused")]
    for group in changed:
        group["foreach"] = True
    try:
        yield
    finally:
        for group in changed:
            group["foreach"] = None


def _remaining(trace: BlockTrace) -> BlockTrace:
    """Leave out what was both allocated and released in a trace."""
    allocated: dict[int, int] = {}
    released = []
    for block, nbytes in zip(trace.blocks.tolist(), trace.nbytes.tolist(), strict=True):
        if nbytes >= 0:
            allocated[block] = nbytes
        elif allocated.pop(block, None) is None:
            released.append((block, nbytes))
    return _trace([*released, *allocated.items()])


def _with_workspaces(trace: BlockTrace, missing: dict[str, int]) -> BlockTrace:
    """Insert the workspaces that are allocated in this step, and remove them from `missing`."""
    places = {name: place for name in missing if (place := getattr(trace, name)) is not None}
    # Negative keys, so that they differ from all addresses of tensors.
    blocks = np.insert(trace.blocks, [*places.values()], [-len(name) for name in places])
    nbytes = np.insert(trace.nbytes, [*places.values()], [missing.pop(name) for name in places])
    return BlockTrace(blocks, nbytes)


def _trace(pairs: Iterable[tuple[int, int]]) -> BlockTrace:
    table = np.array([*pairs], dtype=np.int64).reshape(-1, 2)
    return BlockTrace(table[:, 0], table[:, 1])
