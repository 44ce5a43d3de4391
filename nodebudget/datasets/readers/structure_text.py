"""The text of one structure file, read as alignn reads it, within limits that keep crafted ones from taking forever."""

from __future__ import annotations

import re
import shutil
import tempfile
import warnings
from typing import Any

import numpy as np

from nodebudget.datasets.read_limits import ReadLimits
from nodebudget.datasets.readers.cif_symmetry import bounded_symmetry
from nodebudget.datasets.sample_error import SampleError
from nodebudget.errors import NodeBudgetError, first_line
from nodebudget.utils.optional_imports import require

#: Å; the cell that alignn's training script puts a molecule of an .xyz file into.
_XYZ_BOX = 500
#: Atoms of a CIF. jarvis searches its primitive cell with spglib, whose time grows with the square: 40 s here. The
#: largest MOFs have some 4,000; larger cells can be given as POSCAR or JSON, which are not reduced.
_MAX_SITES = 10_000
#: Consecutive digits. The time of jarvis's regular expression for symmetry operations grows with their cube.
_DIGITS = re.compile(r"[\d.]{40}")


def parse_structure(
    name: str, content: bytes | SampleError, read_limits: ReadLimits, *, full: bool = False
) -> dict[str, Any] | SampleError:
    """Return the `atoms` of a JARVIS entry from a CIF (.cif), an .xyz or, with any other name, a POSCAR.

    `content` is that of the file, or why it can't be read. Where there are no atoms, the reason is returned. `full`:
    take all atoms of a CIF's cell, as pymatgen and CGCNN do, where alignn takes those of its primitive cell.
    """
    require("jarvis.core.atoms")
    if isinstance(content, SampleError):
        return content
    if len(content) > read_limits.max_record:
        return SampleError(f"{name!r}: {read_limits.too_large(len(content))}")
    try:
        return _parse(name.lower(), content.decode(), full=full)
    except SampleError as error:
        return SampleError(f"{name!r}: {error}")
    except UnicodeDecodeError as error:
        return SampleError(f"{name!r} is not a crystal structure (it is not UTF-8: {error.reason})")


def parse_full_cif(text: str) -> dict[str, Any]:
    """Return the `atoms` of a JARVIS entry from a CIF with all atoms of its cell, as pymatgen and ASE read it.

    Raises:
        SampleError: There are no atoms, or a site is shared by several.
    """
    return _parse("a.cif", text, full=True)


def _parse(name: str, text: str, *, full: bool = False) -> dict[str, Any]:
    try:
        with warnings.catch_warnings():
            # jarvis uses spglib in a way that spglib is about to drop, and numpy warns of infinities.
            warnings.simplefilter("ignore")
            return dict(_parsed(name, text, full=full).to_dict())
    except (SampleError, NodeBudgetError):
        raise
    except Exception as error:
        # jarvis's parsers index into whatever they read, so a damaged file can raise anything.
        raise SampleError(f"it is not a crystal structure ({type(error).__name__}: {first_line(error)})") from error


def _parsed(name: str, text: str, *, full: bool) -> Any:
    if not text.strip():
        raise SampleError("it is empty")
    if name.endswith(".cif"):
        return _parse_cif(text, full=full)
    if name.endswith(".xyz"):
        return _from_file(text, ".xyz", lambda atoms, path: atoms.from_xyz(path, box_size=_XYZ_BOX))
    rows = text.splitlines()
    # As jarvis reads them, signs and all.
    counts = [int(word) for word in rows[6].split()]
    if min(counts, default=0) < 0 or sum(counts) > len(rows):
        raise SampleError(f"it declares {sum(counts):.3g} atoms, which is negative or more than it has lines")
    return require("jarvis.io.vasp.inputs").Poscar.from_string(text).atoms


def _parse_cif(text: str, *, full: bool) -> Any:
    if _DIGITS.search(text):
        raise SampleError("it has a number of over 40 digits")
    if full:
        _check_ordered(text)
    # jarvis hands CIFs to the program cif2cell where that is installed. Asked for it where it is not, it prints the
    # shell's complaint and then reads them itself.
    if not full and shutil.which("cif2cell"):
        return _from_file(text, ".cif", lambda atoms, path: atoms.from_cif(path, use_cif2cell=True))
    with bounded_symmetry():
        cell = require("jarvis.core.atoms").Atoms.from_cif(
            from_string=text, use_cif2cell=False, get_primitive_atoms=False
        )
    # spglib ends the process over values that are not numbers.
    if not (np.isfinite(cell.lattice_mat).all() and np.isfinite(np.asarray(cell.frac_coords, dtype=float)).all()):
        raise SampleError("its lattice or its coordinates are not all finite numbers")
    if full:
        return cell
    if cell.num_atoms > _MAX_SITES:
        raise SampleError(
            f"it has {cell.num_atoms} atoms, over the limit of {_MAX_SITES} for a CIF, whose primitive cell is "
            "searched; a POSCAR may have more"
        )
    return cell.get_primitive_atoms


def _check_ordered(text: str) -> None:
    """Raise a SampleError where a site is occupied in part: jarvis would take all that share it for atoms."""
    names: list[str] = []
    for line in map(str.strip, text.splitlines()):
        if line.startswith("_"):
            names = [*names, line.split()[0]] if line.startswith("_atom_site_") else []
        elif line.startswith(("loop_", "data_", "#")) or not line:
            names = []
        elif "_atom_site_occupancy" in names and len(values := line.split()) == len(names):
            occupancy = values[names.index("_atom_site_occupancy")].split("(")[0]
            if occupancy not in ("?", ".") and float(occupancy) < 1:
                raise SampleError(f"its site {values[0]} is disordered (occupancy {occupancy}); make it ordered")


def _from_file(text: str, suffix: str, read: Any) -> Any:
    """Let jarvis read a text that it takes from a file only."""
    with tempfile.NamedTemporaryFile("w", suffix=suffix, encoding="utf-8") as file:
        file.write(text)
        file.flush()
        return read(require("jarvis.core.atoms").Atoms, file.name)
