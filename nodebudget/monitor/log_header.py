"""The first line of a log: where the run came from."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from nodebudget.calibration.memory_model import Calibration
from nodebudget.monitor.log_reader import KIND, SCHEMA_VERSION
from nodebudget.profiling.probe import Probe
from nodebudget.utils.distributed import world_and_rank
from nodebudget.utils.records import provenance

_NO_PEAK = "the CPU's allocator keeps no peak: rss is the resident set of the process; trace=True measures peaks"


def header_of(
    probe: Probe,
    model: Mapping[str, Any] | None,
    calibration: Calibration | None,
    *,
    method: str | None,
    every: int,
    batches: int | None,
) -> dict[str, Any]:
    """Return what identifies a run: plain values for JSON."""
    world, rank = world_and_rank(None, None)
    return {
        "kind": KIND,
        "schema_version": SCHEMA_VERSION,
        **provenance(),
        "host": platform.node(),
        "pid": os.getpid(),
        "rank": rank,
        "ranks": world,
        "device": {**probe.describe(), "uuid": _uuid(probe.device)},
        "measured_by": method,
        "note": _NO_PEAK if method is None else None,
        "model": model,
        "calibration": None if calibration is None else _short(calibration),
        "every": every,
        "batches": batches,
    }


def _short(calibration: Calibration) -> dict[str, Any]:
    return {
        "coefficients": dict(calibration.coefficients),
        "floor": calibration.floor,
        "resident": calibration.resident,
        "bound": calibration.bound.to_dict(),
        "created": calibration.context.get("created"),
        "workload": calibration.context.get("workload"),
    }


def _uuid(device: str) -> str | None:
    if not device.startswith("cuda"):
        return None
    return str(getattr(torch.cuda.get_device_properties(device), "uuid", "")) or None


def facts_of_model(model: torch.nn.Module | None, optimizer: torch.optim.Optimizer | None) -> dict[str, Any] | None:
    """Return name, number of parameters and optimizer, or None without a model."""
    if model is None:
        return None
    return {
        "name": type(model).__qualname__,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "optimizer": None if optimizer is None else type(optimizer).__name__,
    }


def path_of_rank(path: str | os.PathLike[str]) -> Path:
    """Return where this rank's log goes: the first rank's is `path`, the others' have their rank before the suffix."""
    _, rank = world_and_rank(None, None)
    target = Path(path)
    return target if rank == 0 else target.with_name(f"{target.stem}.rank{rank}{target.suffix}")
