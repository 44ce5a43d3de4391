"""The interface of all probes, which measure the peak memory of a training step on one device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

#: Share of the free memory that a step may be predicted to take; a step that may take more is not run.
SAFE_SHARE = 0.8


@dataclass(frozen=True)
class Peak:
    """Peak memory of a call."""

    requested: int  #: Bytes of live tensors above those that lived at the start, as they were asked for.
    resident: int | None = None  #: Bytes of live tensors at the start; None if the device does not tell.
    #: Peak bytes in blocks of PyTorch's allocator, those at the start included (`torch.cuda.max_memory_allocated`):
    #: the requested bytes, and what the allocator rounds up and leaves unsplit, which depends on the blocks in its
    #: cache. None on the CPU.
    allocated: int | None = None
    reserved: int | None = None  #: Peak bytes that PyTorch's allocator held from the device; None on the CPU.
    #: Bytes of the device that PyTorch did not hold at the end (context, libraries, other processes); None on the
    #: CPU.
    outside: int | None = None
    retries: int | None = None  #: How often the allocator emptied its cache to get memory; None on the CPU.


class Probe(Protocol):
    """Measures the peak of device memory during a call."""

    #: The device, as torch writes it ("cpu", "cuda:0").
    device: str

    def measure(self, run: Callable[[], Any]) -> Peak:
        """Call `run` once and return its peak. Exceptions of `run` pass through."""

    def free_bytes(self) -> int:
        """Return the bytes that are free for a step."""

    def release(self) -> None:
        """Free what is cached, so that the next measurement starts clean."""

    def describe(self) -> dict[str, Any]:
        """Return what identifies the device, for the record."""
