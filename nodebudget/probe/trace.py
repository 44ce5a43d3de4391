"""The allocations of a stretch of code, in order, from PyTorch's CPU profiler."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.profiler import ProfilerActivity, profile


def trace_allocations(run: Callable[[], Any]) -> npt.NDArray[np.int64]:
    """Run it once and return the bytes of each allocation (positive) and release (negative), in order.

    A release is known only if its allocation was made under a profiler too: whoever wants true balances
    traces every step, warm-up included, since gradients of one step are released in the next.

    Returns:
        Array of shape (events,), bytes.
    """
    # Otherwise each session writes two lines to stderr; unset, no message of that library is of use here.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=False) as profiler:
        run()
    events = _memory_events(profiler)
    order = np.argsort([event.start_ns() for event in events], kind="stable")
    return np.array([event.nbytes() for event in events], dtype=np.int64)[order]


def _memory_events(profiler: Any) -> list[Any]:
    # The public tables sum the events of each operator, which loses their order. The raw list under them is
    # what the profiler's own tables and its Chrome trace are made of.
    results = profiler.profiler.kineto_results
    cpu = torch.autograd.DeviceType.CPU if hasattr(torch.autograd, "DeviceType") else None
    return [
        event
        for event in results.events()
        if event.name() == "[memory]" and (cpu is None or event.device_type() == cpu)
    ]


def peak_of(trace: npt.NDArray[np.int64]) -> int:
    """Return the highest running total of a trace, bytes above its start."""
    return int(max(np.cumsum(trace).max(initial=0), 0))
