"""Tar archives of structure files or JARVIS entries, webdataset shards among them. Nothing is ever extracted to disk.

A sample is what webdataset takes for one: members that follow each other and share the name up to the first dot of its
last part. Of these the structure file is read, or else the .json; pickles and other members never are.
"""

from __future__ import annotations

import gzip
import posixpath
import tarfile
import zlib
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from nodebudget.datasets.counting.neighbors import UnusableError
from nodebudget.datasets.counting.rows import entry_id
from nodebudget.datasets.read_limits import Bounds, unpacked
from nodebudget.datasets.readers.json_stream import decode_json
from nodebudget.datasets.readers.source import Chunk, Named, Source, grouped
from nodebudget.datasets.readers.structure_file import SUFFIXES as STRUCTURES
from nodebudget.datasets.readers.structure_file import read_structure
from nodebudget.errors import CrystalError, InputError

SUFFIXES = (".tar", ".tar.gz", ".tgz")

#: Bytes of a header: names and attributes of a member. tarfile reads a header whole, however long it says it is, and
#: some versions search it in time that grows with the square.
_HEADER = 2**14


@dataclass(frozen=True)
class _Member:
    """A member that may be a crystal: its name, where its bytes start, how many there are, and what they are."""

    name: str
    start: int
    size: int
    content: bytes | UnusableError = b""


class Tar(Source):
    """The samples of a tar archive."""

    def __init__(self, path: Path, bounds: Bounds) -> None:
        super().__init__(path)
        self._bounds = bounds
        self._packed = not path.name.lower().endswith(".tar")

    def chunks(self, start: int) -> Iterator[Chunk]:
        """Yield the samples from number `start` on."""
        with _reading(self.path, self._bounds) as file:
            samples = islice(_samples(file, self._bounds), start, None)
            records = (((found.name, found.content, self._bounds), found.size) for found in samples)
            yield from grouped(records, start, decode_members)

    def items(self) -> Sequence[Any]:
        """Return the samples as JARVIS-style dicts, each read when it is asked for; not of a packed archive."""
        if self._packed:
            return super().items()
        with _reading(self.path, self._bounds) as file:
            return _Members(self.path, list(_samples(file, None)), self._bounds)


class _Members(Sequence[Any]):
    """Samples in any order. The file is opened anew each time, for the sake of forked processes and threads."""

    def __init__(self, path: Path, members: list[_Member], bounds: Bounds) -> None:
        self._path, self._members, self._bounds = path, members, bounds

    def __len__(self) -> int:
        return len(self._members)

    def __getitem__(self, index: Any) -> Any:
        member = self._members[index]
        with self._path.open("rb") as file:
            file.seek(member.start)
            content = file.read(min(member.size, self._bounds.record + 1))
        [(name, sample)] = decode_members([(member.name, content, self._bounds)])
        if isinstance(sample, UnusableError):
            raise CrystalError(index, name or "", str(sample))
        return sample


def decode_members(payload: Iterable[tuple[str, Any, Bounds]]) -> Iterator[Named]:
    """Make JARVIS-style dicts of members; without an id of its own, a sample is named as webdataset would name it."""
    for name, content, bounds in payload:
        sample = content if isinstance(content, UnusableError) else _sample(name, content, bounds)
        if isinstance(sample, dict) and "atoms" not in sample:
            sample = {"atoms": sample}
        own = entry_id(sample)
        if isinstance(sample, dict) and own is None:
            sample = {"jid": _key(name), **sample}
        yield own or _key(name), sample


def _sample(name: str, content: bytes, bounds: Bounds) -> Any:
    if name.lower().endswith(".json"):
        [(_, entry)] = decode_json([content])
        return entry
    try:
        return {"atoms": read_structure(posixpath.basename(name), content, bounds)}
    except UnusableError as error:
        return error


def _key(name: str) -> str:
    folder, base = posixpath.split(name)
    return posixpath.join(folder, base.split(".")[0])


def _samples(file: _Guarded, bounds: Bounds | None) -> Iterator[_Member]:
    """Yield the one member of each sample that is read; with bounds, together with its content."""
    best: _Member | None = None
    for member in _members(file):
        same = best is not None and _key(best.name) == _key(member.name)
        if best is not None and same and (_is_structure(best.name) or not _is_structure(member.name)):
            continue
        if best is not None and not same:
            yield best
        # At once, before the next header is read: going back in a packed file means to start anew.
        best = member if bounds is None else replace(member, content=file.content(member.start, member.size, bounds))
    if best is not None:
        yield best


def _members(file: _Guarded) -> Iterator[_Member]:
    """Yield the members that may hold a crystal: plain files, not links to something else.

    Raises:
        ValueError: The archive is cut or damaged.
    """
    with tarfile.open(fileobj=file, mode="r:") as archive:  # type: ignore[call-overload]
        last = 0
        while (found := archive.next()) is not None:
            # tarfile would keep all that it has seen, and follow a negative size back for ever.
            archive.members = []
            if archive.offset <= last or found.size < 0:
                raise ValueError(f"the size of {found.name!r} is {found.size}")
            last = archive.offset
            hidden = posixpath.basename(found.name).startswith(".")
            if found.isreg() and not found.issparse() and not hidden and _is_crystal(found.name):
                yield _Member(found.name, found.offset_data, found.size)
        # tarfile takes a damaged header for the end.
        file.seek(archive.offset)
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise ValueError("it is cut or damaged: there is no mark of its end")


def _is_structure(name: str) -> bool:
    base = posixpath.basename(name).lower()
    return base.endswith(STRUCTURES) or base.startswith(("poscar", "contcar"))


def _is_crystal(name: str) -> bool:
    return name.lower().endswith(".json") or _is_structure(name)


class _Guarded:
    """A file that lets tarfile read no more at once than a header may have."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.tell, self.seek = file.tell, file.seek

    def read(self, size: int = -1) -> bytes:
        """Read.

        Raises:
            ValueError: Too much is asked for.
        """
        if not 0 <= size <= _HEADER:
            raise ValueError(f"a header of {size} bytes")
        return self._file.read(size)

    def content(self, start: int, size: int, bounds: Bounds) -> bytes | UnusableError:
        """Read a member.

        Raises:
            ValueError: The file ends before the member does.
        """
        if size > bounds.record:
            return UnusableError(bounds.too_large(size))
        self.seek(start)
        found = self._file.read(size)
        if len(found) < size:
            raise ValueError("it ends in the middle of a file")
        return found


@contextmanager
def _reading(path: Path, bounds: Bounds) -> Generator[_Guarded, None, None]:
    try:
        with path.open("rb") as raw:
            if path.name.lower().endswith(".tar"):
                yield _Guarded(raw)
            else:
                with gzip.GzipFile(fileobj=raw) as packed, unpacked(packed, path, bounds) as file:
                    yield _Guarded(file)
    except InputError:
        raise
    except (tarfile.TarError, OSError, EOFError, zlib.error, ValueError, OverflowError) as error:
        raise InputError(
            f"{str(path)!r} can't be read as a tar archive: {' '.join(str(error).split())[:150]}",
            hint="check that it is whole",
        ) from error
