"""JSON lines that a killed process leaves readable: whole lines are appended, and a torn last line is left out."""

from __future__ import annotations

import io
import json
import os
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from nodebudget.errors import InputError, RecordError
from nodebudget.utils.byte_units import format_bytes

try:
    import fcntl
except ImportError:  # pragma: no cover - not on Windows, where two processes are not kept apart
    fcntl = None  # type: ignore[assignment]


class JsonLines:
    """A file of one JSON object per line; the first line is a header that says what the file belongs to.

    Each line is handed to the operating system before `append` returns, so a killed process leaves whole lines and, at
    worst, one torn line at the end. `tail` is the unfinished line at which the last `read` stopped.

    Args:
        path: The file; opened for reading by `read`, for writing by `open`.
        checksums: Precede each line by its CRC-32, as eight hexadecimal digits and a space.
        sync_seconds: Seconds between two calls of fsync: lines of this time are lost when the machine loses power.
        max_line: Longest line that is read, bytes.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        checksums: bool = False,
        sync_seconds: float = 0.0,
        max_line: int = 2**20,
    ) -> None:
        self.path, self.tail = Path(path), b""
        self._checksums, self._sync_seconds, self._max_line = checksums, sync_seconds, max_line
        self._file: io.FileIO | None = None
        self._synced = time.monotonic()

    def read(self, offset: int = 0) -> Iterator[tuple[dict[str, Any] | None, int]]:
        """Yield each whole line from `offset` on: its object, or None where it is damaged, and the offset after it.

        Raises a RecordError where the file can't be read, or a line is too long.
        """
        try:
            with self.path.open("rb") as file:
                if offset:
                    file.seek(offset)
                while (line := file.readline(self._max_line + 1)).endswith(b"\n"):
                    offset += len(line)
                    if line != b"\n":
                        yield self._decode(line), offset
        except OSError as error:
            raise RecordError(f"{str(self.path)!r} can't be read: {error.strerror}", hint="check the path") from error
        self.tail = line
        if len(line) > self._max_line:
            raise RecordError(
                f"{str(self.path)!r} has a line of over {format_bytes(self._max_line)}, more than such a file takes",
                hint="check that it is the right file",
            )

    def check_header(self, expected: Mapping[str, Any], what: str, hint: str) -> int:
        """Return the offset after the header; 0 where the file is empty, or holds no more than a torn header.

        Raises a RecordError, which says to which other `what` the file belongs, where the header lacks one of the
        `expected` values.
        """
        expected = json.loads(json.dumps(dict(expected)))
        for header, offset in self.read():
            different = [key for key in expected if header is None or header.get(key) != expected[key]]
            if header is None or "kind" in different:
                break
            if different:
                raise RecordError(
                    f"{str(self.path)!r} belongs to another {what} (different {', '.join(different)})", hint=hint
                )
            return offset
        else:
            start = self._encode(expected)[: -len(b"}\n")]
            if start.startswith(self.tail) or self.tail.startswith(start):
                return 0
        raise RecordError(f"{str(self.path)!r} is not the file of a {what}", hint="move it away, or check the path")

    def open(self, *, overwrite: bool = False, lock: bool = False) -> None:
        """Open the file for appending, and make it where there is none.

        Raises an InputError where it can't be written, or, with `lock`, another process has locked it.
        """
        try:
            self._file = _locked(self.path) if lock else _opened(self.path)
            if overwrite and self.size():
                self.truncate(0)
        except BlockingIOError as error:
            raise InputError(
                f"another process is writing {str(self.path)!r}", hint="wait for it, or choose another output"
            ) from error
        except OSError as error:
            raise self._unwritable(error) from error

    def append(self, entry: Mapping[str, Any]) -> None:
        """Write a line; raise an InputError, and leave nothing of it, where it can't be written: on a full disk."""
        assert self._file is not None
        line, written = self._encode(entry), 0
        try:
            while written < len(line):
                written += self._file.write(line[written:])
            if time.monotonic() - self._synced >= self._sync_seconds:
                os.fsync(self._file.fileno())
                self._synced = time.monotonic()
        except OSError as error:
            with suppress(OSError):
                self._file.truncate(self.size() - written)
            raise self._unwritable(error) from error

    def size(self) -> int:
        """Return the bytes of the open file."""
        assert self._file is not None
        return os.fstat(self._file.fileno()).st_size

    def truncate(self, size: int) -> None:
        """Cut the open file to its first `size` bytes."""
        assert self._file is not None
        self._file.truncate(size)

    def drop_torn_line(self) -> None:
        """Remove the last line of the open file where it is not whole."""
        assert self._file is not None
        size = self.size()
        self._file.seek(max(size - self._max_line, 0))
        tail = self._file.read(self._max_line)
        if tail and not tail.endswith(b"\n"):
            self.truncate(size - len(tail) + tail.rfind(b"\n") + 1)

    def close(self) -> None:
        """Wait for the disk and close the file."""
        if self._file is not None:
            with suppress(OSError):
                os.fsync(self._file.fileno())
            self._file.close()
            self._file = None

    def _unwritable(self, error: OSError) -> InputError:
        return InputError(
            f"{str(self.path)!r} could not be written: {error.strerror}", hint="free some space or choose another place"
        )

    def _encode(self, entry: Mapping[str, Any]) -> bytes:
        text = json.dumps(dict(entry), allow_nan=False, separators=(",", ":")).encode()
        return (b"%08x " % zlib.crc32(text) if self._checksums else b"") + text + b"\n"

    def _decode(self, line: bytes) -> dict[str, Any] | None:
        if self._checksums:
            checksum, line = line[:9], line[9:]
            if checksum != b"%08x " % zlib.crc32(line[:-1]):
                return None
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            return None
        return entry if isinstance(entry, dict) else None


def _opened(path: Path) -> io.FileIO:
    return path.open("ab+", buffering=0)  # appends even where another process has cut the file


def _locked(path: Path) -> io.FileIO:
    while True:
        file = _opened(path)
        try:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The process that had the lock may have removed the file meanwhile.
            if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        except BlockingIOError:
            file.close()
            raise
        except OSError:
            return file  # a file system without locks
        file.close()
