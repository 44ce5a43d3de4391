"""Training steps traced on the CPU, replayed through a model of the CUDA allocator.

What a CPU can't tell: workspaces of libraries other than cuBLAS's (cuDNN, NCCL), temporaries of kernels that
exist on the GPU alone (sorting, mostly), and what a graph library allocates past PyTorch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from nodebudget.errors import DoesNotFitError
from nodebudget.profiling.cpu_trace import BlockTrace, Integers, trace_blocks
from nodebudget.profiling.cuda_allocator.allocator import CachingAllocator
from nodebudget.workloads.protocol import Workload

#: What PyTorch keeps for cuBLAS on most GPUs, bytes a thread that multiplies matrices: the one of the forward pass
#: and the one of the backward pass. CUBLAS_WORKSPACE_CONFIG changes it (`aten/src/ATen/cuda/CublasHandlePool.cpp`).
CUBLAS_WORKSPACES = (8_519_680, 8_519_680)

#: The same from compute capability 9 (Hopper) on.
CUBLAS_WORKSPACES_HOPPER = (2**25, 2**25)

#: Allocations up to it, bytes, are numbers that stay on the host when tensors are on a GPU: factors of the
#: optimizer, its step counters.
_HOST_NUMBER = 8


@dataclass(frozen=True, eq=False)
class Replay:
    """What an allocator did with a trace.

    Attributes:
        allocated: Bytes in live blocks after each event, shape (events,).
        reserved: Bytes held from the device after each event, shape (events,).
        peak_requested: Most bytes that live tensors had asked for while it ran.
        peak_allocated: Highest `allocated` while it ran.
        peak_reserved: Highest `reserved` while it ran.
        retries: How often the cache had to be given back because the device was full.
        failure: Why memory ran out, or None where it did not; the arrays then end there.
    """

    allocated: Integers
    reserved: Integers
    peak_requested: int
    peak_allocated: int
    peak_reserved: int
    retries: int
    failure: DoesNotFitError | None = None


def replay(trace: BlockTrace, allocator: CachingAllocator) -> Replay:
    """Feed a trace to an allocator, which goes on from the state that it is in.

    Args:
        trace: Allocations and releases.
        allocator: Its peaks are reset first.
    """
    allocator.reset_peaks()
    retries, failure = allocator.retries, None
    states: list[tuple[int, int]] = []
    for block, nbytes in zip(trace.blocks.tolist(), trace.nbytes.tolist(), strict=True):
        try:
            _serve(allocator, block, nbytes)
        except DoesNotFitError as error:
            failure = error
            break
        states.append((allocator.allocated, allocator.reserved))
    table: npt.NDArray[np.int64] = np.array(states, dtype=np.int64).reshape(-1, 2)
    return Replay(
        table[:, 0],
        table[:, 1],
        allocator.peak_requested,
        allocator.peak_allocated,
        allocator.peak_reserved,
        allocator.retries - retries,
        failure,
    )


def trace_resident(workload: Workload) -> BlockTrace:
    """Return the allocations of a model as it is moved to the GPU.

    Args:
        workload: Its model is on the CPU; gradients and optimizer state come with its first traced step.
    """
    held = [*workload.model.parameters(), *workload.model.buffers()]
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in held}
    return _trace(storages.items())


def trace_steps(
    workload: Workload, batches: Iterable[Sequence[Any]], *, workspaces: tuple[int, int] = CUBLAS_WORKSPACES
) -> Iterator[BlockTrace]:
    """Run training steps on the CPU and yield the allocations that each would make on a GPU.

    Of making a batch only what remains counts, since it is made on the host and copied over; it is released
    after its step.

    Args:
        workload: On the CPU, with no step done yet.
        batches: Lists of samples that `workload.batch` takes.
        workspaces: Bytes that are taken for good with the first product of matrices of the forward and of
            the backward pass.
    """
    missing = dict(zip(("first_forward", "first_backward"), workspaces, strict=True))
    for samples in batches:
        held: list[Any] = []
        made = trace_blocks(_collate(workload, samples, held))
        with _as_on_cuda(workload.optimizer):
            ran = trace_blocks(_step(workload, held))
        yield _without_host_numbers(_joined(_remaining(made), _with_workspaces(ran, missing)))


def _collate(workload: Workload, samples: Sequence[Any], held: list[Any]) -> Callable[[], None]:
    return lambda: held.append(workload.batch(samples))


def _step(workload: Workload, held: list[Any]) -> Callable[[], None]:
    def run() -> None:
        workload.step(held[0])
        held.clear()

    return run


@contextmanager
def _as_on_cuda(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Let the optimizer work on all parameters at once: its default on a GPU, which holds more at its peak."""
    changed = [group for group in optimizer.param_groups if group.get("foreach", 0) is None and not group.get("fused")]
    for group in changed:
        group["foreach"] = True
    try:
        yield
    finally:
        for group in changed:
            group["foreach"] = None


def _serve(allocator: CachingAllocator, block: int, nbytes: int) -> None:
    if nbytes >= 0:
        allocator.allocate(block, nbytes)
    else:
        allocator.free(block)


def _remaining(trace: BlockTrace) -> BlockTrace:
    """Leave out what was both allocated and released in a trace."""
    kept: dict[int, int] = {}
    released = []
    for block, nbytes in zip(trace.blocks.tolist(), trace.nbytes.tolist(), strict=True):
        if nbytes >= 0:
            kept[block] = nbytes
        elif kept.pop(block, None) is None:
            released.append((block, nbytes))
    return _trace([*released, *kept.items()])


def _with_workspaces(trace: BlockTrace, missing: dict[str, int]) -> BlockTrace:
    """Put those workspaces in that are not there yet, and take them from `missing`."""
    places = {name: place for name in missing if (place := getattr(trace, name)) is not None}
    # Negative keys, so that no address of a tensor is among them.
    blocks = np.insert(trace.blocks, [*places.values()], [-len(name) for name in places])
    nbytes = np.insert(trace.nbytes, [*places.values()], [missing.pop(name) for name in places])
    return BlockTrace(blocks, nbytes)


def _without_host_numbers(trace: BlockTrace) -> BlockTrace:
    large = np.abs(trace.nbytes) > _HOST_NUMBER
    return BlockTrace(trace.blocks[large], trace.nbytes[large])


def _joined(*traces: BlockTrace) -> BlockTrace:
    return BlockTrace(
        np.concatenate([trace.blocks for trace in traces]), np.concatenate([trace.nbytes for trace in traces])
    )


def _trace(pairs: Iterable[tuple[int, int]]) -> BlockTrace:
    table = np.array([*pairs], dtype=np.int64).reshape(-1, 2)
    return BlockTrace(table[:, 0], table[:, 1])
