"""Peaks on a CUDA device, from the statistics of PyTorch's caching allocator."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from nodebudget.profiling.probe import Peak


@dataclass(frozen=True)
class Counters:
    """What the allocator counted, bytes; peaks since they were last reset.

    Attributes:
        requested: Bytes of live tensors as they were asked for.
        requested_peak: The most of them.
        allocated_peak: The most bytes in blocks with a live tensor.
        reserved_peak: The most bytes held from the device.
        retries: How often the cache was given back to get memory, since the start.
    """

    requested: int
    requested_peak: int
    allocated_peak: int
    reserved_peak: int
    retries: int


def counters(index: int) -> Counters:
    """Read the allocator's counters of a device. They live on the host: the device is not waited for."""
    found = torch.cuda.memory_stats_as_nested_dict(index)
    if not found:  # before the first allocation
        return Counters(0, 0, 0, 0, 0)
    allocated, requested = (found[name]["all"] for name in ("allocated_bytes", "requested_bytes"))
    # Allocators other than PyTorch's own (cudaMallocAsync) do not count what was asked for.
    asked = requested if requested["peak"] else allocated
    return Counters(
        int(asked["current"]),
        int(asked["peak"]),
        int(allocated["peak"]),
        int(found["reserved_bytes"]["all"]["peak"]),
        int(found["num_alloc_retries"]),
    )


class CudaProbe:
    """Reads the allocator's own counters around a step.

    Args:
        index: Number of the device.
    """

    def __init__(self, index: int) -> None:
        self._index = index
        self.device = f"cuda:{index}"

    def measure(self, run: Callable[[], Any]) -> Peak:
        """Run it once; wait for the device before and after."""
        torch.cuda.synchronize(self._index)
        torch.cuda.reset_peak_memory_stats(self._index)
        before = counters(self._index)
        run()
        torch.cuda.synchronize(self._index)
        after = counters(self._index)
        free, total = torch.cuda.mem_get_info(self._index)
        return Peak(
            requested=after.requested_peak - before.requested,
            resident=before.requested,
            allocated=after.allocated_peak,
            reserved=after.reserved_peak,
            outside=total - free - torch.cuda.memory_reserved(self._index),
            retries=after.retries - before.retries,
        )

    def free_bytes(self) -> int:
        """Return what the device has free, with what PyTorch holds in cache and does not use."""
        free, _ = torch.cuda.mem_get_info(self._index)
        cached = torch.cuda.memory_reserved(self._index) - torch.cuda.memory_allocated(self._index)
        return free + cached

    def release(self) -> None:
        """Collect cycles and give the cache back to the device."""
        gc.collect()
        torch.cuda.empty_cache()

    def describe(self) -> dict[str, Any]:
        """Return the device's name and memory, the CUDA version and the allocator's settings."""
        properties = torch.cuda.get_device_properties(self._index)
        settings = os.environ.get("PYTORCH_ALLOC_CONF") or os.environ.get("PYTORCH_CUDA_ALLOC_CONF")
        return {
            "device": self.device,
            "name": properties.name,
            "memory": properties.total_memory,
            "cuda": torch.version.cuda,
            "allocator": settings or "default",
        }
