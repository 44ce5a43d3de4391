"""The small interface of all probes, and a scripted one for tests."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch

_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory", "alloc_failed")


@dataclass(frozen=True)
class Peak:
    """What a stretch of code took at its highest point.

    Attributes:
        requested: Bytes of live tensors above those that lived at the start, as they were asked for.
        resident: Bytes of live tensors at the start; None where the device can't tell.
        allocated: Bytes in blocks of PyTorch's allocator at the highest, those at the start included
            (`torch.cuda.max_memory_allocated`): what was asked for, with what it rounds up and leaves unsplit, which
            depends on the blocks that it has at hand; None on the CPU.
        reserved: Bytes that PyTorch's allocator held from the device at its highest; None on the CPU.
        outside: Bytes of the device that PyTorch did not hold at the end (context, libraries, other
            processes); None on the CPU.
        retries: How often the allocator had to give its cache back to get memory; None on the CPU.
    """

    requested: int
    resident: int | None = None
    allocated: int | None = None
    reserved: int | None = None
    outside: int | None = None
    retries: int | None = None


class Probe(Protocol):
    """Measures the peak of device memory while something runs."""

    #: The device, as torch writes it ("cpu", "cuda:0").
    device: str

    def measure(self, run: Callable[[], Any]) -> Peak:
        """Run it once and return its peak. What `run` raises passes through."""
        ...

    def free_bytes(self) -> int:
        """Return how much memory a step may still take."""
        ...

    def release(self) -> None:
        """Give back what is cached, so that the next measurement starts clean."""
        ...

    def describe(self) -> dict[str, Any]:
        """Return what identifies the device, for the record."""
        ...


class ScriptedProbe:
    """A probe that runs the code and then says what a script tells it, for tests without a device.

    Args:
        peaks: Bytes above the resident ones, one a measurement; an exception in it is raised instead.
        free: What `free_bytes` says.
        resident: Bytes resident at each start.
    """

    device = "scripted"

    def __init__(self, peaks: Iterable[int | Exception], *, free: int = 2**40, resident: int = 0) -> None:
        self._peaks: Iterator[int | Exception] = iter(peaks)
        self._free, self._resident = free, resident

    def measure(self, run: Callable[[], Any]) -> Peak:
        """Run it; return the next peak of the script."""
        run()
        peak = next(self._peaks)
        if isinstance(peak, Exception):
            raise peak
        return Peak(requested=peak, resident=self._resident)

    def free_bytes(self) -> int:
        """Return what the script says."""
        return self._free

    def release(self) -> None:
        """Do nothing."""

    def describe(self) -> dict[str, Any]:
        """Return the name of the probe."""
        return {"device": self.device, "name": "scripted"}


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an exception means that memory ran out, on the CPU, in PyTorch's allocator or another one."""
    if isinstance(error, (torch.cuda.OutOfMemoryError, MemoryError)):
        return True
    # Other allocators and libraries only say so in words.
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(words in text for words in _OUT_OF_MEMORY)
