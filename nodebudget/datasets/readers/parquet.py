"""Parquet with structures: a column `atoms` (JSON text, or a struct as JARVIS's dicts have it), or `cif`."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from nodebudget.datasets.counting.neighbors import UnusableError
from nodebudget.datasets.counting.rows import ID_KEYS, entry_id
from nodebudget.datasets.read_limits import Bounds, Expansion
from nodebudget.datasets.readers.json_stream import decode_json
from nodebudget.datasets.readers.source import CHUNK_RECORDS, Chunk, Named, Source
from nodebudget.datasets.readers.structure_file import read_structure
from nodebudget.datasets.readers.subprocess_check import ask
from nodebudget.errors import CrystalError, InputError
from nodebudget.utils.optional_imports import require

#: Prints how many values each row group has. pyarrow ends the process where a column's statistics contradict it.
TRIAL = """
import pyarrow.parquet
with pyarrow.parquet.ParquetFile(sys.argv[1], memory_map=False) as file:
    for group in map(file.metadata.row_group, range(file.num_row_groups)):
        print(sum(group.column(index).num_values for index in range(group.num_columns)))
"""
#: Bytes of texts that are read at once.
_AT_ONCE = 64 * 2**20
#: Columns that hold a crystal, in the order in which they are looked for.
COLUMNS = ("atoms", "cif")


def holds_structures(path: Path) -> bool:
    """Say whether a Parquet file has crystals in it; otherwise it is a table of sizes.

    Raises:
        InputError: It is no Parquet.
        MissingError: pyarrow is not there.
    """
    with _opened(path) as file:
        return any(name in file.schema_arrow.names for name in COLUMNS)


class Parquet(Source):
    """A Parquet file with a crystal a row."""

    def __init__(self, path: Path, bounds: Bounds) -> None:
        super().__init__(path)
        self._bounds, self._expansion = bounds, Expansion(path, bounds)
        with _opened(path) as file:
            names = file.schema_arrow.names
            self._column = next(name for name in COLUMNS if name in names)
            self._wanted = [self._column, *(name for name in ID_KEYS if name in names)]
            groups = [file.metadata.row_group(index) for index in range(file.num_row_groups)]
            self._is_text = not require("pyarrow").types.is_nested(file.schema_arrow.field(self._column).type)
        self._sizes = _unpacked_sizes(path, [int(group.total_byte_size) for group in groups])
        self._starts = np.cumsum([0, *(group.num_rows for group in groups)])
        self._refuse_bombs()

    def count(self) -> int | None:
        """Return the number of rows."""
        return int(self._starts[-1])

    def chunks(self, start: int) -> Iterator[Chunk]:
        """Yield the rows from number `start` on."""
        group = int(np.searchsorted(self._starts, start, side="right")) - 1
        first, unpacked = int(self._starts[group]), 0
        with _opened(self.path) as file:
            for number in range(group, len(self._sizes)):
                for batch in file.iter_batches(self._step(number), [number], self._wanted):
                    unpacked += batch.nbytes
                    self._expansion.check(unpacked)
                    kept = batch.slice(max(0, start - first))
                    if len(kept):
                        payload = (self._column, self._bounds, _packed(kept))
                        yield Chunk(max(start, first), len(kept), payload, decode_rows, len(payload[2]))
                    first += len(batch)

    def items(self) -> Sequence[Any]:
        """Return the rows as JARVIS-style dicts, read a row group at a time."""
        return _Rows(self)

    def group_of(self, index: int) -> tuple[int, int]:
        """Return the row group that a row is in, and its place there."""
        group = int(np.searchsorted(self._starts, index, side="right")) - 1
        return group, index - int(self._starts[group])

    def read_group(self, group: int) -> Any:
        """Read all columns of a row group: training needs its targets."""
        with _opened(self.path) as file:
            return file.read_row_group(group)

    def row(self, table: Any, place: int) -> Named:
        """Return a row of what was read."""
        [batch] = table.slice(place, 1).combine_chunks().to_batches()
        [found] = decode_rows((self._column, self._bounds, _packed(batch)))
        return found

    def _step(self, group: int) -> int:
        """Return how many rows of a group to read at once.

        A text that stands once in the file's dictionary can be in every row: then fewer.
        """
        if not self._is_text:
            return CHUNK_RECORDS
        with _opened(self.path, read_dictionary=[self._column]) as file:
            [batch] = islice(file.iter_batches(1, [group], [self._column]), 1)
        values = batch.column(0)
        lengths = require("pyarrow.compute").binary_length(values.dictionary) if hasattr(values, "dictionary") else []
        longest = max((length.as_py() or 0 for length in lengths), default=0)
        return max(1, min(CHUNK_RECORDS, _AT_ONCE // max(1, longest)))

    def _refuse_bombs(self) -> None:
        # What the file says of itself. Pages are unpacked one by one, so this bounds what a row group can take.
        for size in self._sizes:
            self._expansion.check(size)


class _Rows(Sequence[Any]):
    """Rows in any order; the row group of the last one stays in memory."""

    def __init__(self, source: Parquet) -> None:
        self._source = source
        self._group, self._table = -1, None

    def __len__(self) -> int:
        return self._source.count() or 0

    def __getitem__(self, index: Any) -> Any:
        group, place = self._source.group_of(range(len(self))[index])
        if group != self._group:
            self._group, self._table = group, self._source.read_group(group)
        name, sample = self._source.row(self._table, place)
        if isinstance(sample, UnusableError):
            raise CrystalError(index, name or "", str(sample))
        return sample


def decode_rows(payload: tuple[str, Bounds, bytes]) -> Iterator[Named]:
    """Make JARVIS-style dicts of rows."""
    column, bounds, packed = payload
    [batch] = require("pyarrow.ipc").open_stream(packed)
    for row in _python_rows(batch):
        if isinstance(row, UnusableError):
            yield None, row
            continue
        value = row.pop(column)
        name = entry_id(row)
        sample = _structure(column, value, bounds)
        yield name, sample if isinstance(sample, UnusableError) else {**row, "atoms": sample}


def _python_rows(batch: Any) -> Iterator[dict[str, Any] | UnusableError]:
    """Yield dicts; pyarrow does not look whether a text is UTF-8 before it is asked for."""
    try:
        yield from batch.to_pylist()
    except UnicodeDecodeError:
        for place in range(len(batch)):
            try:
                yield batch.slice(place, 1).to_pylist()[0]
            except UnicodeDecodeError as error:
                yield UnusableError(f"a text in its row is no UTF-8: {error.reason}")


def _structure(column: str, value: Any, bounds: Bounds) -> Any:
    if value is None:
        return UnusableError(f"its {column!r} is empty")
    if isinstance(value, (str, bytes)) and len(value) > bounds.record:
        return UnusableError(bounds.too_large(len(value)))
    if column == "cif":
        try:
            return read_structure("row.cif", value.encode() if isinstance(value, str) else bytes(value), bounds)
        except UnusableError as error:
            return error
    if isinstance(value, (str, bytes)):
        [(_, value)] = decode_json([value])
    return value


def _packed(batch: Any) -> bytes:
    """Return a batch alone: pickled, a slice would bring along what it is a slice of."""
    arrow = require("pyarrow")
    sink = arrow.BufferOutputStream()
    with arrow.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    found: bytes = sink.getvalue().to_pybytes()
    return found


def _unpacked_sizes(path: Path, sizes: list[int]) -> list[int]:
    """Return the bytes of each row group in memory, at least: numbers that repeat take next to none in the file."""
    try:
        values = [int(count) for count in ask(TRIAL, path).split()]
        return [max(size, 8 * count) for size, count in zip(sizes, values, strict=True)]
    except ValueError as error:
        raise _refusal(path, error) from error


def _refusal(path: Path, error: Exception) -> InputError:
    shown = " ".join(str(error).split())[:150]
    return InputError(f"{str(path)!r} holds no Parquet: {shown}", hint="check that it is whole")


@contextmanager
def _opened(path: Path, **options: Any) -> Generator[Any, None, None]:
    arrow = require("pyarrow")
    try:
        # Not mapped into memory: a file that is cut while it is read would end the process.
        with require("pyarrow.parquet").ParquetFile(path, memory_map=False, buffer_size=2**20, **options) as file:
            yield file
    except InputError:
        raise
    except (arrow.ArrowException, OSError, ValueError) as error:
        raise _refusal(path, error) from error
