"""Writing the log of a run: one JSON object per line, each handed to the system before the next batch."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nodebudget.errors import InputError
from nodebudget.monitor.log_reader import KIND
from nodebudget.utils.checks import check_choice
from nodebudget.utils.files import check_output
from nodebudget.utils.jsonl import JsonLines

EXISTING = ("raise", "append", "overwrite")  #: What to do with a log that exists.
_SYNC_SECONDS = 30.0  #: Seconds between two calls of fsync, which takes far longer than handing over a line.


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
