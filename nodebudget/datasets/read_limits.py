"""What a file may ask for before it is refused: the guard against broken and crafted ones."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from nodebudget.errors import InputError
from nodebudget.utils.byte_units import format_bytes

#: Bytes of one crystal: its JSON, its structure file, its record. 100,000 atoms take some 10 MB as JSON, and JSON can
#: take twenty times its length once it is parsed.
RECORD = 16 * 2**20

#: Times its size that a compressed file may unpack to. Crystals as JSON pack 3 to 10 times, datasets that repeat
#: themselves some 100 times; what gzip can do at most, and what a bomb does, is 1,032.
EXPANSION = 200.0

#: Bytes that any compressed file may unpack to: read in a second or two, never held in memory.
FREE = 256 * 2**20

#: Characters of a crystal's name. A table keeps all names as wide as the longest.
NAME = 256


@dataclass(frozen=True)
class Bounds:
    """Budget that a real dataset may hit, and that can then be raised.

    Attributes:
        record: Most bytes of one crystal.
        expansion: Most times its own size that a compressed file may unpack to, beyond the first 256 MiB.

    Raises:
        InputError: A limit is no number over 0.
    """

    record: int = RECORD
    expansion: float = EXPANSION

    def __post_init__(self) -> None:
        for name, value in (("record", self.record), ("expansion", self.expansion)):
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
                raise InputError(f"the limit {name} is {value!r}", limit="a number over 0", hint="leave it out")

    def too_large(self, size: int) -> str:
        """Say why a record of so many bytes is refused."""
        return (
            f"it has {format_bytes(size)}, over the limit of {format_bytes(self.record)} for one crystal "
            "(--max-record raises it)"
        )


class Expansion:
    """How much a compressed file may unpack to."""

    def __init__(self, path: Path, bounds: Bounds) -> None:
        self._path, self._times = path, bounds.expansion
        self._most = max(FREE, bounds.expansion * path.stat().st_size)

    def check(self, size: int) -> None:
        """Refuse the file where it unpacks to so many bytes.

        Raises:
            InputError: That is too much.
        """
        if size > self._most:
            raise InputError(
                f"{str(self._path)!r} unpacks to over {format_bytes(int(self._most))}",
                limit=f"{format_bytes(FREE)}, or {self._times:g} times its size",
                hint="unpack it yourself if you trust it, or raise --max-expansion (Bounds(expansion=...))",
            )


class Unpacked(io.RawIOBase):
    """The content of a compressed file, refused once there is too much of it.

    Args:
        file: Yields what is unpacked.
        path: The compressed file.
        bounds: Says how much there may be.
    """

    def __init__(self, file: Any, path: Path, bounds: Bounds) -> None:
        self._file, self._expansion = file, Expansion(path, bounds)

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True: forwards by reading on."""
        return True

    def tell(self) -> int:
        """Return how many bytes are unpacked."""
        return int(self._file.tell())

    def readinto(self, buffer: Any) -> int:
        """Read on.

        Raises:
            InputError: There is more than the limit.
        """
        count = int(self._file.readinto(buffer))
        self._expansion.check(self.tell())
        return count

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place, counted from the start.

        Raises:
            InputError: It is beyond the limit.
        """
        if whence != io.SEEK_SET:
            raise io.UnsupportedOperation("only from the start")
        self._expansion.check(offset)
        return int(self._file.seek(offset))

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()


def unpacked(file: Any, path: Path, bounds: Bounds) -> BinaryIO:
    """Return the content of a compressed file, buffered and bounded."""
    return cast(BinaryIO, io.BufferedReader(Unpacked(file, path, bounds), 2**18))
