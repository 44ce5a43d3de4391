"""Peaks on a CUDA device, from the statistics of PyTorch's caching allocator."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from nodebudget.profiling.cuda_allocator.allocator import allocator_settings, has_expandable_segments
from nodebudget.profiling.probe import Peak


@dataclass(frozen=True)
class Counters:
    """What the allocator counted, bytes; peaks since they were last reset."""

    requested: int  #: Bytes of live tensors as they were asked for.
    requested_peak: int  #: Peak of `requested`.
    allocated_peak: int  #: Peak bytes in blocks with a live tensor.
    reserved_peak: int  #: Peak bytes held from the device.
    retries: int  #: How often the cache was emptied to get memory, since the process started.


def counters(index: int) -> Counters:
    """Read the allocator's counters of a device, without synchronizing: they are kept on the host."""
    stats = torch.cuda.memory_stats_as_nested_dict(index)
    if not stats:  # before the first allocation
        return Counters(0, 0, 0, 0, 0)
    allocated, requested = (stats[name]["all"] for name in ("allocated_bytes", "requested_bytes"))
    # Allocators other than PyTorch's own (cudaMallocAsync) do not count what was asked for.
    asked = requested if requested["peak"] else allocated
    return Counters(
        int(asked["current"]),
        int(asked["peak"]),
        int(allocated["peak"]),
        int(stats["reserved_bytes"]["all"]["peak"]),
        int(stats["num_alloc_retries"]),
    )


class CudaProbe:
    """Reads the allocator's own counters around a step on the device of a number."""

    def __init__(self, index: int) -> None:
        self._index = index
        self.device = f"cuda:{index}"

    def measure(self, run: Callable[[], Any]) -> Peak:
        """Call it once; synchronize the device before and after."""
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
        """Return the free bytes of the device, and of PyTorch's cache."""
        free, _ = torch.cuda.mem_get_info(self._index)
        cached = torch.cuda.memory_reserved(self._index) - torch.cuda.memory_allocated(self._index)
        return free + cached

    def release(self) -> None:
        """Collect cycles and return the cache to the device."""
        gc.collect()
        torch.cuda.empty_cache()

    def describe(self) -> dict[str, Any]:
        """Return the device's name and memory in bytes, the CUDA version and the allocator's settings."""
        properties = torch.cuda.get_device_properties(self._index)
        return {
            "device": self.device,
            "name": properties.name,
            "memory": properties.total_memory,
            "cuda": torch.version.cuda,
            "allocator": allocator_settings(),
        }


def use_expandable_segments(device: torch.device) -> bool:
    """Turn on expandable segments where nothing was allocated on the device yet; return whether they are on now."""
    settings = allocator_settings()
    if has_expandable_segments(settings):
        return True
    change = getattr(torch._C, "_accelerator_setAllocatorSettings", None)
    if device.type != "cuda" or settings != "default" or change is None or torch.cuda.memory_reserved(device):
        return False
    change("expandable_segments:True")
    # The variable is read once: processes of this one, and records, see the same setting.
    os.environ["PYTORCH_ALLOC_CONF"] = "expandable_segments:True"
    return True
