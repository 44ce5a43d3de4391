"""Structure files in a folder: all of them, or those that an id_prop.csv lists, as alignn and CGCNN take it."""

from __future__ import annotations

import csv
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from nodebudget.datasets.read_limits import ReadLimits
from nodebudget.datasets.readers.source import Chunk, LazyItems, NamedSample, RecordSource, chunked
from nodebudget.datasets.readers.structure_text import parse_structure
from nodebudget.datasets.readers.xyz import decode_frame
from nodebudget.datasets.sample_error import SampleError
from nodebudget.errors import InputError

#: Suffixes of files with one structure; any other file that is named as one is a POSCAR.
SUFFIXES = (".cif", ".vasp", ".poscar", ".contcar")
#: Endings that an id_prop.csv may leave out, as CGCNN's do.
_ENDINGS = (*SUFFIXES, ".xyz")

#: Name of a crystal, its file, the content of it or why it can't be read.
_Record = tuple[str, str, "bytes | SampleError", ReadLimits]


def is_structure_file(name: str) -> bool:
    """Return whether a file of this name holds one structure."""
    base = Path(name).name.lower()
    return base.endswith(SUFFIXES) or base.startswith(("poscar", "contcar"))


class Folder(RecordSource):
    """Structure files in a folder: those of these names or, with None, those that its id_prop.csv lists."""

    def __init__(self, path: Path, names: list[str] | None, read_limits: ReadLimits) -> None:
        super().__init__(path, read_limits)
        lists = [path / "id_prop.csv"] if names is None else []
        self._names, self._files = _listed(lists[0]) if names is None else (names, names)
        self.files = [*lists, *(path / name for name in self._files)]

    def count(self) -> int:
        return len(self._names)

    def chunks(self, start: int) -> Iterator[Chunk]:
        records = map(self._record, range(start, len(self._names)))
        sized = ((record, len(record[1]) if isinstance(record[1], bytes) else 0) for record in records)
        yield from chunked(sized, start, _decode_file)

    def items(self) -> Sequence[Any]:
        """Return the files as JARVIS-style dicts, each read when it is asked for."""
        return LazyItems(len(self._names), self._read)

    def _read(self, index: int) -> NamedSample:
        return _decode_file(self._record(index))

    def _record(self, index: int) -> _Record:
        name, file = self._names[index], self._files[index]
        content = _content(self.path / file, self.read_limits)
        return name, file, content, self.read_limits


def _decode_file(record: _Record) -> NamedSample:
    name, file, content, read_limits = record
    if file.lower().endswith(".xyz") and isinstance(content, bytes) and (name != file or b"Lattice=" in content):
        return name, decode_frame((name, content))[1]
    # Those whose ids have no endings were made for CGCNN, which does not search for the primitive cell.
    atoms = parse_structure(file, content, read_limits, full=name != file)
    return name, atoms if isinstance(atoms, SampleError) else {"jid": name, "atoms": atoms}


def _content(path: Path, read_limits: ReadLimits) -> bytes | SampleError:
    try:
        # A named pipe or a device in a dataset would be read forever.
        if not path.is_file():
            return SampleError(
                f"{str(path)!r} does not exist, or is not a regular file (nor with an ending such as .cif)"
            )
        if (size := path.stat().st_size) > read_limits.max_record:
            return SampleError(read_limits.too_large(size))
        with path.open("rb") as file:
            return file.read(read_limits.max_record + 1)
    except OSError as error:
        return SampleError(f"{str(path)!r} can't be read: {error.strerror}")


def _listed(path: Path) -> tuple[list[str], list[str]]:
    """Return the first column of an id_prop.csv, and the files that it names, with or without their endings."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as text:
            rows = [[cell.strip() for cell in row] for row in csv.reader(text, skipinitialspace=True)]
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(
            f"{str(path)!r} can't be read: {error}", hint="write one line per crystal: file,target"
        ) from error
    rows = [row for row in rows if row and row[0]]
    present = {file.name for file in path.parent.iterdir()}
    files = [_file_of(row[0], present) for row in rows]
    is_header = len(rows) > 1 and files[0] is None and not _has_number(rows[0]) and _has_number(rows[1])
    return (
        [row[0] for row in rows[is_header:]],
        [file or row[0] for row, file in zip(rows[is_header:], files[is_header:], strict=True)],
    )


def _file_of(name: str, present: Collection[str]) -> str | None:
    """Return the file of an id; None where the folder has none, or the id is a path to another folder."""
    names = (name, *(f"{name}{ending}" for ending in _ENDINGS), f"POSCAR-{name}", f"POSCAR-{name}.vasp")
    return next((file for file in names if file in present), None)


def _has_number(row: Sequence[str]) -> bool:
    try:
        return len(row) > 1 and float(row[1]) is not None
    except ValueError:
        return False
