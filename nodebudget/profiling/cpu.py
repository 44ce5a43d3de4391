"""Peaks on the CPU, from the allocation trace of PyTorch's profiler."""

from __future__ import annotations

import gc
import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nodebudget.profiling.cpu_trace import peak_of, trace_blocks
from nodebudget.profiling.probe import Peak
from nodebudget.utils.host_memory import available_memory


class CpuProbe:
    """Counts the bytes of tensors that live at once, without the overhead of the CPU's own allocator."""

    device = "cpu"

    def measure(self, run: Callable[[], Any]) -> Peak:
        """Call it once under the profiler."""
        return Peak(requested=peak_of(trace_blocks(run).nbytes))

    def free_bytes(self) -> int:
        """Return the memory that the machine has available, or all of it if unknown, bytes."""
        return available_memory() or _memory()

    def release(self) -> None:
        """Collect cycles, so that tensors in them are freed before the next measurement."""
        gc.collect()

    def describe(self) -> dict[str, Any]:
        """Return the processor's name and the machine's memory, bytes."""
        return {"device": "cpu", "name": _processor(), "memory": _memory()}


def _memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _processor() -> str:
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8") as file:
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return next(iter(names), platform.processor() or platform.machine())
