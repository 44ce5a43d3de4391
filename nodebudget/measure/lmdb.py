"""LMDBs of pickled graphs, as alignn writes them. Imported only where the user allowed pickles."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nodebudget.errors import CrystalError, InputError
from nodebudget.frameworks import load_dgl, require


class Records(Sequence[Any]):
    """The records of an LMDB, unpickled one by one: tuples (g, line graph, lattice, target)."""

    def __init__(self, path: Path) -> None:
        lmdb = require("lmdb")
        load_dgl()
        try:
            self._environment = lmdb.open(str(path), readonly=True, lock=False)
            with self._environment.begin() as transaction:
                self._length = int(transaction.stat()["entries"])
        except lmdb.Error as error:
            raise InputError(f"{str(path)!r} is no LMDB: {error}", hint="check that it is whole") from error

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: Any) -> Any:
        with self._environment.begin() as transaction:
            record = transaction.get(f"{index}".encode())
        if record is None:
            raise CrystalError(index, "", f"the LMDB has no record {index}")
        try:
            return pickle.loads(record)
        except Exception as error:
            # Unpickling runs other people's code, which can raise anything.
            raise CrystalError(index, "", f"its record is no pickle: {type(error).__name__}: {error}") from error
