"""Datasets on disk, in each format that is read bit by bit, from one list of JARVIS entries."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from nodebudget.frameworks import require

Entries = list[dict[str, Any]]


def write_lines(path: Path, entries: Entries) -> Path:
    text = "".join(f"{json.dumps(entry)}\n" for entry in entries).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


def write_list(path: Path, entries: Entries) -> Path:
    path.write_text(json.dumps(entries))
    return path


def write_parquet(path: Path, entries: Entries, *, text: bool = False, rows: int = 5) -> Path:
    arrow, parquet = require("pyarrow"), require("pyarrow.parquet")
    made = [{**entry, "atoms": json.dumps(entry["atoms"]) if text else entry["atoms"]} for entry in entries]
    parquet.write_table(arrow.Table.from_pylist(made), path, row_group_size=rows)
    return path


def write_ase(path: Path, entries: Entries) -> Path:
    jarvis = require("jarvis.core.atoms").Atoms
    with require("ase.db").connect(path) as database:
        for entry in entries:
            database.write(jarvis.from_dict(entry["atoms"]).ase_converter(), target=entry["target"])
    return path


def write_members(path: Path, members: Iterable[tuple[str, bytes]]) -> Path:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    path.write_bytes(gzip.compress(made.getvalue()) if path.name.endswith("gz") else made.getvalue())
    return path


def write_webdataset(path: Path, entries: Entries) -> Path:
    """Samples of several members, a pickle among them that nobody must touch."""
    members: list[tuple[str, bytes]] = [("README.md", b"not a sample")]
    for number, entry in enumerate(entries):
        json_text = json.dumps(entry).encode()
        members += [(f"{number:05d}.cls", b"1"), (f"{number:05d}.json", json_text), (f"{number:05d}.pickle", b"!")]
    return write_members(path, members)


def write_shards(path: Path, entries: Entries) -> Path:
    path.mkdir()
    for start in range(0, len(entries), 5):
        write_lines(path / f"part-{start // 5:02d}.jsonl", entries[start : start + 5])
    return path


#: Name of a file or folder → what writes it. All can be read in any order but the packed ones.
WRITERS: dict[str, Callable[[Path, Entries], Path]] = {
    "list.json": write_list,
    "lines.jsonl": write_lines,
    "packed.jsonl.gz": write_lines,
    "struct.parquet": write_parquet,
    "text.parquet": lambda path, entries: write_parquet(path, entries, text=True),
    "ase.db": write_ase,
    "shard.tar": write_webdataset,
    "packed.tar.gz": write_webdataset,
    "shards": write_shards,
}
PACKED = ("packed.jsonl.gz", "packed.tar.gz")


def structure_files(entries: Entries) -> list[tuple[str, bytes]]:
    """POSCARs of the entries, with their names."""
    poscar, atoms = require("jarvis.io.vasp.inputs").Poscar, require("jarvis.core.atoms").Atoms
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        texts = [poscar(atoms.from_dict(entry["atoms"])).to_string() for entry in entries]
    return [(f"POSCAR-{number:02d}.vasp", text.encode()) for number, text in enumerate(texts)]
