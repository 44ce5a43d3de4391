"""What a training step may take: "auto", bytes or a share of the device's memory."""

from __future__ import annotations

import os

import torch

from nodebudget.analysis.device_budget import DeviceBudget, device_budget
from nodebudget.calibration.memory_model import Calibration
from nodebudget.errors import InputError
from nodebudget.profiling.cpu import CpuProbe
from nodebudget.utils.byte_units import parse_bytes

#: Part of the host memory that is free at the start which a run on the CPU may take with "auto".
_CPU_SHARE = 0.8


def step_memory(memory: int | str, calibration: Calibration, device: torch.device) -> tuple[int, DeviceBudget | None]:
    """Return the bytes that a step may take at its peak, and on a GPU how they come about, line by line.

    Args:
        memory: "auto": all of the device's memory, or 80% of the host memory that is free; a share such as "80%" of the
            same; or what PyTorch may take, in bytes or as a text such as "36GiB". On a GPU, what the allocator needs
            beside live tensors is subtracted from it.
        calibration: Its record has what is outside PyTorch, and the overhead of the allocator.
        device: Where the step runs.

    Raises:
        InputError: `memory` is none of these.
        DoesNotFitError: Nothing is left.
    """
    available = memory_at_hand(memory, device)
    if device.type != "cuda":
        return available, None
    # Bytes and shares are of PyTorch's allocator, as torch.cuda.set_per_process_memory_fraction has them.
    lines = device_budget(available, calibration, outside=None if memory == "auto" else 0)
    return lines.memory, lines


def memory_at_hand(memory: int | str, device: torch.device) -> int:
    """Return the memory that a user names, bytes.

    Raises:
        InputError: It is none of "auto", bytes and a share.
    """
    share = _share(memory)
    if share is None:
        return parse_bytes(memory)
    if device.type != "cuda":
        processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # of torchrun, on this machine
        return int(CpuProbe().free_bytes() * (_CPU_SHARE if memory == "auto" else share) / processes)
    return int(torch.cuda.get_device_properties(device).total_memory * share)


def _share(memory: int | str) -> float | None:
    """Return the share that a text names, 1 for "auto", or None for bytes."""
    if memory == "auto":
        return 1.0
    if not isinstance(memory, str) or not memory.strip().endswith("%"):
        return None
    try:
        share = float(memory.strip().rstrip("%")) / 100
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise InputError(
            f"a memory of {memory!r}", limit="auto, bytes such as 36GiB, or up to 100%", hint="give one of these"
        )
    return share
