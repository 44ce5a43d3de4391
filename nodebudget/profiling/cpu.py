"""Peaks on the CPU, from the allocation trace of PyTorch's profiler."""

from __future__ import annotations

import gc
import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nodebudget.profiling.cpu_trace import peak_of, trace_allocations
from nodebudget.profiling.probe import Peak


class CpuProbe:
    """Counts the tensors that live at once; what the CPU's own allocator wastes is not in it."""

    device = "cpu"

    def measure(self, run: Callable[[], Any]) -> Peak:
        """Run it once under the profiler."""
        return Peak(requested=peak_of(trace_allocations(run)))

    def free_bytes(self) -> int:
        """Return the memory that the machine has available, bytes."""
        try:
            with Path("/proc/meminfo").open(encoding="ascii") as file:
                fields = dict(line.split(":", 1) for line in file)
            return int(fields["MemAvailable"].split()[0]) * 1024
        except (OSError, KeyError, ValueError):
            return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")

    def release(self) -> None:
        """Collect cycles, so that tensors in them are gone before the next measurement."""
        gc.collect()

    def describe(self) -> dict[str, Any]:
        """Return the processor's name and the machine's memory."""
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return {"device": "cpu", "name": _processor(), "memory": total}


def _processor() -> str:
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8") as file:
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return next(iter(names), platform.processor() or platform.machine())
