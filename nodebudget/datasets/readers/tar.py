"""Tar archives of structure files or JARVIS entries, webdataset shards among them. Nothing is ever extracted to disk.

A sample is defined as in webdataset: consecutive members that share the name up to the first dot of its last part.
Of these the structure file is read, all frames of an .xyz among them, or else the .json; pickles and other members
never are.
"""

from __future__ import annotations

import gzip
import posixpath
import tarfile
import zlib
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from nodebudget.datasets.counting.rows import entry_id
from nodebudget.datasets.read_limits import ReadLimits, unpacked
from nodebudget.datasets.readers.json_files import decode_json
from nodebudget.datasets.readers.source import Chunk, LazyItems, NamedSample, RecordSource, chunked, refusing
from nodebudget.datasets.readers.structure_files import is_structure_file
from nodebudget.datasets.readers.structure_text import parse_structure
from nodebudget.datasets.readers.xyz import decode_frame, frame_name, frames
from nodebudget.datasets.sample_error import SampleError

SUFFIXES = (".tar", ".tar.gz", ".tgz")
#: Members of which each frame is a sample.
_XYZ = (".xyz", ".extxyz")

#: Bytes of a header, with the names and attributes of a member. tarfile reads a header whole, however long it claims
#: to be, and some versions search it in time that grows with the square.
_MAX_HEADER = 2**14
#: What tarfile and decompressors raise on archives that are cut or altered.
_DAMAGE = (tarfile.TarError, OSError, EOFError, zlib.error, ValueError, OverflowError)


@dataclass(frozen=True)
class _Member:
    """A member that may be a crystal: its name, and where its bytes are; once they are read, its content.

    Of an .xyz, the name has the number of the frame, and the bytes are those of the frame.
    """

    name: str
    start: int
    size: int
    content: bytes | SampleError = b""
    is_frame: bool = False


class Tar(RecordSource):
    """The samples of a tar archive."""

    def __init__(self, path: Path, read_limits: ReadLimits) -> None:
        super().__init__(path, read_limits)
        self._members: list[_Member] = []

    def chunks(self, start: int) -> Iterator[Chunk]:
        with _opened(self.path, self.read_limits) as file:
            samples = islice(_samples(file, self.read_limits), start, None)
            yield from chunked((((member, self.read_limits), member.size) for member in samples), start, _decode_member)

    def items(self) -> Sequence[Any]:
        """Return the samples as JARVIS-style dicts, each read when it is asked for; not of a packed archive."""
        if not self.path.name.lower().endswith(".tar"):
            return super().items()
        with _opened(self.path, self.read_limits) as file:
            self._members = list(_samples(file, None))
        return LazyItems(len(self._members), self._read)

    def _read(self, index: int) -> NamedSample:
        member = self._members[index]
        if isinstance(member.content, SampleError):
            return member.name, member.content
        with self.path.open("rb") as file:
            file.seek(member.start)
            content = file.read(min(member.size, self.read_limits.max_record + 1))
        return _decode_member((replace(member, content=content), self.read_limits))


def _decode_member(record: tuple[_Member, ReadLimits]) -> NamedSample:
    """Make a JARVIS-style dict; without an id of its own, it is named as webdataset would name it."""
    member, read_limits = record
    key = _key(member.name)
    if member.is_frame:
        return decode_frame((member.name, member.content))
    if member.name.lower().endswith(".json"):
        sample = decode_json((None, member.content), read_limits.structures)[1]
        if isinstance(sample, dict) and "atoms" not in sample:
            sample = {"atoms": sample}
    else:
        atoms = parse_structure(posixpath.basename(member.name), member.content, read_limits)
        sample = atoms if isinstance(atoms, SampleError) else {"atoms": atoms}
    name = entry_id(sample)
    if isinstance(sample, dict) and name is None:
        sample = {"jid": key, **sample}
    return name or key, sample


def _key(name: str) -> str:
    folder, base = posixpath.split(name)
    return posixpath.join(folder, base.split(".")[0])


def _samples(file: _BoundedHeaders, read_limits: ReadLimits | None) -> Iterator[_Member]:
    """Yield the one member of each sample that is read; with limits, together with its content."""
    best: _Member | None = None
    for member in _members(file):
        same = best is not None and _key(best.name) == _key(member.name)
        if best is not None and same and (_is_structure(best.name) or not _is_structure(member.name)):
            continue
        if best is not None and not same and not best.is_frame:
            yield best
        if member.name.lower().endswith(_XYZ):
            label, best = _key(member.name), replace(member, is_frame=True)
            for number, (frame, size, start) in enumerate(frames(file.lines(member), read_limits or ReadLimits())):
                content = frame if read_limits is not None or isinstance(frame, SampleError) else b""
                yield _Member(frame_name(label, number), member.start + start, size, content, is_frame=True)
            continue
        # Read before the next header: to go back in a packed file means to unpack it again from its start.
        best = member if read_limits is None else replace(member, content=file.content(member, read_limits))
    if best is not None and not best.is_frame:
        yield best


def _members(file: _BoundedHeaders) -> Iterator[_Member]:
    """Yield the members that may hold a crystal: regular files, not links; raise ValueError over a damaged archive."""
    with tarfile.open(fileobj=file, mode="r:") as archive:  # type: ignore[call-overload]
        last = 0
        while (info := archive.next()) is not None:
            # tarfile would keep all that it has seen, and follow a negative size back forever.
            archive.members = []
            if archive.offset <= last or info.size < 0:
                raise ValueError(f"the size of {info.name!r} is {info.size}")
            last = archive.offset
            hidden = posixpath.basename(info.name).startswith(".")
            is_crystal = info.name.lower().endswith(".json") or _is_structure(info.name)
            if info.isreg() and not info.issparse() and not hidden and is_crystal:
                yield _Member(info.name, info.offset_data, info.size)
        # tarfile takes a damaged header for the end.
        file.seek(archive.offset)
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise ValueError("it is cut or damaged: the mark of its end is missing")


def _is_structure(name: str) -> bool:
    return is_structure_file(name) or name.lower().endswith(_XYZ)


class _BoundedHeaders:
    """A file of which tarfile can't read more at once than a header may have."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.tell, self.seek = file.tell, file.seek

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _MAX_HEADER:
            raise ValueError(f"a header of {size} bytes")
        return self._file.read(size)

    def lines(self, member: _Member) -> _Lines:
        self.seek(member.start)
        return _Lines(self._file, member.size)

    def content(self, member: _Member, read_limits: ReadLimits) -> bytes | SampleError:
        if member.size > read_limits.max_record:
            return SampleError(read_limits.too_large(member.size))
        self.seek(member.start)
        content = self._file.read(member.size)
        if len(content) < member.size:
            raise ValueError("it ends in the middle of a file")
        return content


class _Lines:
    """The lines of the member at which a file stands."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._left = file, size

    def readline(self, size: int) -> bytes:
        line = self._file.readline(min(size, self._left))
        if self._left and not line:
            raise EOFError("it ends in the middle of a file")
        self._left -= len(line)
        return line


@contextmanager
def _opened(path: Path, read_limits: ReadLimits) -> Generator[_BoundedHeaders, None, None]:
    with refusing(path, "a tar archive", _DAMAGE), path.open("rb") as raw:
        if path.name.lower().endswith(".tar"):
            yield _BoundedHeaders(raw)
        else:
            with gzip.GzipFile(fileobj=raw) as packed, unpacked(packed, path, read_limits) as file:
                yield _BoundedHeaders(file)
