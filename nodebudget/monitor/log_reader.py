"""Logs of runs, read back: whole, or as they grow."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nodebudget.errors import RecordError
from nodebudget.utils.jsonl import JsonLines
from nodebudget.utils.records import check_record

KIND = "nodebudget.run"
SCHEMA_VERSION = 1

_NUMBERS = ("step", "epoch", "seconds")  #: Keys that every step has: numbers; numbers or null; and others.
_OPTIONAL_NUMBERS = ("waited", "predicted", "measured", "reserved", "rss", "retries")
_OTHERS = ("event", "status", "sizes")


@dataclass
class Run:
    """What a log holds."""

    #: The newest header with device, model, calibration, number of batches, versions.
    header: dict[str, Any] = field(default_factory=dict)
    steps: list[dict[str, Any]] = field(default_factory=list)  #: One dict per batch, in order.
    #: All other lines, such as epochs, warnings, splits, out-of-memory errors.
    events: list[dict[str, Any]] = field(default_factory=list)
    end: dict[str, Any] | None = None  #: The last line, or None while the run is running or where it was killed.
    parts: int = 0  #: Number of headers, 1 and one more for each time that the run was resumed.
    damaged: int = 0  #: Number of unreadable lines, an unfinished last one not included.

    def add(self, line: dict[str, Any]) -> None:
        """Take in one line."""
        if line.get("kind") == KIND:
            self.header, self.end, self.parts = line, None, self.parts + 1
        elif line.get("event") == "step":
            self.steps.append(line)
        elif line.get("event") == "end":
            self.end = line
        else:
            self.events.append(line)


class RunReader:
    """Reads a log, and the lines that are added to it, into `run`.

    Raises:
        RecordError: The file is missing, not the log of a run, or of a version that can't be read.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._lines, self._offset, self.run = JsonLines(path), 0, Run()
        self.update()

    def update(self) -> bool:
        """Read the lines that were added; return whether there were any."""
        path = self._lines.path
        if path.exists() and path.stat().st_size < self._offset:
            self._offset, self.run = 0, Run()  # overwritten by another run
        before = self._offset
        for line, offset in self._lines.read(before):
            self._add(line)
            self._offset = offset
        # The header of a run that starts at this very time may not be whole yet.
        if not self.run.parts and not self._lines.tail.startswith(f'{{"kind":"{KIND}"'.encode()):
            check_record(None, str(path), KIND, SCHEMA_VERSION)
        return self._offset > before

    def _add(self, line: dict[str, Any] | None) -> None:
        shown = str(self._lines.path)
        if not self.run.parts:
            check_record(line, shown, KIND, SCHEMA_VERSION)
        if line is None:
            self.run.damaged += 1
        elif _is_valid_header(line) if line.get("kind") == KIND else _is_valid(line):
            self.run.add(line)
        else:
            raise RecordError(
                f"{shown!r} is damaged: a line has the values {str(line)[:80]!r}",
                limit="values as a MemoryMonitor writes them",
                hint="remove that line, or run the training again",
            )


def read_run(path: str | os.PathLike[str]) -> Run:
    """Read the log of a run; a last line that was cut by a kill is left out.

    Raises:
        RecordError: The file is missing, not the log of a run, or of a version that can't be read.
    """
    return RunReader(path).run


def _is_valid_header(line: Mapping[str, Any]) -> bool:
    device, model = line.get("device", {}), line.get("model")
    return (
        isinstance(device, dict)
        and (model is None or isinstance(model, dict))
        and all(value is None or _is_number(value) for value in (device.get("memory"), line.get("batches")))
        and isinstance(line.get("pid", 0), int)
    )


def _is_valid(line: Mapping[str, Any]) -> bool:
    """Say whether a line has the values of its event; events of the user may have any."""
    event, step, batches = line.get("event"), line.get("step"), line.get("batches", "missing")
    if event == "step":
        return _is_valid_step(line)
    if event in ("warning", "out of memory", "split"):
        has_text = event == "split" or isinstance(line.get("text"), str)
        return has_text and _is_number(step) and _is_number(line.get("time"))
    if event == "epoch":
        return _is_number(step) and (batches is None or _is_number(batches))
    return True


def _is_valid_step(line: Mapping[str, Any]) -> bool:
    sizes = line.get("sizes")
    return (
        isinstance(sizes, dict)
        and all(map(_is_number, sizes.values()))
        and isinstance(line.get("status"), str)
        and all(_is_number(line.get(name)) for name in _NUMBERS)
        and all(name in line for name in _OPTIONAL_NUMBERS)
        and all(value is None or _is_number(value) for name, value in line.items() if name not in _OTHERS)
    )


def _is_number(value: object) -> bool:
    """Say whether it is a number from 0 to 2^63: steps, bytes, seconds."""
    plain = isinstance(value, (int, float)) and not isinstance(value, bool)
    return plain and math.isfinite(value) and 0 <= value < 2**63  # type: ignore[arg-type, operator]
