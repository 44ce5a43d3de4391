"""LMDBs of pickled graphs, as alignn writes them. Imported only where the user allowed pickles."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from nodebudget.datasets.readers.source import Chunk, LazyItems, NamedSample, RecordSource, chunked
from nodebudget.datasets.sample_error import SampleError
from nodebudget.errors import InputError
from nodebudget.utils.optional_imports import choose_backend, load_dgl, require


class Lmdb(RecordSource):
    """The records of an LMDB, named "0", "1", …: pickled tuples (g, line graph, lattice, target), or PyG `Data`.

    It is a folder, as alignn writes it, or a file, as OC20 has it.
    """

    kind = "graphs"

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        is_folder = path.is_dir()
        self.files = [path / "data.mdb" if is_folder else path]
        lmdb = self._lmdb = require("lmdb")
        try:
            self._environment = lmdb.open(str(path), readonly=True, lock=False, subdir=is_folder)
            with self._environment.begin() as transaction:
                statistics = transaction.stat()
                # OC20 keeps their number beside them.
                self._count = int(statistics["entries"]) - (transaction.get(b"length") is not None)
        except lmdb.Error as error:
            raise InputError(f"{str(path)!r} is not an LMDB: {error}", hint="check that it is complete") from error
        # LMDB maps the file into memory: reading a page that is cut off would end the process.
        needed = (int(self._environment.info()["last_pgno"]) + 1) * int(statistics["psize"])
        if (size := self.files[0].stat().st_size) < needed:
            raise InputError(
                f"{str(self.files[0])!r} is cut: it has {size} bytes",
                limit=f"{needed} bytes",
                hint="copy it again, or make it again with alignn",
            )

    def count(self) -> int:
        return self._count

    def chunks(self, start: int) -> Iterator[Chunk]:
        records = map(self._record, range(start, self._count))
        yield from chunked(((record, len(record or b"")) for record in records), start, _decode_record)

    def items(self) -> Sequence[Any]:
        """Return the tuples, each unpickled when it is asked for."""
        return LazyItems(self._count, self._read)

    def _read(self, index: int) -> NamedSample:
        return _decode_record(self._record(index))

    def _record(self, index: int) -> bytes | None:
        try:
            with self._environment.begin() as transaction:
                record = transaction.get(f"{index}".encode())
        except self._lmdb.Error as error:
            raise InputError(f"record {index} of the LMDB can't be read: {error}", hint="make it again") from error
        return None if record is None else bytes(record)


def _decode_record(record: bytes | None) -> NamedSample:
    """Unpickle a record: of DGL graphs, or of alignn's own, which need no DGL."""
    choose_backend()
    if record is None:
        return None, SampleError("the LMDB has no record of its number")
    try:
        return None, pickle.loads(record)
    except Exception as error:
        # Unpickling runs other people's code, which can raise anything.
        if b"dgl" in record:
            load_dgl()  # where DGL is the reason, it says so
        return None, SampleError(f"its record can't be unpickled: {type(error).__name__}: {error}")
