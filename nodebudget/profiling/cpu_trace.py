"""The allocations of a stretch of code, in order, from PyTorch's CPU profiler."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from torch.profiler import ProfilerActivity, profile

Integers = npt.NDArray[np.int64]

#: Operators that multiply matrices, through cuBLAS on a GPU.
_PRODUCTS = frozenset(f"aten::{name}" for name in ("mm", "addmm", "bmm", "baddbmm", "mv", "addmv", "dot", "vdot"))

#: What runs below it is the backward pass.
_BACKWARD = "autograd::engine::evaluate_function"


@dataclass(frozen=True, eq=False)
class BlockTrace:
    """Allocations and releases in order.

    Attributes:
        blocks: Address of the block, shape (events,). An address comes again for another tensor once it was
            released.
        nbytes: Bytes, positive for an allocation and negative for its release, shape (events,).
        first_forward: How many events came before the end of the first product of matrices outside the backward
            pass; None where there was none.
        first_backward: Likewise in the backward pass, which on a GPU runs on a thread of its own.
    """

    blocks: Integers
    nbytes: Integers
    first_forward: int | None = None
    first_backward: int | None = None

    def __len__(self) -> int:
        return len(self.blocks)


def trace_blocks(run: Callable[[], Any]) -> BlockTrace:
    """Run it once and return each allocation and release on the CPU, in order.

    A release is known only if its allocation was made under a profiler too: whoever wants true balances
    traces every step, warm-up included, since gradients of one step are released in the next.

    Args:
        run: What to trace; what it raises passes through.
    """
    with memory_profiler() as profiler:
        run()
    return read_blocks(profiler)


def memory_profiler() -> profile:
    """Return PyTorch's profiler, not started, that records each allocation and release on the CPU."""
    # Otherwise each use writes two lines to stderr; unset, no message of that library is of use here.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    # PyTorch before 2.5 has no such option; newer ones ask for it with a warning.
    known = inspect.signature(profile).parameters
    extra: dict[str, Any] = {"acc_events": False} if "acc_events" in known else {}
    return profile(activities=[ProfilerActivity.CPU], profile_memory=True, **extra)


def event_trees(profiler: profile) -> list[Any]:
    """Return what a profiler recorded, as its trees of events."""
    # The public tables sum the events of each operator, which loses their order, and the flat list of raw events
    # has no addresses. The tree is what the profiler's own memory timeline is made of.
    kineto: Any = profiler.profiler
    return list(kineto.kineto_results.experimental_event_tree())


def read_blocks(profiler: profile) -> BlockTrace:
    """Return the allocations and releases that a profiler recorded, in order."""
    allocations: list[tuple[int, int, int]] = []
    products: dict[bool, list[int]] = {False: [], True: []}
    for event, backward in _flat(event_trees(profiler)):
        if event.name == "[memory]" and event.extra_fields.device.type == "cpu":
            allocations.append((event.start_time_ns, event.extra_fields.ptr, event.extra_fields.alloc_size))
        elif event.name in _PRODUCTS:
            products[backward].append(event.end_time_ns)
    allocations.sort(key=lambda entry: entry[0])
    table = np.array(allocations, dtype=np.int64).reshape(-1, 3)
    forward, backward_ = (_before(table[:, 0], products[which]) for which in (False, True))
    return BlockTrace(table[:, 1], table[:, 2], forward, backward_)


def _before(times: Integers, ends: list[int]) -> int | None:
    return int(np.searchsorted(times, min(ends))) if ends else None


def trace_allocations(run: Callable[[], Any]) -> Integers:
    """Run it once and return the bytes of each allocation (positive) and release (negative), in order.

    Returns:
        Array of shape (events,), bytes.
    """
    return trace_blocks(run).nbytes


def peak_of(trace: Integers) -> int:
    """Return the highest running total of a trace, bytes above its start."""
    return int(max(np.cumsum(trace).max(initial=0), 0))


def _flat(roots: Iterable[Any]) -> Iterator[tuple[Any, bool]]:
    """Iterate over a forest in order, with whether an event is part of a backward pass."""
    waiting = [(event, False) for event in roots][::-1]
    while waiting:
        event, backward = waiting.pop()
        backward = backward or event.name.startswith(_BACKWARD)
        waiting.extend((child, backward) for child in reversed(event.children))
        yield event, backward
