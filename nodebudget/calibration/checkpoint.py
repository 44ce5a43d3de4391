"""Observations on disk as they are made, so that an interrupted calibration can go on."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nodebudget.calibration.memory_model import Observation
from nodebudget.errors import InputError, RecordError
from nodebudget.utils.files import read_text


class ProbeCheckpoint:
    """One line an observation, each on disk before the next probe starts.

    Args:
        path: The file. It is there from the first observation on, so that a run that saw nothing leaves nothing.
        identity: What the observations belong to (data, model, device, effort): must be the same to go on.
        resume: Go on with what is there; otherwise start anew.

    Attributes:
        seen: Observations by the key of their batch; None where a batch was not tried.

    Raises:
        RecordError: The file belongs to something else.
        InputError: It can't be written.
    """

    def __init__(self, path: str | os.PathLike[str], identity: Mapping[str, Any], *, resume: bool) -> None:
        self._path = Path(path)
        self.seen: dict[str, Observation | None] = {}
        self._head: str | None = json.dumps(dict(identity))
        if resume and self._path.exists():
            self._read(identity)
            self._head = None

    def add(self, key: str, observation: Observation | None) -> None:
        """Keep an observation."""
        self.seen[key] = observation
        line = json.dumps({"key": key, "seen": None if observation is None else observation.to_dict()})
        if self._head is not None:
            self._write(f"{self._head}\n{line}", "w")
            self._head = None
        else:
            self._write(line, "a")

    def _read(self, identity: Mapping[str, Any]) -> None:
        try:
            lines = read_text(self._path, errors="replace").splitlines()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise RecordError(
                f"{str(self._path)!r} can't be read: {reason}", hint="start anew without --resume"
            ) from error
        # A kill may leave half a last line; what comes before it is whole.
        entries = [entry for entry in map(_parse, lines) if entry is not None]
        if not entries or entries[0] != json.loads(json.dumps(dict(identity))):
            different = [key for key in identity if not entries or entries[0].get(key) != identity[key]]
            raise RecordError(
                f"{str(self._path)!r} belongs to another calibration (another {', '.join(different) or 'kind'})",
                hint="run the same command as before, or start anew without --resume",
            )
        try:
            for entry in entries[1:]:
                self.seen[entry["key"]] = None if entry["seen"] is None else Observation(**entry["seen"])
        except (KeyError, TypeError) as error:
            raise RecordError(f"{str(self._path)!r} is damaged: {error}", hint="start anew without --resume") from error
        if lines and _parse(lines[-1]) is None:
            whole = "".join(f"{line}\n" for line in lines[:-1])
            self._path.write_text(whole, encoding="utf-8")

    def _write(self, line: str, mode: str) -> None:
        try:
            with self._path.open(mode, encoding="utf-8") as file:
                file.write(line + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise InputError(
                f"{str(self._path)!r} could not be written: {error.strerror}", hint="free some space there"
            ) from error


def _parse(line: str) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return entry if isinstance(entry, dict) else None
