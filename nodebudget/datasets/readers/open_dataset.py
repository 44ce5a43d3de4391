"""A dataset on disk to a source of records, a sequence of samples, or a table of sizes."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nodebudget.datasets.counting.rows import entry_id
from nodebudget.datasets.read_limits import ReadLimits
from nodebudget.datasets.readers import csv_files, shards
from nodebudget.datasets.readers.ase_database import AseDatabase
from nodebudget.datasets.readers.ase_lmdb import AseLmdb, holds_pickles
from nodebudget.datasets.readers.dgl_bin import DglBin
from nodebudget.datasets.readers.json_files import LINE_SUFFIXES, LIST_SUFFIXES, JsonLines, JsonList
from nodebudget.datasets.readers.parquet import Parquet, holds_structures
from nodebudget.datasets.readers.source import RecordSource
from nodebudget.datasets.readers.structure_files import Folder, is_structure_file
from nodebudget.datasets.readers.tar import SUFFIXES as TAR_SUFFIXES
from nodebudget.datasets.readers.tar import Tar
from nodebudget.datasets.readers.trajectory import Trajectory
from nodebudget.datasets.readers.unsupported import SUPPORTED, unsupported
from nodebudget.datasets.readers.xyz import SUFFIXES as XYZ_SUFFIXES
from nodebudget.datasets.readers.xyz import Xyz
from nodebudget.datasets.size_table import SUFFIXES as SIZE_SUFFIXES
from nodebudget.datasets.size_table import SizeTable
from nodebudget.errors import CrystalError, InputError

#: What alignn reads in a folder, in its order.
_FOLDER_FILES = ("id_prop.json.zip", "id_prop.json")
#: Readers of single files, by suffix; .csv and .parquet may hold crystals or sizes, an .lmdb also graphs.
_READERS: tuple[tuple[tuple[str, ...], Callable[[Path, ReadLimits], RecordSource]], ...] = (
    (LIST_SUFFIXES, JsonList),
    (LINE_SUFFIXES, JsonLines),
    (TAR_SUFFIXES, Tar),
    (XYZ_SUFFIXES, Xyz),
    ((".db",), AseDatabase),
    ((".aselmdb", ".lmdb"), AseLmdb),
    ((".traj",), Trajectory),
    ((".bin",), lambda path, read_limits: DglBin(path)),
)
#: Files of which a folder may have several, the kinds that are looked for first before the others.
_SHARDS: tuple[tuple[str, ...], ...] = (
    (*LINE_SUFFIXES, *TAR_SUFFIXES, ".parquet"),
    (".aselmdb", ".lmdb"),
    XYZ_SUFFIXES,
    (".db", ".traj"),
)
#: After structure files, beside which there may be others of these.
_LAST_SHARDS: tuple[tuple[str, ...], ...] = ((".json", ".json.gz"), (".csv",))


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
            return [str(name) for name in (range(len(self)) if self.items.ids is None else self.items.ids)]
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


def open_data(
    path: str | os.PathLike[str], *, allow_pickle: bool = False, read_limits: ReadLimits | None = None
) -> Data:
    """Open a dataset on disk, with items that can be read in any order.

    Args:
        path: JSON of structures of JARVIS, pymatgen or ASE (also .json.gz and .json.zip), one entry per line (.jsonl),
            extended XYZ, Parquet or CSV with a column `atoms`, `structure` or `cif`, an ASE database (.db, .aselmdb) or
            trajectory, a .tar, a folder that alignn trains on (id_prop.csv and structure files, or id_prop.json), of
            structure files or of any of these, a DGL graph cache (.bin), an LMDB of pickled graphs, several of these by
            a pattern (`part-{00..99}.tar`, `*.jsonl`), or measured sizes (.npz, .csv, .parquet).
        allow_pickle: Read an LMDB: its records are pickles, and reading one can run any code.
        read_limits: Sizes above which a file or a record is refused.

    Raises:
        InputError: There is no such path, its format is not supported, it is damaged, it is empty, or it can only be
            read from front to back (packed .jsonl and .tar).
        MissingError: A package that reads it is not installed.
    """
    source = open_source(path, allow_pickle=allow_pickle, read_limits=read_limits)
    items, kind = (source, "sizes") if isinstance(source, SizeTable) else (source.items(), source.kind)
    if not len(items):
        raise empty_dataset(path)
    return Data(items, kind, str(path))


def open_source(
    path: str | os.PathLike[str], *, allow_pickle: bool = False, read_limits: ReadLimits | None = None
) -> RecordSource | SizeTable:
    """Open a dataset to be read from front to back; see `open_data`, and also .jsonl.gz and .tar.gz."""
    place, read_limits = Path(path), read_limits or ReadLimits()
    if place.is_dir():
        return _open_folder(place, allow_pickle, read_limits)
    if place.exists():
        return _open_file(place, allow_pickle, read_limits)
    if not (glob.has_magic(str(path)) or "{" in str(path)):
        raise InputError(f"{str(path)!r} does not exist", hint="check the path")
    return _joined(place, shards.expanded(str(path)), allow_pickle, read_limits)


def empty_dataset(path: str | os.PathLike[str]) -> InputError:
    """Return the error that a dataset has nothing in it."""
    return InputError(f"{str(path)!r} is empty", limit="at least one crystal or graph is needed", hint="check the path")


def _open_file(path: Path, allow_pickle: bool, read_limits: ReadLimits) -> RecordSource | SizeTable:
    if not path.is_file():
        # A named pipe would be waited for, a device read forever.
        raise InputError(f"{str(path)!r} is not a regular file", limit=SUPPORTED, hint="name regular files")
    name = path.name.lower()
    if name.endswith(".parquet") and holds_structures(path, read_limits):
        return Parquet(path, read_limits)
    if name.endswith(".csv") and csv_files.holds_structures(path, read_limits):
        return csv_files.Csv(path, read_limits)
    if name.endswith(SIZE_SUFFIXES):
        return SizeTable.load(path)
    if name.endswith(".lmdb") and holds_pickles(path):
        return _open_lmdb(path, allow_pickle)
    for suffixes, reader in _READERS:
        if name.endswith(suffixes):
            return reader(path, read_limits)
    if is_structure_file(name):
        return Folder(path.parent, [path.name], read_limits)
    raise unsupported(path)


def _open_folder(path: Path, allow_pickle: bool, read_limits: ReadLimits) -> RecordSource | SizeTable:
    for name in _FOLDER_FILES:
        if (path / name).is_file():
            return JsonList(path / name, read_limits)
    if (path / "id_prop.csv").is_file():
        return Folder(path, None, read_limits)
    if (path / "data.mdb").is_file():
        return _open_lmdb(path, allow_pickle)
    names = [file.name for file in shards.in_folder(path, ("",)) if is_structure_file(file.name)]
    for group in _SHARDS if not names else _SHARDS[:1]:
        if files := shards.in_folder(path, group):
            return _joined(path, files, allow_pickle, read_limits)
    if names:
        return Folder(path, names, read_limits)
    for group in _LAST_SHARDS:
        if files := shards.in_folder(path, group):
            return _joined(path, files, allow_pickle, read_limits)
    raise InputError(
        f"the folder {str(path)!r} has no id_prop.csv, id_prop.json, data.mdb, shards or structure files",
        limit=SUPPORTED,
        hint="name the folder that has one, or the files by a pattern such as 'FOLDER/*/*.cif'",
    )


def _joined(path: Path, files: Sequence[Path], allow_pickle: bool, read_limits: ReadLimits) -> RecordSource:
    parts: list[RecordSource] = []
    for file in files:
        part = _open_file(file, allow_pickle, read_limits)
        if isinstance(part, SizeTable):
            raise InputError(f"{str(file)!r} among several files holds sizes", hint="name it alone")
        if isinstance(part, Xyz):
            part.label = file.name
        parts.append(part)
    return shards.Shards(path, parts)


def _open_lmdb(path: Path, allow_pickle: bool) -> RecordSource:
    if not allow_pickle:
        raise InputError(
            f"{str(path)!r} is an LMDB of pickled graphs, and reading a pickle can run any code that its maker wrote",
            hint="pass --allow-pickle (allow_pickle=True) if you made it yourself; OC20's metadata.npz has numbers of "
            "atoms",
        )
    # Imported only on request, so that nobody else imports the reader of pickles.
    from nodebudget.datasets.readers.lmdb import Lmdb

    return Lmdb(path)
