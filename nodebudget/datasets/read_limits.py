"""Sizes above which files are refused: the guard against broken and crafted ones."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from nodebudget.errors import InputError
from nodebudget.utils.byte_units import format_bytes

#: Bytes of one crystal: its JSON, structure file or record. 100,000 atoms take some 10 MB as JSON, and parsed JSON can
#: take twenty times its length.
MAX_RECORD = 16 * 2**20

#: How many times its size a compressed file may unpack to. Crystals as JSON compress 3 to 10 times, datasets that
#: repeat themselves some 100 times; gzip's maximum, which a bomb reaches, is 1,032.
MAX_EXPANSION = 200.0

FREE = 256 * 2**20  #: Bytes that any compressed file may unpack to: read in a second or two, never held in memory.
MAX_NAME = 256  #: Characters of a crystal's name. A table stores all names as wide as the longest.


@dataclass(frozen=True)
class ReadLimits:
    """Sizes above which a file or a record is refused; raise them where a real dataset is over them. And what is read.

    Attributes:
        max_record: Bytes of one crystal.
        max_expansion: How many times its own size a compressed file may unpack to, beyond the first 256 MiB.
        structures: Key or column of the structures; None: "atoms", "structure", "cif", or the only one that there is.

    Raises:
        InputError: A limit is not a number over 0.
    """

    max_record: int = MAX_RECORD
    max_expansion: float = MAX_EXPANSION
    structures: str | None = None

    def __post_init__(self) -> None:
        for name, value in (("max_record", self.max_record), ("max_expansion", self.max_expansion)):
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
                raise InputError(f"{name} is {value!r}", limit="a number over 0", hint="leave it out")

    def too_large(self, size: int) -> str:
        """Return why a record of `size` bytes is refused."""
        return (
            f"it has {format_bytes(size)}, over the limit of {format_bytes(self.max_record)} for one crystal "
            "(--max-record raises it)"
        )

    def check_expansion(self, path: Path, unpacked: int) -> None:
        """Raise an InputError where a compressed file unpacks to too many bytes."""
        maximum = max(FREE, self.max_expansion * path.stat().st_size)
        if unpacked > maximum:
            raise InputError(
                f"{str(path)!r} unpacks to over {format_bytes(int(maximum))}",
                limit=f"{format_bytes(FREE)}, or {self.max_expansion:g} times its size",
                hint="unpack it yourself if you trust it, or raise --max-expansion (ReadLimits(max_expansion=...))",
            )


class _Unpacked(io.RawIOBase):
    """What a decompressor reads, refused where it is too much."""

    def __init__(self, file: Any, path: Path, read_limits: ReadLimits) -> None:
        self._file, self._path, self._read_limits = file, path, read_limits

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return int(self._file.tell())

    def readinto(self, buffer: Any) -> int:
        count = int(self._file.readinto(buffer))
        self._read_limits.check_expansion(self._path, self.tell())
        return count

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        # Decompressors go forward by reading on.
        if whence != io.SEEK_SET:
            raise io.UnsupportedOperation("only from the start")
        self._read_limits.check_expansion(self._path, offset)
        return int(self._file.seek(offset))


def unpacked(file: Any, path: Path, read_limits: ReadLimits) -> BinaryIO:
    """Return the content of the compressed file at `path`, which `file` decompresses, buffered and bounded."""
    return cast(BinaryIO, io.BufferedReader(_Unpacked(file, path, read_limits), 2**18))
