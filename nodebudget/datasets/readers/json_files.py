"""JARVIS-style JSON: a list of entries (.json, .json.gz, .json.zip), or one entry per line (.jsonl, .jsonl.gz)."""

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

from nodebudget.datasets.read_limits import ReadLimits, unpacked
from nodebudget.datasets.readers.json_stream import NotAListError, decode_json, elements, lines, parse_json
from nodebudget.datasets.readers.source import Chunk, LazyItems, NamedSample, RecordSource, chunked, refusing
from nodebudget.errors import InputError

LIST_SUFFIXES = (".json", ".json.gz", ".zip")
LINE_SUFFIXES = (".jsonl", ".jsonl.gz", ".ndjson", ".ndjson.gz")

#: What decompressors and JSON parsers raise on files that are cut, altered or of another kind.
_DAMAGE = (OSError, EOFError, zlib.error, zipfile.BadZipFile, RuntimeError, NotImplementedError, ValueError)
#: Entries of a list among which one must have 'atoms'.
_CHECKED = 100


class JsonList(RecordSource):
    """A JSON list of dicts with `atoms`."""

    def __init__(self, path: Path, read_limits: ReadLimits) -> None:
        super().__init__(path)
        self._read_limits = read_limits
        first = [parse_json(text) for text in islice(self._texts(), _CHECKED)]
        if first and not any(isinstance(entry, dict) and "atoms" in entry for entry in first):
            raise InputError(
                f"no entry of {str(self.path)!r} has 'atoms'",
                limit="a list of dicts with 'atoms'",
                hint="name the key of the structures 'atoms'",
            )

    def chunks(self, start: int) -> Iterator[Chunk]:
        """Yield the entries from number `start` on."""
        sized = ((text, len(text)) for text in islice(self._texts(), start, None))
        yield from chunked(sized, start, decode_json)

    def items(self) -> Sequence[Any]:
        """Return the entries; all are in memory."""
        return [parse_json(text) for text in self._texts()]

    def _texts(self) -> Iterator[str]:
        with _opened(self.path, self._read_limits) as file:
            try:
                yield from elements(file, self._read_limits)
            except NotAListError as error:
                raise InputError(
                    f"{str(self.path)!r} holds a {error}",
                    limit="a list of dicts with 'atoms', as JARVIS has it",
                    hint="make it such a list, or name it .jsonl if it has one object per line",
                ) from error


class JsonLines(RecordSource):
    """One JSON object per line: a dict with `atoms`, or such atoms. Blank lines don't count."""

    def __init__(self, path: Path, read_limits: ReadLimits) -> None:
        super().__init__(path)
        self._read_limits, self._starts = read_limits, array("q")

    def chunks(self, start: int) -> Iterator[Chunk]:
        """Yield the lines from number `start` on."""
        with _opened(self.path, self._read_limits) as file:
            records = islice(lines(file, self._read_limits), start, None)
            yield from chunked(((line, size) for line, size, _ in records), start, decode_json)

    def items(self) -> Sequence[Any]:
        """Return the entries, each read when it is asked for; not of a packed file."""
        if self.path.suffix.lower() == ".gz":
            return super().items()
        with _opened(self.path, self._read_limits) as file:
            # 8 bytes per line in memory.
            self._starts = array("q", (start for _, _, start in lines(file, self._read_limits)))
        return LazyItems(len(self._starts), self._read)

    def _read(self, index: int) -> NamedSample:
        with self.path.open("rb") as file:
            file.seek(self._starts[index])
            return decode_json(file.readline(self._read_limits.max_record + 1))


@contextmanager
def _opened(path: Path, read_limits: ReadLimits) -> Generator[BinaryIO, None, None]:
    with refusing(path, "JSON", _DAMAGE), path.open("rb") as raw:
        if path.suffix.lower() == ".gz":
            with gzip.GzipFile(fileobj=raw) as packed, unpacked(packed, path, read_limits) as file:
                yield file
        elif path.suffix.lower() == ".zip":
            with zipfile.ZipFile(raw) as archive, archive.open(_only_json(archive, path)) as member:
                yield unpacked(member, path, read_limits)
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
