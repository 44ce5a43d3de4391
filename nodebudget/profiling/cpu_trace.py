"""The allocations of a call, in order, from PyTorch's CPU profiler."""

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

#: Operators that multiply matrices, with cuBLAS on a GPU.
_PRODUCTS = frozenset(f"aten::{name}" for name in ("mm", "addmm", "bmm", "baddbmm", "mv", "addmv", "dot", "vdot"))

_BACKWARD = "autograd::engine::evaluate_function"  #: Events below it belong to the backward pass.


@dataclass(frozen=True, eq=False)
class BlockTrace:
    """Allocations and releases in order."""

    #: Address of the block, shape (events,). After its release, an address is used again for other tensors.
    blocks: Integers
    nbytes: Integers  #: Bytes, positive for an allocation and negative for its release, shape (events,).
    #: How many events came before the end of the first matrix product outside the backward pass; None without one.
    first_forward: int | None = None
    first_backward: int | None = None  #: The same in the backward pass, which on a GPU runs in a thread of its own.

    def __len__(self) -> int:
        return len(self.blocks)


def trace_blocks(run: Callable[[], Any]) -> BlockTrace:
    """Call it once and return each allocation and release on the CPU, in order. Exceptions pass through.

    The profiler records a release only if it recorded the allocation. Gradients of one step are released in the next,
    so trace every step, warm-up included.
    """
    with memory_profiler() as profiler:
        run()
    return read_blocks(profiler)


def memory_profiler() -> profile:
    """Return PyTorch's profiler, not started, that records each allocation and release on the CPU."""
    # Otherwise each use writes two lines to stderr.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    # PyTorch before 2.5 has no such option; newer ones warn without it.
    options: dict[str, Any] = {"acc_events": False} if "acc_events" in inspect.signature(profile).parameters else {}
    return profile(activities=[ProfilerActivity.CPU], profile_memory=True, **options)


def read_blocks(profiler: profile) -> BlockTrace:
    """Return the allocations and releases that a profiler recorded, in order."""
    events = list(recorded_events(profiler))
    times, table = allocations(event for event, _ in events)
    first: list[int | None] = []
    for in_backward in (False, True):
        ends = [event.end_time_ns for event, backward in events if event.name in _PRODUCTS and backward is in_backward]
        first.append(int(np.searchsorted(times, min(ends))) if ends else None)
    return BlockTrace(table[:, 0], table[:, 1], *first)


def recorded_events(profiler: profile) -> Iterator[tuple[Any, bool]]:
    """Iterate over the recorded events in order, with whether each is part of a backward pass."""
    # The public tables sum the events of each operator, which loses their order, and the flat list of raw events
    # has no addresses. The profiler's own memory timeline is made of this tree.
    kineto: Any = profiler.profiler
    stack = [(event, False) for event in kineto.kineto_results.experimental_event_tree()][::-1]
    while stack:
        event, backward = stack.pop()
        backward = backward or event.name.startswith(_BACKWARD)
        stack.extend((child, backward) for child in reversed(event.children))
        yield event, backward


def allocations(events: Iterable[Any]) -> tuple[Integers, Integers]:
    """Return times in ns, shape (allocations,), and address and bytes, shape (allocations, 2), in the order of time."""
    rows = [
        (event.start_time_ns, event.extra_fields.ptr, event.extra_fields.alloc_size)
        for event in events
        if event.name == "[memory]" and event.extra_fields.device.type == "cpu"
    ]
    rows.sort(key=lambda row: row[0])
    table = np.array(rows, dtype=np.int64).reshape(-1, 3)
    return table[:, 0], table[:, 1:]


def peak_of(trace: Integers) -> int:
    """Return the highest running total of a trace, bytes above its start."""
    return int(max(np.cumsum(trace).max(initial=0), 0))
