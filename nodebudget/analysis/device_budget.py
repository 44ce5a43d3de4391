"""From the memory of a device to the memory that a training step may take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nodebudget.calibration.memory_model import Calibration
from nodebudget.errors import DoesNotFitError
from nodebudget.profiling.cuda_allocator.allocator import (
    CUBLAS_WORKSPACES_HOPPER,
    allocator_settings,
    has_expandable_segments,
)
from nodebudget.utils.byte_units import format_bytes

SETTINGS = ("default", "expandable")  #: Settings of PyTorch's allocator: its default, and `expandable_segments:True`.

#: Overhead of the allocator where no steps were replayed: a fraction of the bytes of a step, and bytes (the last
#: segments or pages of both pools). The smallest values with which planned epochs ran on a full stand-in device in any
#: order: `scripts/benchmarks/survival.py`.
MIN_OVERHEAD = {"default": (0.10, 24 * 2**20), "expandable": (0.01, 44 * 2**20)}

#: What is added to a replayed overhead, a fraction of the bytes of a step: other epochs have other batches.
_OTHER_BATCHES = {"default": 0.02, "expandable": 0.005}

#: What was replayed holds for a memory that differs by less than this fraction.
_LIKE = 0.15

#: Assumed bytes of a CUDA process outside PyTorch (context, libraries) if they were not measured: a tenth more than the
#: 751 to 753 MiB measured on an NVIDIA H200 with CUDA 13.0 and torch 2.11.
ASSUMED_CONTEXT = 832 * 2**20

_WORTH = 0.05  #: Expandable segments are recommended if they free more than this fraction of the memory.


@dataclass(frozen=True)
class DeviceBudget:
    """How much memory of a device a training step may take, line by line."""

    capacity: int  #: Bytes of the device.
    lines: tuple[tuple[str, int], ...]  #: (label, bytes) of each deduction.
    memory: int  #: Remaining bytes, the `memory` of a plan.
    setting: str  #: Setting of the allocator, one of `SETTINGS`.
    advice: str = ""  #: One sentence if the other setting would free much memory, else "".

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {**self.__dict__, "lines": [list(line) for line in self.lines]}


def current_setting() -> str:
    """Return the allocator setting of this process, one of `SETTINGS`."""
    return "expandable" if has_expandable_segments(allocator_settings()) else "default"


def device_budget(
    capacity: int, calibration: Calibration, *, setting: str | None = None, outside: int | None = None
) -> DeviceBudget:
    """Compute the memory that a training step may take on a device.

    Args:
        capacity: Bytes of the device.
        calibration: Its record has the overhead of the allocator and the memory outside PyTorch, if measured.
        setting: "default" or "expandable"; None takes the setting of this process.
        outside: Bytes outside PyTorch; None takes the measured ones, else an assumption.

    Raises:
        DoesNotFitError: Nothing is left.
    """
    setting = current_setting() if setting is None else setting
    context, source = _outside(calibration, outside)
    # A calibration on a GPU has library workspaces in its resident bytes; for one on the CPU assume PyTorch's largest.
    on_cpu = calibration.context.get("device", {}).get("device") == "cpu"
    workspaces = sum(CUBLAS_WORKSPACES_HOPPER) if on_cpu else 0
    usable = capacity - context - workspaces
    overheads = {name: _overhead(calibration, name, usable) for name in SETTINGS}
    memory = {name: int((usable - MIN_OVERHEAD[name][1]) / (1 + overhead)) for name, overhead in overheads.items()}
    segments, remaining = MIN_OVERHEAD[setting][1], max(memory[setting], 0)
    unused = f"reserved but unused by the allocator, {overheads[setting]:.1%} ({setting} segments)"
    lines = (
        (f"outside PyTorch ({source})", context),
        *([("library workspaces (assumed: cuBLAS's largest)", workspaces)] if workspaces else []),
        (unused, max(usable - segments - remaining, 0)),
        ("last segments of the allocator's pools", segments),
    )
    if not remaining:
        raise DoesNotFitError(
            f"nothing of {format_bytes(capacity)} is left for a training step",
            limit=", ".join(f"{label}: {format_bytes(count)}" for label, count in lines),
            hint="use a device with more memory",
        )
    gain = memory["expandable"] / remaining - 1
    advice = ""
    if setting == "default" and gain > _WORTH:
        advice = f"PYTORCH_ALLOC_CONF=expandable_segments:True would leave {gain:.0%} more for a step."
    return DeviceBudget(capacity, lines, remaining, setting, advice)


def _overhead(calibration: Calibration, setting: str, usable: int) -> float:
    """Return the bytes that the allocator needs above those that tensors ask for, as a fraction of the latter."""
    overheads: Mapping[str, Any] = calibration.context.get("allocator") or {}
    minimum, segments = MIN_OVERHEAD[setting]
    if (overhead := overheads.get(setting)) is None:
        return minimum
    # Records of schema version 1 have no requested bytes; those without `least` have what was reserved without a limit.
    requested = max(float(overhead.get("requested", overhead["allocated"])), 1.0)
    needed = float(overhead.get("least", overhead["reserved"]))
    # The last segments do not grow with the batches, and are deducted separately.
    share = (needed - segments) / requested - 1
    if "least" in overhead and abs(usable / needed - 1) < _LIKE:
        return max(share, 0.0) + _OTHER_BATCHES[setting]
    # Tensors of other sizes fit into segments in another way.
    return max(minimum, share)


def _outside(calibration: Calibration, given: int | None) -> tuple[int, str]:
    if given is not None:
        return given, "as given"
    measured = [entry.outside for entry in calibration.observations if entry.outside is not None]
    return (max(measured), "as measured") if measured else (ASSUMED_CONTEXT, "assumed: not measured")
