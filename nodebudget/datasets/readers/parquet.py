"""Parquet with structures: a column `atoms` or `structure` (JSON text, or a struct), or `cif`."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from nodebudget.datasets.counting.rows import ID_KEYS, entry_id
from nodebudget.datasets.counting.structures import STRUCTURE_KEYS
from nodebudget.datasets.read_limits import ReadLimits
from nodebudget.datasets.readers.csv_files import decode_row, structure_column
from nodebudget.datasets.readers.source import CHUNK_RECORDS, Chunk, LazyItems, NamedSample, RecordSource, refusing
from nodebudget.datasets.readers.subprocess_check import run_check
from nodebudget.datasets.sample_error import SampleError
from nodebudget.utils.optional_imports import require

#: Prints the number of values of each row group. pyarrow ends the process where statistics contradict their column.
CHECK = """
import pyarrow.parquet
with pyarrow.parquet.ParquetFile(sys.argv[1], memory_map=False) as file:
    for group in map(file.metadata.row_group, range(file.num_row_groups)):
        print(sum(group.column(index).num_values for index in range(group.num_columns)))
"""
#: Bytes of texts that are read at once.
_TEXT_BYTES = 64 * 2**20

#: The column of the crystals, the limits, and an Arrow stream of one batch of rows.
_Payload = tuple[str, ReadLimits, bytes]


def holds_structures(path: Path, read_limits: ReadLimits) -> bool:
    """Return whether a Parquet file holds crystals; otherwise it is a size table."""
    with _opened(path) as file:
        return structure_column(file.schema_arrow.names, read_limits) is not None


class Parquet(RecordSource):
    """A Parquet file with one crystal per row."""

    def __init__(self, path: Path, read_limits: ReadLimits) -> None:
        super().__init__(path, read_limits)
        with _opened(path) as file:
            names = file.schema_arrow.names
            self._column = structure_column(names, read_limits) or STRUCTURE_KEYS[0]
            self._read_columns = [self._column, *(name for name in ID_KEYS if name in names)]
            groups = [file.metadata.row_group(index) for index in range(file.num_row_groups)]
            self._is_text = not require("pyarrow").types.is_nested(file.schema_arrow.field(self._column).type)
        self._starts = np.cumsum([0, *(group.num_rows for group in groups)])
        #: The row group that was read last, and its number.
        self._table, self._group = None, -1
        with refusing(path, "Parquet", (ValueError,)):
            values = [int(count) for count in run_check(CHECK, path).split()]
            # Numbers that repeat take next to nothing in the file, but eight bytes each in memory. Pages are unpacked
            # one by one, so that this bounds what a row group can take.
            for group, count in zip(groups, values, strict=True):
                read_limits.check_expansion(path, max(int(group.total_byte_size), 8 * count))

    def count(self) -> int:
        return int(self._starts[-1])

    def chunks(self, start: int) -> Iterator[Chunk]:
        group, _ = self._place(start)
        first, unpacked = int(self._starts[group]), 0
        with _opened(self.path) as file:
            for number in range(group, len(self._starts) - 1):
                for batch in file.iter_batches(self._rows_at_once(number), [number], self._read_columns):
                    unpacked += batch.nbytes
                    self.read_limits.check_expansion(self.path, unpacked)
                    rows = batch.slice(max(0, start - first))
                    if len(rows):
                        payload = self._payload(rows)
                        yield Chunk(max(start, first), len(rows), payload, _decode_rows, len(payload[2]))
                    first += len(batch)

    def items(self) -> Sequence[Any]:
        """Return the rows as JARVIS-style dicts with all columns; the row group of the last one stays in memory."""
        return LazyItems(self.count(), self._read)

    def _read(self, index: int) -> NamedSample:
        group, place = self._place(index)
        if group != self._group:
            with _opened(self.path) as file:
                self._group, self._table = group, file.read_row_group(group)
        [batch] = self._table.slice(place, 1).combine_chunks().to_batches()  # type: ignore[attr-defined]
        [sample] = _decode_rows(self._payload(batch))
        return sample

    def _place(self, index: int) -> tuple[int, int]:
        """Return the row group of a row, and its place in the group."""
        group = int(np.searchsorted(self._starts, index, side="right")) - 1
        return group, index - int(self._starts[group])

    def _rows_at_once(self, group: int) -> int:
        """Return how many rows of a group to read at once: a text of the file's dictionary can be in every row."""
        if not self._is_text:
            return CHUNK_RECORDS
        with _opened(self.path, read_dictionary=[self._column]) as file:
            [batch] = islice(file.iter_batches(1, [group], [self._column]), 1)
        values = batch.column(0)
        lengths = require("pyarrow.compute").binary_length(values.dictionary) if hasattr(values, "dictionary") else []
        longest = max((length.as_py() or 0 for length in lengths), default=0)
        return max(1, min(CHUNK_RECORDS, _TEXT_BYTES // max(1, longest)))

    def _payload(self, batch: Any) -> _Payload:
        # As a stream of its own: pickled, a slice would bring along what it is a slice of.
        arrow = require("pyarrow")
        sink = arrow.BufferOutputStream()
        with arrow.ipc.new_stream(sink, batch.schema) as writer:
            writer.write_batch(batch)
        return self._column, self.read_limits, sink.getvalue().to_pybytes()


def _decode_rows(payload: _Payload) -> Iterator[NamedSample]:
    column, read_limits, stream = payload
    [batch] = require("pyarrow.ipc").open_stream(stream)
    for row in _python_rows(batch):
        if isinstance(row, SampleError):
            yield None, row
            continue
        yield entry_id(row), decode_row(row, column, read_limits)


def _python_rows(batch: Any) -> Iterator[dict[str, Any] | SampleError]:
    """Yield dicts; pyarrow checks whether a text is UTF-8 only when it is asked for."""
    try:
        yield from batch.to_pylist()
    except UnicodeDecodeError:
        for place in range(len(batch)):
            try:
                yield batch.slice(place, 1).to_pylist()[0]
            except UnicodeDecodeError as error:
                yield SampleError(f"a text in its row is not UTF-8: {error.reason}")


@contextmanager
def _opened(path: Path, **options: Any) -> Generator[Any, None, None]:
    # Not mapped into memory: a file that is cut while it is read would end the process.
    open_file, options = require("pyarrow.parquet").ParquetFile, {"memory_map": False, "buffer_size": 2**20, **options}
    with (
        refusing(path, "Parquet", (require("pyarrow").ArrowException, OSError, ValueError)),
        open_file(path, **options) as file,
    ):
        yield file
