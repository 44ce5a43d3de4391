"""LMDBs of pickled graphs, as alignn writes them. Imported only where the user allowed pickles."""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from nodebudget.datasets.counting.neighbors import UnusableError
from nodebudget.datasets.readers.source import Chunk, Named, Source, grouped
from nodebudget.errors import CrystalError, InputError
from nodebudget.utils.optional_imports import choose_backend, load_dgl, require


class Lmdb(Source):
    """The records of an LMDB, named "0", "1", …: pickled tuples (g, line graph, lattice, target)."""

    kind = "graphs"

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.files = [path / "data.mdb"]

    @cached_property
    def _records(self) -> Records:
        return Records(self.path)

    def count(self) -> int | None:
        """Return the number of records."""
        return len(self._records)

    def chunks(self, start: int) -> Iterator[Chunk]:
        """Yield the records from number `start` on, to be unpickled by the worker."""
        raw = (self._records.raw(index) for index in range(start, len(self._records)))
        yield from grouped(((record, 0 if record is None else len(record)) for record in raw), start, decode_records)

    def items(self) -> Sequence[Any]:
        """Return the tuples, each unpickled when it is asked for."""
        return self._records


class Records(Sequence[Any]):
    """The records of an LMDB, unpickled one by one: tuples (g, line graph, lattice, target)."""

    def __init__(self, path: Path) -> None:
        lmdb = self._lmdb = require("lmdb")
        try:
            self._environment = lmdb.open(str(path), readonly=True, lock=False)
            with self._environment.begin() as transaction:
                found = transaction.stat()
        except lmdb.Error as error:
            raise InputError(f"{str(path)!r} is no LMDB: {error}", hint="check that it is whole") from error
        self._length = int(found["entries"])
        # LMDB maps the file into memory: reading a page that is cut off would end the process.
        needed = (int(self._environment.info()["last_pgno"]) + 1) * int(found["psize"])
        if (path / "data.mdb").stat().st_size < needed:
            raise InputError(
                f"{str(path / 'data.mdb')!r} is cut: it has {(path / 'data.mdb').stat().st_size} bytes",
                limit=f"{needed} bytes",
                hint="copy it again, or make it again with alignn",
            )

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: Any) -> Any:
        [(_, sample)] = decode_records([self.raw(index)])
        if isinstance(sample, UnusableError):
            raise CrystalError(index, "", str(sample))
        return sample

    def raw(self, index: int) -> bytes | None:
        """Return a record as it is stored, or None where there is none of that number."""
        try:
            with self._environment.begin() as transaction:
                record = transaction.get(f"{index}".encode())
        except self._lmdb.Error as error:
            raise InputError(f"record {index} of the LMDB can't be read: {error}", hint="make it again") from error
        return None if record is None else bytes(record)


def decode_records(payload: Iterable[bytes | None]) -> Iterator[Named]:
    """Unpickle records: of DGL graphs, or of alignn's own, which need no DGL."""
    choose_backend()
    for record in payload:
        yield None, _unpickled(record)


def _unpickled(record: bytes | None) -> Any:
    if record is None:
        return UnusableError("the LMDB has no record of its number")
    try:
        return pickle.loads(record)
    except Exception as error:
        # Unpickling runs other people's code, which can raise anything.
        if b"dgl" in record:
            load_dgl()  # where DGL is the reason, it says so
        return UnusableError(f"its record is no pickle: {type(error).__name__}: {error}")
