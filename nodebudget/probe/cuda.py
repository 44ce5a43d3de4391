"""Peaks on a CUDA device, from the statistics of PyTorch's caching allocator."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from typing import Any

import torch

from nodebudget.probe.base import Peak


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
        before = torch.cuda.memory_allocated(self._index)
        run()
        torch.cuda.synchronize(self._index)
        free, total = torch.cuda.mem_get_info(self._index)
        return Peak(
            allocated=torch.cuda.max_memory_allocated(self._index) - before,
            resident=before,
            reserved=torch.cuda.max_memory_reserved(self._index),
            outside=total - free - torch.cuda.memory_reserved(self._index),
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
