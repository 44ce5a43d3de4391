"""Structure files, read as alignn reads them, within limits that keep broken and crafted ones from taking forever.

A folder of them may have an id_prop.csv that lists them, as alignn's training script takes it.
"""

from __future__ import annotations

import csv
import re
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nodebudget.datasets.read_limits import ReadLimits
from nodebudget.datasets.readers.cif_symmetry import bounded_symmetry
from nodebudget.datasets.readers.source import Chunk, LazyItems, NamedSample, RecordSource, chunked
from nodebudget.datasets.sample_error import SampleError
from nodebudget.errors import InputError, first_line
from nodebudget.utils.optional_imports import require

#: Suffixes of structure files in a folder; any other file that is named as one is a POSCAR.
SUFFIXES = (".cif", ".vasp", ".poscar", ".contcar", ".xyz")

#: Å; the cell that alignn's training script puts a molecule of an .xyz file into.
_XYZ_BOX = 500
#: Atoms of a CIF. jarvis searches its primitive cell with spglib, whose time grows with the square: 40 s here. The
#: largest MOFs have some 4,000; larger cells can be given as POSCAR or JSON, which are not reduced.
_MAX_SITES = 10_000
#: Consecutive digits. The time of jarvis's regular expression for symmetry operations grows with their cube.
_DIGITS = re.compile(r"[\d.]{40}")

#: Name and content of a file, or why it can't be read.
_Record = tuple[str, "bytes | SampleError", ReadLimits]


class Folder(RecordSource):
    """Structure files in a folder: those of these names or, with None, those that its id_prop.csv lists."""

    def __init__(self, path: Path, names: list[str] | None, read_limits: ReadLimits) -> None:
        super().__init__(path, read_limits)
        lists = [path / "id_prop.csv"] if names is None else []
        self._names = _listed(lists[0]) if names is None else names
        self.files = [*lists, *(path / name for name in self._names)]

    def count(self) -> int:
        return len(self._names)

    def chunks(self, start: int) -> Iterator[Chunk]:
        records = map(self._record, range(start, len(self._names)))
        sized = ((record, len(record[1]) if isinstance(record[1], bytes) else 0) for record in records)
        yield from chunked(sized, start, _decode_file)

    def items(self) -> Sequence[Any]:
        """Return the files as JARVIS-style dicts, each read when it is asked for."""
        return LazyItems(len(self._names), self._read)

    def _read(self, index: int) -> NamedSample:
        return _decode_file(self._record(index))

    def _record(self, index: int) -> _Record:
        name = self._names[index]
        return name, _content(self.path / name, self.read_limits), self.read_limits


def _decode_file(record: _Record) -> NamedSample:
    name, content, read_limits = record
    atoms = parse_structure(name, content, read_limits)
    return name, atoms if isinstance(atoms, SampleError) else {"jid": name, "atoms": atoms}


def _content(path: Path, read_limits: ReadLimits) -> bytes | SampleError:
    try:
        # A named pipe or a device in a dataset would be read forever.
        if not path.is_file():
            return SampleError(f"{str(path)!r} does not exist, or is not a regular file")
        if (size := path.stat().st_size) > read_limits.max_record:
            return SampleError(read_limits.too_large(size))
        with path.open("rb") as file:
            return file.read(read_limits.max_record + 1)
    except OSError as error:
        return SampleError(f"{str(path)!r} can't be read: {error.strerror}")


def _listed(path: Path) -> list[str]:
    try:
        with path.open(encoding="utf-8", newline="") as text:
            return [row[0].strip() for row in csv.reader(text) if row and row[0].strip()]
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(
            f"{str(path)!r} can't be read: {error}", hint="write one line per crystal: file,target"
        ) from error


def parse_structure(name: str, content: bytes | SampleError, read_limits: ReadLimits) -> dict[str, Any] | SampleError:
    """Return the `atoms` of a JARVIS entry from a CIF (.cif), an .xyz or, with any other name, a POSCAR.

    `content` is that of the file, or why it can't be read. Where there are no atoms, the reason is returned.
    """
    require("jarvis.core.atoms")
    if isinstance(content, SampleError):
        return content
    if len(content) > read_limits.max_record:
        return SampleError(f"{name!r}: {read_limits.too_large(len(content))}")
    try:
        with warnings.catch_warnings():
            # jarvis uses spglib in a way that spglib is about to drop, and numpy warns of infinities.
            warnings.simplefilter("ignore")
            return dict(_parse(name.lower(), content.decode()).to_dict())
    except SampleError as error:
        return SampleError(f"{name!r}: {error}")
    except Exception as error:
        # jarvis's parsers index into whatever they read, so a damaged file can raise anything.
        return SampleError(f"{name!r} is not a crystal structure ({type(error).__name__}: {first_line(error)})")


def _parse(name: str, text: str) -> Any:
    if not text.strip():
        raise SampleError("it is empty")
    if name.endswith(".cif"):
        return _parse_cif(text)
    if name.endswith(".xyz"):
        return _from_file(text, ".xyz", lambda atoms, path: atoms.from_xyz(path, box_size=_XYZ_BOX))
    rows = text.splitlines()
    # As jarvis reads them, signs and all.
    counts = [int(word) for word in rows[6].split()]
    if min(counts, default=0) < 0 or sum(counts) > len(rows):
        raise SampleError(f"it declares {sum(counts):.3g} atoms, which is negative or more than it has lines")
    return require("jarvis.io.vasp.inputs").Poscar.from_string(text).atoms


def _parse_cif(text: str) -> Any:
    if _DIGITS.search(text):
        raise SampleError("it has a number of over 40 digits")
    # jarvis hands CIFs to the program cif2cell where that is installed. Asked for it where it is not, it prints the
    # shell's complaint and then reads them itself.
    if shutil.which("cif2cell"):
        return _from_file(text, ".cif", lambda atoms, path: atoms.from_cif(path, use_cif2cell=True))
    with bounded_symmetry():
        cell = require("jarvis.core.atoms").Atoms.from_cif(
            from_string=text, use_cif2cell=False, get_primitive_atoms=False
        )
    # spglib ends the process over values that are not numbers.
    if not (np.isfinite(cell.lattice_mat).all() and np.isfinite(np.asarray(cell.frac_coords, dtype=float)).all()):
        raise SampleError("its lattice or its coordinates are not all finite numbers")
    if cell.num_atoms > _MAX_SITES:
        raise SampleError(
            f"it has {cell.num_atoms} atoms, over the limit of {_MAX_SITES} for a CIF, whose primitive cell is "
            "searched; a POSCAR may have more"
        )
    return cell.get_primitive_atoms


def _from_file(text: str, suffix: str, read: Any) -> Any:
    """Let jarvis read a text that it takes from a file only."""
    with tempfile.NamedTemporaryFile("w", suffix=suffix, encoding="utf-8") as file:
        file.write(text)
        file.flush()
        return read(require("jarvis.core.atoms").Atoms, file.name)
