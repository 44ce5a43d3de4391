"""A folder that alignn trains on, with an id_prop.csv and the structure files that it names; or of structure files."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from nodebudget.datasets.read_limits import ReadLimits
from nodebudget.datasets.readers.source import Chunk, LazyItems, NamedSample, RecordSource, chunked
from nodebudget.datasets.readers.structure_file import parse_structure
from nodebudget.datasets.sample_error import SampleError
from nodebudget.errors import InputError

#: Name and content of a file, or why it can't be read.
_Record = tuple[str, "bytes | SampleError", ReadLimits]


class Folder(RecordSource):
    """Structure files in a folder.

    Args:
        path: The folder.
        names: Names of the files; None: those that its id_prop.csv lists.
        read_limits: How large they may be.
    """

    def __init__(self, path: Path, names: list[str] | None, read_limits: ReadLimits) -> None:
        super().__init__(path)
        self._read_limits = read_limits
        lists = [path / "id_prop.csv"] if names is None else []
        self._names = _listed(lists[0]) if names is None else names
        self.files = [*lists, *(path / name for name in self._names)]

    def count(self) -> int:
        """Return the number of files."""
        return len(self._names)

    def chunks(self, start: int) -> Iterator[Chunk]:
        """Yield the files from number `start` on, to be parsed by the worker."""
        records = map(self._record, range(start, len(self._names)))
        sized = ((record, len(record[1]) if isinstance(record[1], bytes) else 0) for record in records)
        yield from chunked(sized, start, _decode_file)

    def items(self) -> Sequence[Any]:
        """Return the files as JARVIS-style dicts, each read when it is asked for."""
        return LazyItems(len(self._names), self._read)

    def _read(self, index: int) -> NamedSample:
        return _decode_file(self._record(index))

    def _record(self, index: int) -> _Record:
        name = self._names[index]
        return name, _content(self.path / name, self._read_limits), self._read_limits


def _decode_file(record: _Record) -> NamedSample:
    name, content, read_limits = record
    atoms = parse_structure(name, content, read_limits)
    return name, atoms if isinstance(atoms, SampleError) else {"jid": name, "atoms": atoms}


def _content(path: Path, read_limits: ReadLimits) -> bytes | SampleError:
    try:
        # A named pipe or a device in a dataset would be read forever.
        if not path.is_file():
            return SampleError(f"there is no file {str(path)!r}")
        if (size := path.stat().st_size) > read_limits.max_record:
            return SampleError(read_limits.too_large(size))
        with path.open("rb") as file:
            return file.read(read_limits.max_record + 1)
    except OSError as error:
        return SampleError(f"{str(path)!r} can't be read: {error.strerror}")


def _listed(path: Path) -> list[str]:
    try:
        with path.open(encoding="utf-8", newline="") as text:
            return [row[0].strip() for row in csv.reader(text) if row and row[0].strip()]
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(
            f"{str(path)!r} can't be read: {error}", hint="write one line per crystal: file,target"
        ) from error
