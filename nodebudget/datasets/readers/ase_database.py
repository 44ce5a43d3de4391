"""ASE's SQLite databases, read with Python's own SQLite: ASE would hold all rows in memory, and write to the file.

Only the columns that make a structure are read, raw arrays of numbers: nothing in them can run.
"""

from __future__ import annotations

import sqlite3
from array import array
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from nodebudget.datasets.counting.structures import atomic_symbols, boxed
from nodebudget.datasets.read_limits import ReadLimits
from nodebudget.datasets.readers.json_files import parse_json
from nodebudget.datasets.readers.source import Chunk, LazyItems, NamedSample, RecordSource, chunked, refusing
from nodebudget.datasets.sample_error import SampleError
from nodebudget.errors import InputError, first_line

_COLUMNS = "id, numbers, positions, cell, pbc"
#: The version of the format since which these columns have had their present form.
_OLDEST = 5
#: Suffixes of files beside a database that hold what has not been moved into it yet.
_SIDE_FILES = ("-wal", "-journal")

#: id, atomic numbers (int32), positions (float64), cell (float64), boundary conditions (a bit for each vector)
_Row = tuple[Any, Any, Any, Any, Any]


class AseDatabase(RecordSource):
    """The rows of an ase.db, in the order of their ids, which are their names."""

    def __init__(self, path: Path, read_limits: ReadLimits) -> None:
        super().__init__(path, read_limits)
        self._ids = array("q")
        self.files = [path, *(side for suffix in _SIDE_FILES if (side := Path(f"{path}{suffix}")).exists())]
        with _opened(path) as database:
            _check(database, path)
            [[self._count]] = database.execute("SELECT COUNT(*) FROM systems")

    def count(self) -> int:
        return int(self._count)

    def chunks(self, start: int) -> Iterator[Chunk]:
        with _opened(self.path) as database:
            rows: Iterator[_Row] = iter(database.execute(f"SELECT {_COLUMNS} FROM systems ORDER BY id"))
            yield from chunked(self._bounded(islice(rows, start, None)), start, _decode_row)

    def items(self) -> Sequence[Any]:
        """Return the rows as JARVIS-style dicts with their key-value pairs, each read when it is asked for."""
        with _opened(self.path) as database:
            self._ids = array("q", (number for (number,) in database.execute("SELECT id FROM systems ORDER BY id")))
        return LazyItems(len(self._ids), self._read)

    def _bounded(self, rows: Iterator[_Row]) -> Iterator[tuple[_Row, int]]:
        for row in rows:
            size = sum(len(value) for value in row[1:] if isinstance(value, (bytes, str)))
            if size > self.read_limits.max_record:
                yield (row[0], None, None, None, SampleError(self.read_limits.too_large(size))), 0
            else:
                yield row, size

    def _read(self, index: int) -> NamedSample:
        # A connection for each: none may cross into another process or thread.
        with _opened(self.path) as database:
            query = f"SELECT {_COLUMNS}, key_value_pairs FROM systems WHERE id = ?"
            row = database.execute(query, (self._ids[index],)).fetchone()
        if row is None:
            return str(self._ids[index]), SampleError("the database has no such row any more")
        name, sample = _decode_row(row[:-1])
        pairs = parse_json(row[-1] or "{}")
        if isinstance(sample, SampleError) or not isinstance(pairs, dict):
            return name, pairs if isinstance(pairs, SampleError) else sample
        return name, {**pairs, **sample}


def _decode_row(row: _Row) -> NamedSample:
    number, numbers, positions, cell, pbc = row
    name = str(number)
    if isinstance(pbc, SampleError):
        return name, pbc
    try:
        symbols = atomic_symbols(np.frombuffer(numbers, "<i4"))
        coords = np.frombuffer(positions, "<f8").reshape(len(symbols), 3)
        vectors = None if cell is None else np.frombuffer(cell, "<f8")
        return name, {
            "jid": name,
            "atoms": boxed(symbols, coords, vectors, [bool(int(pbc or 0) & 2**i) for i in range(3)]),
        }
    except (ValueError, TypeError, IndexError, OverflowError) as error:
        return name, SampleError(f"its row is not a structure: {first_line(error)}")


def _check(database: sqlite3.Connection, path: Path) -> None:
    # Tables, not views: a view can be a query that never ends.
    tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    version = [0]
    if {"systems", "information"} <= tables:
        version = [
            int(text) if str(text).isdecimal() else 0
            for (text,) in database.execute("SELECT value FROM information WHERE name = 'version'")
        ]
    if version < [_OLDEST]:
        raise InputError(
            f"{str(path)!r} is not an ASE database",
            limit=f"SQLite as ase.db.connect writes it, version {_OLDEST} or newer",
            hint="convert it: python -m ase.db.convert",
        )


@contextmanager
def _opened(path: Path) -> Generator[sqlite3.Connection, None, None]:
    with (
        refusing(path, "SQLite", (sqlite3.Error,)),
        closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=20)) as database,
    ):
        yield database
