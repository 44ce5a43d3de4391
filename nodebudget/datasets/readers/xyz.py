"""XYZ and extended XYZ files of any number of frames, streamed, with the cell and the boundary conditions of each."""

from __future__ import annotations

import gzip
import re
import zlib
from array import array
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from nodebudget.datasets.counting.structures import atomic_symbols, boxed
from nodebudget.datasets.read_limits import ReadLimits, unpacked
from nodebudget.datasets.readers.source import Chunk, LazyItems, NamedSample, RecordSource, chunked, refusing
from nodebudget.datasets.sample_error import SampleError
from nodebudget.errors import first_line

SUFFIXES = (".extxyz", ".xyz", ".extxyz.gz", ".xyz.gz")

_DAMAGE = (OSError, EOFError, zlib.error, ValueError)
#: Bytes of a line of a frame.
_MAX_LINE = 2**20
_PAIR = re.compile(r"""([\w.-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|'([^']*)'|\{([^}]*)\}|\[([^\]]*)\]|(\S+))""")
_BOOLEANS = {word: word[0] in "tT1" for word in ("T", "F", "true", "false", "True", "False", "TRUE", "FALSE", "1", "0")}

#: A frame as it stands in its file, or why it can't be read; its length and its start in bytes.
_Frame = tuple["bytes | SampleError", int, int]


class Xyz(RecordSource):
    """The frames of an .xyz or .extxyz file, also packed with gzip.

    Attributes:
        label: Name of the first frame, and start of the names of the others; None: they have none.
    """

    def __init__(self, path: Path, read_limits: ReadLimits) -> None:
        super().__init__(path, read_limits)
        self.label: str | None = None
        self._starts = array("q")

    def chunks(self, start: int) -> Iterator[Chunk]:
        with _opened(self.path, self.read_limits) as file:
            records = islice(enumerate(frames(file, self.read_limits)), start, None)
            named = (((self._name(number), frame), size) for number, (frame, size, _) in records)
            yield from chunked(named, start, decode_frame)

    def items(self) -> Sequence[Any]:
        """Return the frames as JARVIS-style dicts, each read when it is asked for; not of a packed file."""
        if self.path.suffix.lower() == ".gz":
            return super().items()
        with _opened(self.path, self.read_limits) as file:
            self._starts = array("q", (start for _, _, start in frames(file, self.read_limits)))
        return LazyItems(len(self._starts), self._read)

    def _read(self, index: int) -> NamedSample:
        with self.path.open("rb") as file:
            file.seek(self._starts[index])
            return decode_frame((self._name(index), next(frames(file, self.read_limits))[0]))

    def _name(self, number: int) -> str | None:
        return None if self.label is None else frame_name(self.label, number)


def frame_name(label: str, number: int) -> str:
    """Return the name of a frame of the file of this name."""
    return f"{label}:{number}" if number else label


@contextmanager
def _opened(path: Path, read_limits: ReadLimits) -> Generator[BinaryIO, None, None]:
    with refusing(path, "XYZ", _DAMAGE), path.open("rb") as raw:
        if path.suffix.lower() == ".gz":
            with gzip.GzipFile(fileobj=raw) as packed, unpacked(packed, path, read_limits) as file:
                yield file
        else:
            yield raw


def frames(file: Any, read_limits: ReadLimits) -> Iterator[_Frame]:
    """Yield the frames of an open file from where it stands; in place of a damaged one, and of what follows, why."""
    place = 0
    try:
        for frame, size, place in _frames(file, read_limits):
            yield frame, size, place
            place += size
    except ValueError as error:
        yield SampleError(str(error)), 0, place


def _frames(file: Any, read_limits: ReadLimits) -> Iterator[_Frame]:
    place = number = line = 0
    while head := file.readline(_MAX_LINE):
        if not head.strip():
            _check_end(file, line)
            return
        try:
            count = int(head)
        except ValueError:
            raise ValueError(
                f"line {line + 1}, where frame {number} starts, is {head[:40]!r} and not a number of atoms"
            ) from None
        if count < 0:
            raise ValueError(f"line {line + 1}: frame {number} has {count} atoms")
        parts, size, start = [head], len(head), place
        comment = file.readline(_MAX_LINE)
        # QM9's own files have three more lines.
        more = 3 if comment.startswith(b"gdb ") else 0
        for row in range(-1, count + more):
            text = comment if row < 0 else file.readline(_MAX_LINE)
            if not text and (row >= 0 or count):
                raise ValueError(f"frame {number} ends after {max(row, 0)} of {count} atoms: the file is cut")
            size += len(text)
            if size <= read_limits.max_record and row < count:
                parts.append(text)
        line, place, number = line + 2 + count + more, place + size, number + 1
        too_large = size > read_limits.max_record
        yield SampleError(read_limits.too_large(size)) if too_large else b"".join(parts), size, start


def decode_frame(record: tuple[str | None, bytes | SampleError]) -> NamedSample:
    """Make a JARVIS-style dict of a frame with its name."""
    name, frame = record
    if isinstance(frame, SampleError):
        return name, frame
    try:
        atoms = _parsed(frame.decode())
    except SampleError as error:
        return name, error
    except (ValueError, IndexError, OverflowError) as error:
        return name, SampleError(f"its frame is damaged: {first_line(error)}")
    return name, {"atoms": atoms} if name is None else {"jid": name, "atoms": atoms}


def _parsed(text: str) -> dict[str, Any]:
    head, comment, *rows = text.split("\n")
    about = {match[1]: next(value for value in match.groups()[1:] if value is not None) for match in _pairs(comment)}
    columns = _columns(about.get("Properties", "species:S:1:pos:R:3"))
    # Fortran's exponents, and those of QM9.
    values = [row.replace("*^", "e").split() for row in rows[: int(head)]]
    if not values:
        raise SampleError("it has no atoms")
    start, _ = columns["pos"]
    short = next((number for number, row in enumerate(values) if len(row) < start + 3), None)
    if short is not None:
        raise SampleError(f"the line of its atom {short} has {len(values[short])} columns, of {start + 3} or more")
    positions = np.array([row[start : start + 3] for row in values], dtype=np.float64)
    if "Z" in columns:
        symbols = atomic_symbols([int(row[columns["Z"][0]]) for row in values])
    else:
        symbols = [row[columns["species"][0]].capitalize() for row in values]
    cell = None
    if "Lattice" in about:
        cell = np.array(about["Lattice"].replace(",", " ").split(), dtype=np.float64).reshape(3, 3)
    return boxed(symbols, positions, cell, _boundaries(about.get("pbc"), cell))


def _pairs(comment: str) -> Iterator[re.Match[str]]:
    if len(comment) > 2**16:  # a search for what is not there takes time that grows with the square
        comment = " ".join(part for key in ("Lattice", "Properties", "pbc") for part in _around(comment, key))
    return _PAIR.finditer(comment)


def _around(comment: str, key: str) -> Iterator[str]:
    place = comment.find(f"{key}=")
    if place >= 0:
        yield comment[place : place + 4096]


def _columns(properties: str) -> dict[str, tuple[int, int]]:
    """Return the first column and the number of columns of each property: name:type:columns, one after the other."""
    words, columns, place = properties.split(":"), dict[str, tuple[int, int]](), 0
    for name, width in zip(words[::3], words[2::3], strict=False):
        columns[name] = (place, int(width))
        place += int(width)
    if "pos" not in columns or not {"species", "Z"} & columns.keys():
        raise SampleError(f"its Properties are {properties[:80]!r}, without 'pos' and 'species'")
    return columns


def _boundaries(text: str | None, cell: Any) -> Any:
    if text is None:
        return cell is not None
    words = text.replace(",", " ").split()
    if len(words) not in (1, 3) or not all(word in _BOOLEANS for word in words):
        raise SampleError(f"its pbc is {text[:40]!r}, not three of T and F")
    return [_BOOLEANS[word] for word in words]


def _check_end(file: Any, line: int) -> None:
    """Raise a ValueError where something follows a blank line, which ASE takes for the end."""
    for number, text in enumerate(iter(lambda: file.readline(_MAX_LINE), b""), start=line + 2):
        if text.strip():
            raise ValueError(f"line {line + 1} is blank, where ASE takes the file for ended, but line {number} is not")
