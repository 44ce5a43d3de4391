"""Observations on disk as they are made, so that an interrupted calibration can be resumed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from nodebudget.calibration.memory_model import Observation
from nodebudget.errors import RecordError
from nodebudget.utils.jsonl import JsonLines


class ProbeCheckpoint:
    """A file of JSON lines, made with the first observation: one per observation, on disk before the next probe starts.

    The identity is what they depend on (data, model, device, number of probes); without `resume` the file is started
    over. `observations` are by the key of their batch, None for a batch that was not tried.

    Raises:
        RecordError: The file belongs to something else, or can't be read.
    """

    def __init__(self, path: str | os.PathLike[str], identity: Mapping[str, Any], *, resume: bool) -> None:
        self._lines, self._header = JsonLines(path), identity
        self.observations: dict[str, Observation | None] = {}
        self._size = self._read() if resume and self._lines.path.exists() else 0

    def add(self, key: str, observation: Observation | None) -> None:
        """Append an observation; raise an InputError where it can't be written: the disk is full, say."""
        self.observations[key] = observation
        self._lines.open()
        try:
            self._lines.truncate(self._size)
            if not self._size:
                self._lines.append(self._header)
            self._lines.append({"key": key, "seen": None if observation is None else asdict(observation)})
            self._size = self._lines.size()
        finally:
            self._lines.close()

    def _read(self) -> int:
        """Read the observations; return the size of the file without a torn last line."""
        hint = "run the same command as before, or start over without --resume"
        end = start = self._lines.check_header(self._header, "calibration", hint)
        try:
            for entry, end in self._lines.read(start):  # noqa: B007
                if entry is not None:
                    self.observations[entry["key"]] = None if entry["seen"] is None else Observation(**entry["seen"])
        except (KeyError, TypeError) as error:
            raise RecordError(
                f"{str(self._lines.path)!r} is damaged: {error}", hint="start over without --resume"
            ) from error
        return end
