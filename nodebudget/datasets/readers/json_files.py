"""JARVIS-style JSON: a list of entries (.json, .json.gz, .json.zip), or an entry a line (.jsonl, .jsonl.gz)."""

from __future__ import annotations

import gzip
import zipfile
import zlib
from array import array
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from nodebudget.datasets.counting.neighbors import UnusableError
from nodebudget.datasets.read_limits import Bounds, unpacked
from nodebudget.datasets.readers.json_stream import NoListError, decode_json, elements, lines
from nodebudget.datasets.readers.source import Chunk, Source, grouped
from nodebudget.errors import CrystalError, InputError

LIST_SUFFIXES = (".json", ".json.gz", ".zip")
LINE_SUFFIXES = (".jsonl", ".jsonl.gz", ".ndjson", ".ndjson.gz")

#: What decompressors raise on files that are cut, altered or of another kind.
_DAMAGE = (OSError, EOFError, zlib.error, zipfile.BadZipFile, RuntimeError, NotImplementedError)
#: Entries of a list among which one must have 'atoms'.
_LOOKED_AT = 100


class JsonList(Source):
    """A JSON list of dicts with `atoms`."""

    def __init__(self, path: Path, bounds: Bounds) -> None:
        super().__init__(path)
        self._bounds = bounds
        self._look()

    def chunks(self, start: int) -> Iterator[Chunk]:
        """Yield the entries from number `start` on."""
        sized = ((text, len(text)) for text in islice(self._texts(), start, None))
        yield from grouped(sized, start, decode_json)

    def items(self) -> Sequence[Any]:
        """Return the entries; all are in memory."""
        return [entry for _, entry in decode_json(self._texts())]

    def _texts(self) -> Iterator[str]:
        with _reading(self.path, self._bounds) as file:
            yield from elements(file, self._bounds)

    def _look(self) -> None:
        first = [entry for _, entry in decode_json(islice(self._texts(), _LOOKED_AT))]
        if first and not any(isinstance(entry, dict) and "atoms" in entry for entry in first):
            raise InputError(
                f"no entry of {str(self.path)!r} has 'atoms'",
                limit="a list of dicts with 'atoms'",
                hint="name the key of the structures 'atoms'",
            )


class JsonLines(Source):
    """A JSON object with `atoms`, or one that is such atoms, a line. Blank lines don't count."""

    def __init__(self, path: Path, bounds: Bounds) -> None:
        super().__init__(path)
        self._bounds = bounds
        self._packed = path.suffix.lower() == ".gz"

    def chunks(self, start: int) -> Iterator[Chunk]:
        """Yield the lines from number `start` on."""
        with _reading(self.path, self._bounds) as file:
            found = islice(lines(file, self._bounds), start, None)
            yield from grouped(((line, size) for line, size, _ in found), start, decode_json)

    def items(self) -> Sequence[Any]:
        """Return the entries, each read when it is asked for; not of a packed file."""
        return super().items() if self._packed else _Lines(self.path, self._bounds)


class _Lines(Sequence[Any]):
    """The lines of a file, found by where they start: 8 bytes a line in memory."""

    def __init__(self, path: Path, bounds: Bounds) -> None:
        self._path, self._limit = path, bounds.record
        with _reading(path, bounds) as file:
            self._starts = array("q", (start for _, _, start in lines(file, bounds)))

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, index: Any) -> Any:
        # Opened anew each time, so that it works in forked and spawned processes and in threads.
        with self._path.open("rb") as file:
            file.seek(self._starts[index])
            [(_, entry)] = decode_json([file.readline(self._limit + 1)])
        if isinstance(entry, UnusableError):
            raise CrystalError(index, "", str(entry))
        return entry


@contextmanager
def _reading(path: Path, bounds: Bounds) -> Generator[BinaryIO, None, None]:
    """Open a file, unpacked, and say in one sentence what is wrong with it."""
    try:
        with _opened(path, bounds) as file:
            yield file
    except NoListError as error:
        raise InputError(
            f"{str(path)!r} holds a {error}",
            limit="a list of dicts with 'atoms', as JARVIS has it",
            hint="turn it into such a list, or name it .jsonl if it has an object a line",
        ) from error
    except InputError:
        raise
    except (*_DAMAGE, ValueError) as error:
        raise InputError(
            f"{str(path)!r} holds no JSON: {' '.join(str(error).split())[:150]}", hint="check that it is whole"
        ) from error


@contextmanager
def _opened(path: Path, bounds: Bounds) -> Generator[BinaryIO, None, None]:
    with path.open("rb") as raw:
        if path.suffix.lower() == ".gz":
            with gzip.GzipFile(fileobj=raw) as packed, unpacked(packed, path, bounds) as file:
                yield file
        elif path.suffix.lower() == ".zip":
            with zipfile.ZipFile(raw) as archive, archive.open(_only_json(archive, path)) as member:
                yield unpacked(member, path, bounds)
        else:
            yield raw


def _only_json(archive: zipfile.ZipFile, path: Path) -> str:
    names = [name for name in archive.namelist() if name.endswith(".json") and not name.startswith("__MACOSX")]
    if len(names) != 1:
        raise InputError(
            f"{str(path)!r} holds {len(names)} .json files",
            limit="exactly one",
            hint="unpack it and name the file that you mean",
        )
    return names[0]
