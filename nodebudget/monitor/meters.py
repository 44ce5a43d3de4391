"""What a device tells about a stretch of code, at next to no cost."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from nodebudget.profiling.cpu_trace import memory_profiler, peak_of, read_blocks
from nodebudget.profiling.cuda import counters


@dataclass(frozen=True)
class Reading:
    """What a step took.

    Attributes:
        measured: Highest bytes of live tensors, resident ones included, as they were asked for: what is predicted; None
            where the device can't tell.
        resident: Bytes of live tensors before the step; None where that is not known.
        allocated: Bytes in blocks of PyTorch's allocator at the highest (`torch.cuda.max_memory_allocated`): with
            what it rounds up and leaves unsplit; None on the CPU.
        reserved: Bytes that PyTorch's allocator held from the device at the highest; None on the CPU.
        retries: How often the allocator had to give its cache back to get memory; None on the CPU.
        rss: Resident set of this process after the step, bytes: tensors, libraries and all.
    """

    measured: int | None = None
    resident: int | None = None
    allocated: int | None = None
    reserved: int | None = None
    retries: int | None = None
    rss: int | None = None


class Meter(Protocol):
    """Reads a device before and after a step."""

    @property
    def method(self) -> str | None:
        """How peaks are measured, for the log; None where they are not."""
        ...

    def start(self) -> None:
        """Begin a step."""
        ...

    def stop(self) -> Reading:
        """End it."""
        ...


class CudaMeter:
    """Reads the counters of PyTorch's CUDA allocator. They live on the host: the device is not waited for.

    Args:
        index: Number of the device.
    """

    method = "allocator"

    def __init__(self, index: int) -> None:
        self._index, self._before = index, counters(index)
        self._retries = self._before.retries

    def start(self) -> None:
        """Set the peaks back."""
        torch.cuda.reset_peak_memory_stats(self._index)
        self._before = counters(self._index)

    def stop(self) -> Reading:
        """Read the peaks."""
        found = counters(self._index)
        # Those between two steps count with the later one.
        before, self._retries = self._retries, found.retries
        return Reading(
            measured=found.requested_peak,
            resident=self._before.requested,
            allocated=found.allocated_peak,
            reserved=found.reserved_peak,
            retries=found.retries - before,
            rss=resident_set(),
        )


class HostMeter:
    """The CPU's allocator keeps no peak: only the resident set of the process is read."""

    method = None

    def start(self) -> None:
        """Do nothing."""

    def stop(self) -> Reading:
        """Read the resident set."""
        return Reading(rss=resident_set())


class TraceMeter:
    """Counts live tensors on the CPU with PyTorch's profiler, which slows a step down.

    Args:
        resident: Returns the bytes that live between steps; None where that is not known, and then neither
            is the peak.
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
        """Stop it and add up what it saw."""
        self._profiler.stop()
        trace = read_blocks(self._profiler).nbytes
        self._profiler, resident = None, self._at_start
        measured = None if resident is None else resident + peak_of(trace)
        return Reading(measured=measured, resident=resident, rss=resident_set())


def resident_set() -> int:
    """Return the resident set of this process, bytes; where the system does not tell, its highest so far."""
    try:
        with Path("/proc/self/statm").open("rb", buffering=0) as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        # Kilobytes, but bytes on macOS.
        unit = 1 if os.uname().sysname == "Darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
