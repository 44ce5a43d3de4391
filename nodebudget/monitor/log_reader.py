"""Logs of runs, read back: whole, or as they grow."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nodebudget.errors import RecordError
from nodebudget.monitor.log import KIND, SCHEMA_VERSION
from nodebudget.monitor.log_schema import is_sound, is_sound_header
from nodebudget.utils.version import __version__

#: A line longer than this is none of a log.
_LONGEST = 2**20

#: Bytes that are read at once.
_AT_ONCE = 2**24


@dataclass
class Run:
    """What a log holds.

    Attributes:
        header: The newest header: device, model, calibration, number of batches, versions.
        steps: One dict a batch, in order.
        events: All other lines: warnings, splits, out-of-memory errors.
        end: The last line, or None while the run goes on or where it was killed.
        parts: Number of headers: 1, and one more for each time that a run was taken up again.
        damaged: Lines that could not be read, but for a last one that is cut.
    """

    header: dict[str, Any] = field(default_factory=dict)
    steps: list[dict[str, Any]] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    end: dict[str, Any] | None = None
    parts: int = 0
    damaged: int = 0

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
    """Reads a log, and what is added to it.

    Args:
        path: The file.

    Attributes:
        run: What was read so far.

    Raises:
        RecordError: The file is missing, no log, or of a version that can't be read.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path, self._place, self._rest = Path(path), 0, b""
        self.run = Run()
        self.update()

    def update(self) -> bool:
        """Read what is new; say whether there was anything.

        Raises:
            RecordError: The file is missing or no log.
        """
        try:
            with self._path.open("rb") as file:
                # Begun anew by another run.
                if file.seek(0, os.SEEK_END) < self._place:
                    self._place, self._rest, self.run = 0, b"", Run()
                file.seek(self._place)
                found = False
                while new := file.read(_AT_ONCE):
                    found |= self._take_bytes(new)
        except OSError as error:
            raise RecordError(f"{str(self._path)!r} can't be read: {error.strerror}", hint="check the path") from error
        if not self.run.parts and (found or not self._looks_begun()):
            raise self._refuse("its first line is no header of a run")
        return found

    def _take_bytes(self, new: bytes) -> bool:
        """Take in all lines that are whole; say whether there was one."""
        self._place += len(new)
        *lines, self._rest = (self._rest + new).split(b"\n")
        for line in lines:
            self._take(line)
        if len(self._rest) > _LONGEST:
            raise self._refuse(f"a line of it has over {_LONGEST:,} bytes")
        return bool(lines)

    def _looks_begun(self) -> bool:
        # The header of a run that starts this moment may not be there whole.
        return self._rest.startswith(f'{{"kind":"{KIND}"'.encode())

    def _take(self, line: bytes) -> None:
        if not line:
            return
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            entry = None
        if not self.run.parts:
            self._check(entry)
        if not isinstance(entry, dict):
            # Cut by a kill, before the run was taken up again.
            self.run.damaged += 1
        elif (is_sound_header if entry.get("kind") == KIND else is_sound)(entry):
            self.run.add(entry)
        else:
            raise RecordError(
                f"{str(self._path)!r} is a damaged run: a line that holds {line[:80].decode(errors='replace')!r}",
                limit="values as a MemoryMonitor writes them",
                hint="make it again, or remove that line",
            )

    def _check(self, entry: Any) -> None:
        if not isinstance(entry, dict) or entry.get("kind") != KIND:
            raise self._refuse("its first line is no header of a run")
        version = entry.get("schema_version")
        if not isinstance(version, int) or not 1 <= version <= SCHEMA_VERSION:
            raise RecordError(
                f"{str(self._path)!r} has schema version {version!r}",
                limit=f"this nodebudget {__version__} reads 1 to {SCHEMA_VERSION}",
                hint="install the nodebudget that wrote it",
            )

    def _refuse(self, why: str) -> RecordError:
        return RecordError(
            f"{str(self._path)!r} is no log of a run: {why}", hint="give the file that a MemoryMonitor writes"
        )


def read_run(path: str | os.PathLike[str]) -> Run:
    """Read a log; a last line that was cut by a kill is left out.

    Raises:
        RecordError: The file is missing, no log, or of a version that can't be read.
    """
    return RunReader(path).run
