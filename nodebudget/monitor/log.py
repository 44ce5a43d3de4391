"""Writing the log of a run: a header, then a JSON object per line, each handed to the system before the next batch."""

from __future__ import annotations

import os
import platform
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from nodebudget.calibration.memory_model import Calibration
from nodebudget.errors import InputError
from nodebudget.monitor.log_reader import KIND, SCHEMA_VERSION
from nodebudget.profiling.probe import Probe
from nodebudget.utils.checks import check_choice
from nodebudget.utils.distributed import world_and_rank
from nodebudget.utils.files import check_output
from nodebudget.utils.jsonl import JsonLines
from nodebudget.utils.records import provenance

EXISTING = ("raise", "append", "overwrite")  #: What to do with a log that exists.
_SYNC_SECONDS = 30.0  #: Seconds between two calls of fsync, which takes far longer than handing over a line.

_NO_PEAK = "the CPU's allocator counts no peak: rss is the resident set of the process; trace=True measures peaks"


class RunWriter:
    """Appends lines to a log, until a line can't be written (a full disk): then it warns and stops.

    Raises an InputError where the file can't be written, or exists and `existing` is "raise"; and a RecordError where
    it is "append" and the file is not the log of a run.
    """

    def __init__(self, path: str | os.PathLike[str], existing: str = "raise") -> None:
        check_choice("existing", existing, EXISTING)
        if existing == "raise" and Path(path).exists():
            raise InputError(
                f"{str(path)!r} exists", hint="choose another name, or pass existing='append' or existing='overwrite'"
            )
        self.path = check_output(path, force=True)
        self._lines = JsonLines(path, sync_seconds=_SYNC_SECONDS)
        if existing == "append" and self.path.exists():
            self._lines.check_header({"kind": KIND}, "monitored run", "choose another name")
        self._lines.open(overwrite=existing == "overwrite")
        if existing == "append":
            self._lines.drop_torn_line()
        # A forked worker has this object too, and must not write to the log.
        self._owner, self._is_open = os.getpid(), True
        self._started, self.steps = time.monotonic(), 0

    def write(self, line: Mapping[str, Any]) -> None:
        """Append a line."""
        if not self._is_open or os.getpid() != self._owner:
            return
        self.steps += line.get("event") == "step"
        try:
            self._lines.append(line)
        except InputError as error:
            self._is_open = False
            self._lines.close()
            warnings.warn(f"the log ends here: {error}", stacklevel=2)
        except (TypeError, ValueError) as error:
            warnings.warn(f"a line is missing in {str(self.path)!r}: {error}", stacklevel=2)

    def end(self, status: str = "exit") -> None:
        """Write the last line and close; do nothing where that was done."""
        seconds = round(time.monotonic() - self._started, 3)
        self.write({"event": "end", "status": status, "steps": self.steps, "seconds": seconds, "time": time.time()})
        if self._is_open and os.getpid() == self._owner:
            self._is_open = False
            self._lines.close()


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
