"""CSV with structures: a column `cif`, as MP-20 has it, or `structure` or `atoms` with JSON; streamed."""

from __future__ import annotations

import csv
from array import array
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from nodebudget.datasets.counting.rows import entry_id
from nodebudget.datasets.counting.structures import STRUCTURE_KEYS, jarvis_entry
from nodebudget.datasets.read_limits import ReadLimits
from nodebudget.datasets.readers.json_files import parse_json
from nodebudget.datasets.readers.source import Chunk, LazyItems, NamedSample, RecordSource, chunked, refusing
from nodebudget.datasets.sample_error import SampleError
from nodebudget.errors import InputError

#: Bytes of a header.
_MAX_HEADER = 2**16


def structure_column(names: Sequence[str], read_limits: ReadLimits) -> str | None:
    """Return the column of the structures, or None where there is none."""
    wanted = STRUCTURE_KEYS if read_limits.structures is None else (read_limits.structures,)
    return next((name for name in wanted if name in names), None)


def decode_row(row: Mapping[str, Any], column: str, read_limits: ReadLimits) -> Any:
    """Return a row as a JARVIS-style dict, or a `SampleError`."""
    value = row[column]
    if value is None or value == "":
        return SampleError(f"its {column!r} is empty")
    if isinstance(value, (str, bytes)) and len(value) > read_limits.max_record:
        return SampleError(read_limits.too_large(len(value)))
    try:
        text = value.decode() if isinstance(value, bytes) else value
        if column == "atoms" and isinstance(text, str) and text.lstrip().startswith("{"):
            text = parse_json(text)
        return text if isinstance(text, SampleError) else jarvis_entry({**row, column: text}, column)
    except SampleError as error:
        return error
    except UnicodeDecodeError as error:
        return SampleError(f"its {column!r} is not UTF-8: {error.reason}")


def holds_structures(path: Path, read_limits: ReadLimits) -> bool:
    """Return whether a CSV holds crystals; otherwise it is a size table."""
    with refusing(path, "CSV", (OSError, ValueError, csv.Error)), path.open("rb") as file:
        head = file.readline(_MAX_HEADER).decode("utf-8-sig")
        return structure_column(next(csv.reader([head]), []), read_limits) is not None


class Csv(RecordSource):
    """The rows of a CSV with a header and a column of structures."""

    def __init__(self, path: Path, read_limits: ReadLimits) -> None:
        super().__init__(path, read_limits)
        self._starts = array("q")
        # A cell holds a whole crystal; the limit is one of the process.
        csv.field_size_limit(max(csv.field_size_limit(), int(read_limits.max_record)))
        with path.open("rb") as file:
            self._names = next(csv.reader([file.readline(_MAX_HEADER).decode("utf-8-sig")]))
        column = structure_column(self._names, read_limits)
        if column is None:
            raise InputError(f"{str(path)!r} has no column of structures", hint="name it: --structures COLUMN")
        self._decode = partial(_decode_row, names=self._names, column=column, read_limits=read_limits)

    def chunks(self, start: int) -> Iterator[Chunk]:
        with self._reading() as file:
            sized = ((cells, sum(map(len, cells))) for cells, _ in islice(_rows(file, self.read_limits), start, None))
            yield from chunked(sized, start, self._decode)

    def items(self) -> Sequence[Any]:
        """Return the rows as JARVIS-style dicts with all columns, each read when it is asked for."""
        with self._reading() as file:
            self._starts = array("q", (place for _, place in _rows(file, self.read_limits)))
        return LazyItems(len(self._starts), self._read)

    def _read(self, index: int) -> NamedSample:
        with self._reading() as file:
            file.seek(self._starts[index])
            return self._decode(next(_rows(file, self.read_limits))[0])

    @contextmanager
    def _reading(self) -> Generator[BinaryIO, None, None]:
        with refusing(self.path, "CSV", (OSError, ValueError, csv.Error)), self.path.open("rb") as file:
            file.readline(_MAX_HEADER)
            yield file


def _rows(file: BinaryIO, read_limits: ReadLimits) -> Iterator[tuple[list[str], int]]:
    """Yield the cells of each row that is not blank, and where it starts, from where the file stands."""
    start = place = file.tell()

    def lines() -> Iterator[str]:
        nonlocal place
        while line := file.readline(int(read_limits.max_record) + 1):
            place += len(line)
            # What is not UTF-8 is refused with its row.
            yield line.decode("utf-8", "surrogateescape")

    for cells in csv.reader(lines(), strict=True):
        if cells:
            yield cells, start
        start = place


def _decode_row(cells: list[str], names: Sequence[str], column: str, read_limits: ReadLimits) -> NamedSample:
    if len(cells) != len(names):
        return None, SampleError(f"its row has {len(cells)} columns, and the header {len(names)}")
    row = dict(zip(names, cells, strict=True))
    return entry_id(row), decode_row(row, column, read_limits)
