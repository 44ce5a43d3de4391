"""What is measured so far, on disk as it is measured, so that an interrupted measurement goes on where it stopped."""

from __future__ import annotations

import json
import os
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from nodebudget.datasets.counting.rows import Row
from nodebudget.errors import CrystalError, InputError, RecordError

try:
    import fcntl
except ImportError:  # pragma: no cover - not on Windows, where two processes have to keep apart by themselves
    fcntl = None  # type: ignore[assignment]

#: The kind and version that the first line names.
_HEAD = {"kind": "nodebudget sizes, part", "schema_version": 1}
#: Seconds between two waits for the disk itself. What a killed process wrote is safe without; a power cut costs these.
_SYNC = 1.0

#: Where a crystal that can't be read ends a measurement, fewer rows than these are not worth a file: they are measured
#: again in a moment.
_WORTH = 1000


class MeasureCheckpoint:
    """A file of lines, a line a chunk, each with a checksum, and at its head what they belong to.

    A kill at any moment leaves whole lines and at most one that is cut, which is dropped.

    Args:
        path: The file.
        identity: What the rows belong to (data, graphs): must be the same to go on.
        resume: Go on with what is there; otherwise start anew.

    Raises:
        RecordError: The file belongs to something else.
        InputError: It can't be written, or another process is writing it.
    """

    def __init__(self, path: str | os.PathLike[str], identity: Mapping[str, Any], *, resume: bool = True) -> None:
        self._path, self._head = Path(path), {**_HEAD, **json.loads(json.dumps(dict(identity)))}
        try:
            self._file = _locked(self._path)
        except OSError as error:
            raise InputError(
                f"{str(self._path)!r} can't be written: {error.strerror}", hint="choose another place"
            ) from error
        self._synced, self._rows = time.monotonic(), 0
        try:
            if not resume:
                os.ftruncate(self._file, 0)
            self._size = self._begun = self._check_head()
        except BaseException:
            os.close(self._file)
            raise

    def __enter__(self) -> MeasureCheckpoint:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # A run that measured nothing leaves nothing, and one that a crystal ended leaves no moment's work.
        nothing = kind is not None and self._size == self._begun
        if nothing or (isinstance(error, CrystalError) and self._rows < _WORTH):
            self.remove()
        os.close(self._file)

    def rows(self) -> Iterator[list[Row]]:
        """Yield what was measured before, a chunk at a time; what follows a damaged line is dropped."""
        number = 0
        with self._path.open("rb") as file:
            file.seek(self._size)
            for line in file:
                entry = _parsed(line)
                rows = None if entry is None or entry.get("first") != number else _rows(entry.get("rows"))
                if rows is None:
                    break
                self._size += len(line)
                number += len(rows)
                self._rows = number
                yield rows
        os.ftruncate(self._file, self._size)

    def add(self, first: int, rows: Sequence[Row]) -> None:
        """Keep the rows of a chunk that starts with number `first`.

        Raises:
            InputError: The disk is full, say.
        """
        plain = [[name, counts] if isinstance(counts, str) else [name, *counts] for name, counts in rows]
        self._write({"first": first, "rows": plain})
        self._rows = first + len(rows)
        if time.monotonic() - self._synced > _SYNC:
            os.fsync(self._file)
            self._synced = time.monotonic()

    def remove(self) -> None:
        """Remove the file: the result holds the rows now."""
        self._path.unlink(missing_ok=True)

    def _check_head(self) -> int:
        with self._path.open("rb") as file:
            line = file.readline()
        head = _parsed(line)
        if head is None:
            # Nothing yet, or a process that was killed in its first line. What is none of ours is kept.
            if line and not (line[:8] + b"0").isalnum():
                raise RecordError(f"{str(self._path)!r} is another file", hint="move it away")
            os.ftruncate(self._file, 0)
            self._size = 0
            self._write(self._head)
            return self._size
        different = [name for name in self._head if head.get(name) != self._head[name]]
        if different:
            raise RecordError(
                f"{str(self._path)!r} is what is left of another measurement (another {', '.join(different)})",
                hint="run the same command as then, or start anew with --no-resume (resume=False)",
            )
        return len(line)

    def _write(self, entry: Mapping[str, Any]) -> None:
        text = json.dumps(entry, separators=(",", ":")).encode()
        rest = memoryview(b"%08x " % zlib.crc32(text) + text + b"\n")
        size = len(rest)
        try:
            while rest:
                rest = rest[os.write(self._file, rest) :]
        except OSError as error:
            os.ftruncate(self._file, self._size)
            raise InputError(
                f"{str(self._path)!r} could not be written: {error.strerror}",
                hint="free some space there; the same command then goes on where it stopped",
            ) from error
        self._size += size


def _locked(path: Path) -> int:
    """Open a file for appending, for this process alone as long as it is open."""
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Another process may have finished with the file and removed it meanwhile.
            if path.exists() and os.path.samestat(os.fstat(file), path.stat()):
                return file
        except BlockingIOError as error:
            os.close(file)
            raise InputError(
                f"another process is measuring to {str(path)!r}", hint="wait for it, or choose another output"
            ) from error
        except OSError:
            # A file system without locks.
            return file
        os.close(file)


def _parsed(line: bytes) -> dict[str, Any] | None:
    text = line[9:-1]
    if not line.endswith(b"\n") or line[:9] != b"%08x " % zlib.crc32(text):
        return None
    try:
        entry = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return entry if isinstance(entry, dict) else None


def _rows(values: Any) -> list[Row] | None:
    """Return the rows of a line, or None where they are none."""
    try:
        rows = [_row(*row) for row in values]
    except TypeError:
        return None
    return None if None in rows else [row for row in rows if row is not None]


def _row(name: Any, *counts: Any) -> Row | None:
    if name is not None and not isinstance(name, str):
        return None
    if len(counts) == 1 and isinstance(counts[0], str):
        return name, counts[0]
    if len(counts) == 3 and all(isinstance(count, int) and 0 <= count < 2**63 for count in counts):
        nodes, edges, line_edges = counts
        return name, (int(nodes), int(edges), int(line_edges))
    return None
