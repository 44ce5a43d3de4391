"""The requests that PyTorch's CUDA allocator got, from the history that it keeps on request."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from nodebudget.profiling.cpu_trace import BlockTrace

#: More than any step has.
_MAX_EVENTS = 10**7

_SIGNS = {"alloc": 1, "free_completed": -1}


def trace_on_device(run: Callable[[], Any], device: torch.device) -> BlockTrace:
    """Call it once and return each allocation and release on the device, in order."""
    torch.cuda.synchronize(device)
    torch.cuda.memory._record_memory_history(enabled="all", context=None, max_entries=_MAX_EVENTS)
    try:
        before = len(_history(device))
        run()
        torch.cuda.synchronize(device)
        entries = [entry for entry in _history(device)[before:] if entry["action"] in _SIGNS]
    finally:
        torch.cuda.memory._record_memory_history(enabled=None)
    return _blocks((entry["addr"], _SIGNS[entry["action"]] * entry["size"]) for entry in entries)


def live_blocks(device: torch.device) -> BlockTrace:
    """Return the blocks of live tensors, as if they were allocated now in the order of their addresses."""
    index = device.index or 0
    blocks = (
        block
        for segment in torch.cuda.memory._snapshot(device)["segments"]
        if segment["device"] == index
        for block in segment["blocks"]
        if block["state"] == "active_allocated"
    )
    return _blocks((block["address"], block["requested_size"]) for block in blocks)


def _history(device: torch.device) -> list[dict[str, Any]]:
    traces: list[list[dict[str, Any]]] = torch.cuda.memory._snapshot(device)["device_traces"]
    return traces[device.index or 0]


def _blocks(pairs: Any) -> BlockTrace:
    table = np.array([*pairs], dtype=np.int64).reshape(-1, 2)
    return BlockTrace(table[:, 0], table[:, 1])
