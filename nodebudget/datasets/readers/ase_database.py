"""ASE's SQLite databases, read with Python's own SQLite: ASE would hold all rows in memory, and write to the file.

Only the columns that make a structure are read, raw arrays of numbers: nothing in them can run.
"""

from __future__ import annotations

import sqlite3
from array import array
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from nodebudget.datasets.counting.neighbors import UnusableError
from nodebudget.datasets.read_limits import Bounds
from nodebudget.datasets.readers.json_stream import decode_json
from nodebudget.datasets.readers.source import Chunk, Named, Source, grouped
from nodebudget.errors import CrystalError, InputError
from nodebudget.utils.optional_imports import require

_COLUMNS = "id, numbers, positions, cell"
#: Versions of the format from which on these columns have been what they are.
_OLDEST = 5
#: Files beside a database that hold what has not been moved into it yet.
_BESIDE = ("-wal", "-journal")

#: id, atomic numbers (int32), positions (float64), cell (float64)
Row = tuple[Any, Any, Any, Any]


class AseDatabase(Source):
    """The rows of an ase.db, in the order of their ids, which are their names."""

    def __init__(self, path: Path, bounds: Bounds) -> None:
        super().__init__(path)
        self._bounds = bounds
        self.files = [path, *(near for end in _BESIDE if (near := Path(f"{path}{end}")).exists())]
        with _opened(path) as database:
            _check(database, path)
            [[self._count]] = database.execute("SELECT COUNT(*) FROM systems")

    def count(self) -> int | None:
        """Return the number of rows."""
        return int(self._count)

    def chunks(self, start: int) -> Iterator[Chunk]:
        """Yield the rows from number `start` on."""
        with _opened(self.path) as database:
            rows: Iterator[Row] = iter(database.execute(f"SELECT {_COLUMNS} FROM systems ORDER BY id"))
            yield from grouped(self._bounded(islice(rows, start, None)), start, decode_rows)

    def items(self) -> Sequence[Any]:
        """Return the rows as JARVIS-style dicts with their key-value pairs, each read when it is asked for."""
        with _opened(self.path) as database:
            ids = array("q", (number for (number,) in database.execute("SELECT id FROM systems ORDER BY id")))
        return _Rows(self.path, ids)

    def _bounded(self, rows: Iterator[Row]) -> Iterator[tuple[Row, int]]:
        for row in rows:
            size = sum(len(value) for value in row[1:] if isinstance(value, (bytes, str)))
            if size > self._bounds.record:
                yield (row[0], None, None, UnusableError(self._bounds.too_large(size))), 0
            else:
                yield row, size


class _Rows(Sequence[Any]):
    """Rows in any order. A connection each, since none may cross into another process or thread."""

    def __init__(self, path: Path, ids: array[int]) -> None:
        self._path, self._ids = path, ids

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, index: Any) -> Any:
        with _opened(self._path) as database:
            query = f"SELECT {_COLUMNS}, key_value_pairs FROM systems WHERE id = ?"
            rows = database.execute(query, (self._ids[index],)).fetchall()
        if not rows:
            raise CrystalError(index, str(self._ids[index]), "the database has lost this row")
        [(name, sample)] = decode_rows([rows[0][:-1]])
        [(_, pairs)] = decode_json([rows[0][-1] or "{}"])
        for found in (sample, pairs):
            if isinstance(found, UnusableError):
                raise CrystalError(index, name or "", str(found))
        return {**pairs, **sample} if isinstance(pairs, dict) else sample


def decode_rows(payload: Iterable[Row]) -> Iterator[Named]:
    """Make JARVIS-style dicts of rows."""
    for row in payload:
        name = str(row[0])
        yield name, _entry(name, *row[1:])


def _entry(name: str, numbers: Any, positions: Any, cell: Any) -> Any:
    if isinstance(cell, UnusableError):
        return cell
    try:
        atoms = require("ase").Atoms(
            numbers=np.frombuffer(numbers, "<i4"),
            positions=np.frombuffer(positions, "<f8").reshape(-1, 3),
            cell=np.frombuffer(cell, "<f8").reshape(3, 3),
            pbc=True,
        )
        return {"jid": name, "atoms": require("jarvis.core.atoms").ase_to_atoms(atoms).to_dict()}
    except (ValueError, TypeError, IndexError) as error:
        return UnusableError(f"its row holds no structure: {' '.join(str(error).split())[:150]}")


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
            f"{str(path)!r} is no ASE database",
            limit=f"SQLite as ase.db.connect writes it, version {_OLDEST} or newer",
            hint="convert it: python -m ase.db.convert",
        )


@contextmanager
def _opened(path: Path) -> Generator[sqlite3.Connection, None, None]:
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=20)) as database:
            yield database
    except sqlite3.Error as error:
        raise InputError(f"{str(path)!r} can't be read as SQLite: {error}", hint="check that it is whole") from error
