"""The log of a run: one JSON object a line, each whole on its way to the disk before the next batch."""

from __future__ import annotations

import json
import os
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nodebudget.errors import InputError
from nodebudget.utils.files import check_output

KIND = "nodebudget.run"
SCHEMA_VERSION = 1

#: What becomes of a log that is there already.
EXISTING = ("raise", "append", "overwrite")

#: Lines outlive a killed process at once, and a machine that loses power after so many seconds: waiting for the disk
#: takes far longer than handing a line over.
_SYNC_SECONDS = 30.0


class RunWriter:
    """Appends lines to a log.

    A log that can't be written any more (a full disk) is given up with a warning: it is not worth a training run.

    Args:
        path: The file.
        existing: "raise", "append" or "overwrite".

    Raises:
        InputError: The file exists and `existing` is "raise", or it can't be made.
    """

    def __init__(self, path: str | os.PathLike[str], existing: str = "raise") -> None:
        if existing not in EXISTING:
            raise InputError(
                f"existing is {existing!r}", limit=" or ".join(map(repr, EXISTING)), hint="give one of them"
            )
        if existing == "raise" and Path(path).exists():
            raise InputError(
                f"{str(path)!r} exists", hint="choose another name, or pass existing='append' or existing='overwrite'"
            )
        self.path = check_output(path, force=True)
        # A forked worker holds this object too, and must not write the end of the run.
        self._owner, self._ended = os.getpid(), False
        self._synced, self._started, self.steps = time.monotonic(), time.monotonic(), 0
        try:
            self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT | _mode(existing), 0o666)
            if existing == "append" and _lacks_newline(self.path):
                os.write(self._file, b"\n")
        except OSError as error:
            raise InputError(
                f"{str(path)!r} could not be written: {error.strerror}", hint="choose another place"
            ) from error

    def write(self, line: Mapping[str, Any]) -> None:
        """Append a line."""
        if self._ended or os.getpid() != self._owner:
            return
        self.steps += line.get("event") == "step"
        text = json.dumps(line, allow_nan=False, separators=(",", ":")) + "\n"
        try:
            os.write(self._file, text.encode())
            if time.monotonic() - self._synced > _SYNC_SECONDS:
                os.fsync(self._file)
                self._synced = time.monotonic()
        except OSError as error:
            self._close()
            warnings.warn(f"{str(self.path)!r} is not written any more: {error.strerror}", stacklevel=2)

    def end(self, status: str = "exit") -> None:
        """Write the last line and close; nothing where that was done."""
        if self._ended or os.getpid() != self._owner:
            return
        seconds = round(time.monotonic() - self._started, 3)
        self.write({"event": "end", "status": status, "steps": self.steps, "seconds": seconds, "time": time.time()})
        if not self._ended:
            os.fsync(self._file)
            self._close()

    def _close(self) -> None:
        self._ended = True
        os.close(self._file)


def _mode(existing: str) -> int:
    return os.O_APPEND | (os.O_TRUNC if existing == "overwrite" else 0)


def _lacks_newline(path: Path) -> bool:
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        if not size:
            return False
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"
