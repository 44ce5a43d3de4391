"""A dataset on disk to a sequence of crystals, graphs or sizes."""

from __future__ import annotations

import csv
import gzip
import json
import os
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nodebudget.errors import CrystalError, InputError
from nodebudget.frameworks import load_dgl
from nodebudget.measure.rows import entry_id
from nodebudget.measure.structures import read_structure
from nodebudget.sizes import SUFFIXES, SizeTable

_KINDS = (
    "a JARVIS-style .json, .json.gz or .json.zip, a folder with id_prop.csv, a DGL .bin, "
    "or sizes as .npz, .csv or .parquet"
)
#: What alignn reads in a folder, in its order.
_FOLDER_FILES = ("id_prop.json.zip", "id_prop.json")


@dataclass(frozen=True)
class Data:
    """A dataset on disk, opened.

    Attributes:
        items: For "crystals" JARVIS-style dicts (`jid`, `atoms` and whatever else the source has); for
            "graphs" DGL graphs or tuples that start with one; for "sizes" the SizeTable itself. Files of a
            folder and records of an LMDB are read when they are asked for.
        ids: A name for each item.
        kind: "crystals", "graphs" or "sizes".
        source: The path that it came from.
    """

    items: Sequence[Any] | SizeTable
    ids: list[str]
    kind: str
    source: str = ""

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        """Return an item; of "sizes", the row as a dict.

        Raises:
            CrystalError: The file of a crystal can't be read.
        """
        if isinstance(self.items, SizeTable):
            return {name: values[index].item() for name, values in self.items.columns.items()}
        return self.items[index]


def open_data(path: str | os.PathLike[str], *, allow_pickle: bool = False) -> Data:
    """Open a dataset.

    Args:
        path: A JARVIS-style JSON (a list of dicts with `atoms`; also .json.gz and .json.zip), a folder
            that alignn trains on (id_prop.csv and structure files, or id_prop.json), a DGL graph cache
            (.bin), an LMDB as alignn writes it, or measured sizes (.npz, .csv, .parquet).
        allow_pickle: Read an LMDB: its records are pickles, and reading one can run any code.

    Raises:
        InputError: There is no such path, it is of another kind, it is damaged, or it is empty.
        MissingError: A package that reads it is not there.
    """
    place = Path(path)
    if not place.exists():
        raise InputError(f"there is no file or folder {str(path)!r}", hint="check the path")
    data = _open_folder(place, allow_pickle) if place.is_dir() else _open_file(place)
    if not len(data):
        raise InputError(
            f"{str(path)!r} is empty", limit="at least one crystal or graph", hint="give a dataset that has some"
        )
    return replace(data, source=str(path))


def _open_file(path: Path) -> Data:
    name = path.name.lower()
    if name.endswith(SUFFIXES):
        table = SizeTable.load(path)
        return Data(table, _ids_of(table), "sizes")
    if name.endswith((".json", ".json.gz", ".zip")):
        return _open_json(path)
    if name.endswith(".bin"):
        return _open_bin(path)
    raise InputError(
        f"{str(path)!r} is no kind of dataset that can be read", limit=_KINDS, hint="turn it into one of these"
    )


def _ids_of(table: SizeTable) -> list[str]:
    return [str(i) for i in range(len(table))] if table.ids is None else [str(name) for name in table.ids]


def _open_json(path: Path) -> Data:
    try:
        entries = json.loads(_json_text(path))
    except (ValueError, RecursionError, OSError, EOFError, zlib.error, zipfile.BadZipFile, RuntimeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{str(path)!r} holds no JSON: {' '.join(str(error).split())[:150]}", hint="check that it is whole"
        ) from error
    if not isinstance(entries, list):
        raise InputError(
            f"{str(path)!r} holds a {type(entries).__name__}",
            limit="a list of dicts with 'atoms', as JARVIS has it",
            hint="turn it into such a list",
        )
    if entries and not any(isinstance(entry, dict) and "atoms" in entry for entry in entries):
        raise InputError(
            f"no entry of {str(path)!r} has 'atoms'",
            limit="a list of dicts with 'atoms'",
            hint="name the key of the structures 'atoms'",
        )
    return Data(entries, [entry_id(entry) or str(index) for index, entry in enumerate(entries)], "crystals")


def _json_text(path: Path) -> bytes:
    if path.suffix.lower() == ".gz":
        return gzip.decompress(path.read_bytes())
    if path.suffix.lower() != ".zip":
        return path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.endswith(".json") and not name.startswith("__MACOSX")]
        if len(names) != 1:
            raise InputError(
                f"{str(path)!r} holds {len(names)} .json files",
                limit="exactly one",
                hint="unpack it and name the file that you mean",
            )
        return archive.read(names[0])


def _open_bin(path: Path) -> Data:
    dgl = load_dgl()
    try:
        graphs, _ = dgl.load_graphs(str(path))
    except (dgl.DGLError, OSError, ValueError, RuntimeError) as error:
        raise InputError(
            f"{str(path)!r} holds no DGL graphs: {' '.join(str(error).split())[:150]}",
            hint="make it with dgl.save_graphs",
        ) from error
    return Data(graphs, [str(index) for index in range(len(graphs))], "graphs")


def _open_folder(path: Path, allow_pickle: bool) -> Data:
    for name in _FOLDER_FILES:
        if (path / name).is_file():
            return _open_json(path / name)
    if (path / "id_prop.csv").is_file():
        names = _names_in(path / "id_prop.csv")
        return Data(_Files(path, names), names, "crystals")
    if (path / "data.mdb").is_file():
        return _open_lmdb(path, allow_pickle)
    raise InputError(
        f"the folder {str(path)!r} has no id_prop.csv, id_prop.json or data.mdb",
        limit=_KINDS,
        hint="name the folder that has one",
    )


def _names_in(path: Path) -> list[str]:
    try:
        with path.open(encoding="utf-8", newline="") as text:
            return [row[0].strip() for row in csv.reader(text) if row and row[0].strip()]
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"{str(path)!r} can't be read: {error}", hint="one line a crystal: file,target") from error


class _Files(Sequence[Any]):
    """The structure files that an id_prop.csv names, read one by one."""

    def __init__(self, folder: Path, names: list[str]) -> None:
        self._folder, self._names = folder, names

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: Any) -> Any:
        name = self._names[index]
        try:
            return {"jid": name, "atoms": read_structure(self._folder / name)}
        except ValueError as error:
            raise CrystalError(index, name, str(error)) from error


def _open_lmdb(path: Path, allow_pickle: bool) -> Data:
    if not allow_pickle:
        raise InputError(
            f"{str(path)!r} is an LMDB of pickled graphs, and reading a pickle can run any code that its maker wrote",
            hint="pass --allow-pickle (allow_pickle=True) if you made it yourself",
        )
    # Only here, so that nobody who has not asked for it imports pickle's reader.
    from nodebudget.measure.lmdb import Records

    records = Records(path)
    return Data(records, [str(index) for index in range(len(records))], "graphs")
