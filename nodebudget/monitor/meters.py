"""Memory counters of a device, read before and after a step."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nodebudget.profiling.cpu_trace import memory_profiler, peak_of, read_blocks
from nodebudget.profiling.cuda import counters


@dataclass(frozen=True)
class Reading:
    """Memory of a step, bytes."""

    #: Peak of the requested bytes of live tensors, those allocated before the step included: what a calibration
    #: predicts; None where the device does not count it.
    measured: int | None = None
    resident: int | None = None  #: Requested bytes of live tensors before the step; None where that is not known.
    #: `torch.cuda.max_memory_allocated`: requested bytes as PyTorch's allocator rounds them up; None on the CPU.
    allocated: int | None = None
    reserved: int | None = None  #: `torch.cuda.max_memory_reserved`; None on the CPU.
    retries: int | None = None  #: How often the allocator freed its cache to find memory; None on the CPU.
    rss: int | None = None  #: Resident set of this process after the step: tensors, libraries and all else.


class Meter:
    """Reads the resident set of the process alone: the CPU's allocator does not count a peak."""

    method: str | None = None  #: How peaks are measured, for the log; None where they are not.

    def start(self) -> None:
        """Begin a step."""

    def stop(self) -> Reading:
        """End it."""
        return Reading(rss=resident_set())


class CudaMeter(Meter):
    """Reads the counters of PyTorch's CUDA allocator, which are on the host: it does not wait for the device."""

    method = "allocator"

    def __init__(self, index: int) -> None:
        self._index, self._before = index, counters(index)
        self._retries = self._before.retries

    def start(self) -> None:
        """Reset the peaks."""
        torch.cuda.reset_peak_memory_stats(self._index)
        self._before = counters(self._index)

    def stop(self) -> Reading:
        """Read the peaks."""
        after = counters(self._index)
        # Retries between two steps count for the later one.
        before, self._retries = self._retries, after.retries
        return Reading(
            measured=after.requested_peak,
            resident=self._before.requested,
            allocated=after.allocated_peak,
            reserved=after.reserved_peak,
            retries=after.retries - before,
            rss=resident_set(),
        )


class TraceMeter(Meter):
    """Adds up allocations on the CPU with PyTorch's profiler, which makes a step slower.

    `resident` returns the bytes allocated between steps; None where they are not known, and then neither is the peak.
    """

    method = "trace"

    def __init__(self, resident: Callable[[], int | None]) -> None:
        self._resident, self._at_start = resident, resident()
        self._profiler: Any = None

    def start(self) -> None:
        """Start the profiler."""
        self._at_start = self._resident()
        self._profiler = memory_profiler()
        self._profiler.start()

    def stop(self) -> Reading:
        """Stop it and add up the allocations."""
        self._profiler.stop()
        trace = read_blocks(self._profiler).nbytes
        self._profiler, resident = None, self._at_start
        measured = None if resident is None else resident + peak_of(trace)
        return Reading(measured=measured, resident=resident, rss=resident_set())


def resident_set() -> int:
    """Return the resident set of this process, bytes; outside Linux, its peak so far."""
    try:
        with Path("/proc/self/statm").open("rb", buffering=0) as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        # Kilobytes, but bytes on macOS.
        unit = 1 if os.uname().sysname == "Darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
