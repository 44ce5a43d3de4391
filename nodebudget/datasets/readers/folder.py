"""A folder that alignn trains on: an id_prop.csv and the structure files that it names; or just structure files."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from nodebudget.datasets.counting.neighbors import UnusableError
from nodebudget.datasets.read_limits import Bounds
from nodebudget.datasets.readers.source import Chunk, Named, Source, grouped
from nodebudget.datasets.readers.structure_file import read_structure
from nodebudget.errors import CrystalError, InputError


class Folder(Source):
    """Structure files in a folder.

    Args:
        path: The folder.
        names: Names of the files; None: those that an id_prop.csv lists.
        bounds: How large they may be.
    """

    def __init__(self, path: Path, names: list[str] | None, bounds: Bounds) -> None:
        super().__init__(path)
        self._bounds = bounds
        listed = [path / "id_prop.csv"] if names is None else []
        self.names = _names_in(listed[0]) if names is None else names
        self.files = [*listed, *(path / name for name in self.names)]

    def count(self) -> int | None:
        """Return the number of files."""
        return len(self.names)

    def chunks(self, start: int) -> Iterator[Chunk]:
        """Yield the files from number `start` on, to be parsed by the worker."""
        contents = ((name, _content(self.path / name, self._bounds), self._bounds) for name in self.names[start:])
        yield from grouped(((item, len(item[1])) for item in contents), start, decode_files)

    def items(self) -> Sequence[Any]:
        """Return the files as JARVIS-style dicts, each read when it is asked for."""
        return _Files(self.path, self.names, self._bounds)


class _Files(Sequence[Any]):
    """Structure files in any order."""

    def __init__(self, folder: Path, names: list[str], bounds: Bounds) -> None:
        self._folder, self._names, self._bounds = folder, names, bounds

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: Any) -> Any:
        name = self._names[index]
        [(_, sample)] = decode_files([(name, _content(self._folder / name, self._bounds), self._bounds)])
        if isinstance(sample, UnusableError):
            raise CrystalError(index, name, str(sample))
        return sample


def decode_files(payload: Iterable[tuple[str, bytes | str, Bounds]]) -> Iterator[Named]:
    """Parse structure files; where there is a text instead of bytes, it is the reason why there are none."""
    for name, content, bounds in payload:
        yield name, _parsed(name, content, bounds)


def _parsed(name: str, content: bytes | str, bounds: Bounds) -> Any:
    if isinstance(content, str):
        return UnusableError(content)
    try:
        return {"jid": name, "atoms": read_structure(name, content, bounds)}
    except UnusableError as error:
        return error


def _content(path: Path, bounds: Bounds) -> bytes | str:
    try:
        # A named pipe or a device in a dataset would be read for ever.
        if not path.is_file():
            return f"there is no file {str(path)!r}"
        if (size := path.stat().st_size) > bounds.record:
            return bounds.too_large(size)
        with path.open("rb") as file:
            return file.read(bounds.record + 1)
    except OSError as error:
        return f"{str(path)!r} can't be read: {error.strerror}"


def _names_in(path: Path) -> list[str]:
    try:
        with path.open(encoding="utf-8", newline="") as text:
            return [row[0].strip() for row in csv.reader(text) if row and row[0].strip()]
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"{str(path)!r} can't be read: {error}", hint="one line a crystal: file,target") from error
