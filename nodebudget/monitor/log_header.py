"""The header of a log: device, model, calibration, versions and rank of the run."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import torch

from nodebudget.calibration.memory_model import Calibration
from nodebudget.monitor.log_reader import KIND, SCHEMA_VERSION
from nodebudget.profiling.probe import Probe
from nodebudget.utils.distributed import world_and_rank
from nodebudget.utils.records import provenance

_NO_PEAK = "the CPU's allocator counts no peak: rss is the resident set of the process; trace=True measures peaks"


def header_of(
    probe: Probe,
    model: torch.nn.Module | None,
    optimizer: torch.optim.Optimizer | None,
    calibration: Calibration | None,
    method: str | None,
    **further: Any,
) -> dict[str, Any]:
    """Return the header as plain values for JSON, with the values of `further`."""
    world, rank = world_and_rank(None, None)
    is_cuda = probe.device.startswith("cuda")
    uuid = str(getattr(torch.cuda.get_device_properties(probe.device), "uuid", "")) if is_cuda else ""
    return {
        "kind": KIND,
        "schema_version": SCHEMA_VERSION,
        **provenance(),
        "host": platform.node(),
        "pid": os.getpid(),
        "rank": rank,
        "ranks": world,
        "device": {**probe.describe(), "uuid": uuid or None},
        "measured_by": method,
        "note": _NO_PEAK if method is None else None,
        "model": None if model is None else _model_facts(model, optimizer),
        "calibration": None if calibration is None else _calibration_facts(calibration),
        **further,
    }


def _model_facts(model: torch.nn.Module, optimizer: torch.optim.Optimizer | None) -> dict[str, Any]:
    return {
        "name": type(model).__qualname__,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "optimizer": None if optimizer is None else type(optimizer).__name__,
    }


def _calibration_facts(calibration: Calibration) -> dict[str, Any]:
    return {
        "coefficients": dict(calibration.coefficients),
        "floor": calibration.floor,
        "resident": calibration.resident,
        "bound": calibration.bound.to_dict(),
        **{name: calibration.context.get(name) for name in ("created", "workload")},
    }


def path_of_rank(path: str | os.PathLike[str]) -> Path:
    """Return the path of this rank's log: `path` for rank 0, for the others with the rank before the suffix."""
    _, rank = world_and_rank(None, None)
    path = Path(path)
    return path if rank == 0 else path.with_name(f"{path.stem}.rank{rank}{path.suffix}")
