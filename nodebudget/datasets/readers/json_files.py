"""Structures as JSON, streamed: one document (.json, also .gz and .zip), or one entry per line (.jsonl, .jsonl.gz)."""

from __future__ import annotations

import gzip
import json
import zipfile
import zlib
from array import array
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from nodebudget.datasets.counting.rows import entry_id
from nodebudget.datasets.counting.structures import jarvis_entry
from nodebudget.datasets.read_limits import ReadLimits, unpacked
from nodebudget.datasets.readers.json_stream import Layout, find_layout, records
from nodebudget.datasets.readers.source import Chunk, LazyItems, NamedSample, RecordSource, chunked, refusing
from nodebudget.datasets.sample_error import SampleError
from nodebudget.errors import InputError, first_line

LIST_SUFFIXES = (".json", ".json.gz", ".zip")
LINE_SUFFIXES = (".jsonl", ".jsonl.gz", ".ndjson", ".ndjson.gz")

#: What decompressors and JSON parsers raise on files that are cut, altered or of another kind.
_DAMAGE = (OSError, EOFError, zlib.error, zipfile.BadZipFile, RuntimeError, NotImplementedError, ValueError)
#: Consecutive blank lines at which a file is refused.
_MAX_BLANK = 100_000
#: Bytes to read at once.
_BLOCK = 2**18


class JsonList(RecordSource):
    """A JSON file of structures: a list, a dict by name, dicts in dicts, a table of pandas, or one structure alone."""

    def __init__(self, path: Path, read_limits: ReadLimits) -> None:
        super().__init__(path, read_limits)
        with _opened(path, read_limits) as file:
            layout = find_layout(file, read_limits)
        if isinstance(layout, str):
            raise InputError(
                f"{str(path)!r} holds a {layout}, and no structure of JARVIS ('atoms'), pymatgen, ASE or a CIF in it",
                limit="a list or dict of entries, each a structure or with one under 'atoms', 'structure' or 'cif'",
                hint="make it such a list, name the key of the structures (--structures KEY), or name it .jsonl if it "
                "has one object per line",
            )
        self._layout = layout
        self._decode = partial(decode_json, structures=read_limits.structures, layout=layout)
        self._samples: list[NamedSample] = []

    def chunks(self, start: int) -> Iterator[Chunk]:
        sized = ((record, len(record[1])) for record in islice(self._records(), start, None))
        yield from chunked(sized, start, self._decode)

    def items(self) -> Sequence[Any]:
        """Return the entries; all are in memory."""
        self._samples = [self._decode(record) for record in self._records()]
        return LazyItems(len(self._samples), self._samples.__getitem__)

    def _records(self) -> Iterator[tuple[str | None, str]]:
        with _opened(self.path, self.read_limits) as file:
            yield from records(file, self._layout, self.read_limits)


class JsonLines(RecordSource):
    """One JSON object per line: a dict with `atoms`, or such atoms. Blank lines don't count."""

    def __init__(self, path: Path, read_limits: ReadLimits) -> None:
        super().__init__(path, read_limits)
        self._starts = array("q")
        self._decode = partial(decode_json, structures=read_limits.structures)

    def chunks(self, start: int) -> Iterator[Chunk]:
        with _opened(self.path, self.read_limits) as file:
            rows = islice(lines(file, self.read_limits), start, None)
            yield from chunked((((None, line), size) for line, size, _ in rows), start, self._decode)

    def items(self) -> Sequence[Any]:
        """Return the entries, each read when it is asked for; not of a packed file."""
        if self.path.suffix.lower() == ".gz":
            return super().items()
        with _opened(self.path, self.read_limits) as file:
            # 8 bytes per line in memory.
            self._starts = array("q", (start for _, _, start in lines(file, self.read_limits)))
        return LazyItems(len(self._starts), self._read)

    def _read(self, index: int) -> NamedSample:
        with self.path.open("rb") as file:
            file.seek(self._starts[index])
            return self._decode((None, file.readline(self.read_limits.max_record + 1)))


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


def lines(file: BinaryIO, read_limits: ReadLimits) -> Iterator[tuple[bytes | SampleError, int, int]]:
    """Yield each line that is not blank, its length and its start in bytes; in place of one over the limit, why."""
    place = blank = 0
    while line := file.readline(read_limits.max_record + 1):
        start, size = place, len(line)
        too_long = size > read_limits.max_record and not line.endswith(b"\n")
        rest = line
        while too_long and rest and not rest.endswith(b"\n"):
            rest = file.readline(_BLOCK)
            size += len(rest)
        place += size
        if too_long:
            yield SampleError(read_limits.too_large(size)), 0, start
        elif not line.isspace():
            blank = 0
            yield line, size, start
        else:
            blank += 1
            if blank > _MAX_BLANK:  # as a bomb has them
                raise ValueError(f"{_MAX_BLANK} blank lines follow each other")


def decode_json(
    record: tuple[str | None, str | bytes | SampleError], structures: str | None = None, layout: Layout | None = None
) -> NamedSample:
    """Parse an entry with its name, if it has one besides that in it, into a JARVIS-style dict.

    `structures` is the key of its structure, `layout` tells of the document that it is a row of.
    """
    name, text = record
    sample = parse_json(text)
    try:
        if layout is not None and isinstance(sample, list):
            sample = layout.row(sample)
        entry = jarvis_entry(sample, structures)
    except SampleError as error:
        return name, error
    if name is not None and isinstance(entry, dict) and entry_id(entry) is None:
        entry = {"jid": name, **entry}
    return name, entry


def parse_json(text: str | bytes | SampleError) -> Any:
    """Return what a JSON text holds, or a `SampleError`."""
    if isinstance(text, SampleError):
        return text
    try:
        return json.loads(text)
    except RecursionError:
        return SampleError("its JSON is nested too deep")
    except ValueError as error:
        return SampleError(f"it is not JSON: {first_line(error)}")
