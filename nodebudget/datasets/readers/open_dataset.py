"""A dataset on disk to a source of records, a sequence of samples, or a table of sizes."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from nodebudget.datasets.counting.rows import entry_id
from nodebudget.datasets.read_limits import Bounds
from nodebudget.datasets.readers import (
    ase_database as asedb,
)
from nodebudget.datasets.readers import (
    folder,
    parquet,
    shards,
    tar,
)
from nodebudget.datasets.readers import (
    structure_file as structures,
)
from nodebudget.datasets.readers.dgl_bin import DglBin
from nodebudget.datasets.readers.json_files import LINE_SUFFIXES, LIST_SUFFIXES, JsonLines, JsonList
from nodebudget.datasets.readers.source import Source
from nodebudget.datasets.size_table import SUFFIXES, SizeTable
from nodebudget.errors import CrystalError, InputError

_KINDS = (
    "a JARVIS-style .json (also .gz or .zip) or .jsonl (also .gz), .parquet with a column atoms or cif, an ASE .db, "
    ".tar (also .gz), a folder of structure files or of shards, a pattern of shards, a DGL .bin, "
    "or sizes as .npz, .csv or .parquet"
)
#: What alignn reads in a folder, in its order.
_FOLDER_FILES = ("id_prop.json.zip", "id_prop.json")
#: Files of which a dataset may have several.
_SHARDS = (*LINE_SUFFIXES, *tar.SUFFIXES, ".parquet")


@dataclass(frozen=True)
class Data:
    """A dataset on disk, opened.

    Attributes:
        items: For "crystals" JARVIS-style dicts (`jid`, `atoms` and whatever else the source has); for
            "graphs" DGL graphs or tuples that start with one; for "sizes" the SizeTable itself. Large sources are
            read item by item, when they are asked for.
        kind: "crystals", "graphs" or "sizes".
        source: The path that it came from.
    """

    items: Sequence[Any] | SizeTable
    kind: str
    source: str = ""

    @property
    def ids(self) -> Sequence[str]:
        """A name for each item; reads the items."""
        if isinstance(self.items, SizeTable):
            names = self.items.ids
            return [str(i) for i in range(len(self))] if names is None else [str(name) for name in names]
        return [self._name(index) or str(index) for index in range(len(self))]

    def _name(self, index: int) -> str | None:
        try:
            return entry_id(self[index])
        except CrystalError as error:
            return error.name

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        """Return an item; of "sizes", the row as a dict.

        Raises:
            CrystalError: A crystal can't be read.
        """
        if isinstance(self.items, SizeTable):
            return {name: values[index].item() for name, values in self.items.columns.items()}
        return self.items[index]


def open_data(path: str | os.PathLike[str], *, allow_pickle: bool = False, bounds: Bounds | None = None) -> Data:
    """Open a dataset, its items to be read in any order.

    Args:
        path: A JARVIS-style JSON (a list of dicts with `atoms`; also .json.gz and .json.zip) or an entry a line
            (.jsonl), Parquet with a column `atoms` or `cif`, an ASE database (.db), a .tar, a folder that alignn
            trains on (id_prop.csv and structure files, or id_prop.json), of structure files or of shards, a DGL
            graph cache (.bin), an LMDB as alignn writes it, several of these by a pattern (`part-{00..99}.tar`,
            `*.jsonl`), or measured sizes (.npz, .csv, .parquet).
        allow_pickle: Read an LMDB: its records are pickles, and reading one can run any code.
        bounds: What a file may ask for before it is refused.

    Raises:
        InputError: There is no such path, it is of another kind, it is damaged, it is empty, or it can only be
            read from front to back (packed .jsonl and .tar).
        MissingError: A package that reads it is not there.
    """
    source = open_source(path, allow_pickle=allow_pickle, bounds=bounds)
    found = Data(source, "sizes") if isinstance(source, SizeTable) else Data(source.items(), source.kind)
    if not len(found):
        raise is_empty(path)
    return Data(found.items, found.kind, str(path))


def open_source(
    path: str | os.PathLike[str], *, allow_pickle: bool = False, bounds: Bounds | None = None
) -> Source | SizeTable:
    """Open a dataset, to be read from front to back; measured sizes are loaded as they are.

    Args:
        path: See `open_data`; also .jsonl.gz and .tar.gz.
        allow_pickle: See `open_data`.
        bounds: See `open_data`.

    Raises:
        InputError: There is no such path, it is of another kind, or it is damaged.
        MissingError: A package that reads it is not there.
    """
    place, limits = Path(path), bounds or Bounds()
    if place.is_dir():
        return _open_folder(place, allow_pickle, limits)
    if place.exists():
        return _open_file(place, limits)
    if not (glob.has_magic(str(path)) or "{" in str(path)):
        raise InputError(f"there is no file or folder {str(path)!r}", hint="check the path")
    return _joined(place, shards.expanded(str(path)), limits)


def is_empty(path: str | os.PathLike[str]) -> InputError:
    """Return the error that a dataset has nothing in it."""
    return InputError(
        f"{str(path)!r} is empty", limit="at least one crystal or graph", hint="give a dataset that has some"
    )


def _open_file(path: Path, bounds: Bounds) -> Source | SizeTable:
    if not path.is_file():
        # A named pipe would be waited for, a device read for ever.
        raise InputError(f"{str(path)!r} is no plain file", limit=_KINDS, hint="name plain files")
    name = path.name.lower()
    if name.endswith(".parquet") and parquet.holds_structures(path):
        return parquet.Parquet(path, bounds)
    if name.endswith(SUFFIXES):
        return SizeTable.load(path)
    readers = (
        (LIST_SUFFIXES, partial(JsonList, bounds=bounds)),
        (LINE_SUFFIXES, partial(JsonLines, bounds=bounds)),
        (tar.SUFFIXES, partial(tar.Tar, bounds=bounds)),
        ((".db",), partial(asedb.AseDatabase, bounds=bounds)),
        ((".bin",), DglBin),
    )
    for suffixes, reader in readers:
        if name.endswith(suffixes):
            found: Source = reader(path)
            return found
    raise InputError(
        f"{str(path)!r} is no kind of dataset that can be read", limit=_KINDS, hint="turn it into one of these"
    )


def _open_folder(path: Path, allow_pickle: bool, bounds: Bounds) -> Source | SizeTable:
    for name in _FOLDER_FILES:
        if (path / name).is_file():
            return JsonList(path / name, bounds)
    if (path / "id_prop.csv").is_file():
        return folder.Folder(path, None, bounds)
    if (path / "data.mdb").is_file():
        return _open_lmdb(path, allow_pickle)
    if found := shards.in_folder(path, lambda name: name.endswith(_SHARDS)):
        return _joined(path, found, bounds)
    if found := shards.in_folder(path, lambda name: name.endswith(structures.SUFFIXES)):
        return folder.Folder(path, [file.name for file in found], bounds)
    raise InputError(
        f"the folder {str(path)!r} has no id_prop.csv, id_prop.json, data.mdb, shards or structure files",
        limit=_KINDS,
        hint="name the folder that has one",
    )


def _joined(path: Path, files: Sequence[Path], bounds: Bounds) -> Source:
    parts = [_open_file(file, bounds) for file in files]
    for file, part in zip(files, parts, strict=True):
        if isinstance(part, SizeTable):
            raise InputError(f"{str(file)!r} among several files holds sizes", hint="name it alone")
    return shards.Shards(path, [part for part in parts if isinstance(part, Source)])


def _open_lmdb(path: Path, allow_pickle: bool) -> Source:
    if not allow_pickle:
        raise InputError(
            f"{str(path)!r} is an LMDB of pickled graphs, and reading a pickle can run any code that its maker wrote",
            hint="pass --allow-pickle (allow_pickle=True) if you made it yourself",
        )
    # Only here, so that nobody who has not asked for it imports pickle's reader.
    from nodebudget.datasets.readers.lmdb import Lmdb

    return Lmdb(path)
