"""Structure files, read as alignn reads them, within bounds that keep a broken or crafted one from taking for ever."""

from __future__ import annotations

import re
import shutil
import tempfile
import warnings
from typing import Any

import numpy as np

from nodebudget.datasets.counting.neighbors import UnusableError
from nodebudget.datasets.read_limits import Bounds
from nodebudget.datasets.readers.cif_symmetry import bounded_symmetry
from nodebudget.utils.optional_imports import require

#: Names of structure files, by their ends; anything else that is named as one is a POSCAR.
SUFFIXES = (".cif", ".vasp", ".poscar", ".contcar", ".xyz")

#: Å; the cell that alignn's training script puts a molecule of an .xyz file into.
_XYZ_BOX = 500
#: Atoms of a CIF. jarvis looks for its primitive cell with spglib, whose time grows with the square: 40 s here. The
#: largest MOFs have some 4,000; larger cells can be given as POSCAR or JSON, which are taken as they are.
_MAX_SITES = 10_000
#: Digits in a row. jarvis's regular expression for symmetry operations takes the cube of them.
_DIGITS = re.compile(r"[\d.]{40}")


def read_structure(name: str, content: bytes, bounds: Bounds) -> dict[str, Any]:
    """Read a CIF (.cif), an .xyz or, with any other name, a POSCAR file.

    Args:
        name: The file's name, for its end and for messages.
        content: What is in the file.
        bounds: How large it may be.

    Returns:
        The `atoms` of a JARVIS entry.

    Raises:
        UnusableError: It holds no crystal, or is over the bounds.
        MissingError: jarvis-tools is not there.
    """
    require("jarvis.core.atoms")
    if len(content) > bounds.record:
        raise UnusableError(bounds.too_large(len(content)))
    try:
        with warnings.catch_warnings():
            # jarvis uses spglib in a way that spglib is about to drop, and numpy warns of infinities.
            warnings.simplefilter("ignore")
            values: dict[str, Any] = dict(_read(name.lower(), content.decode()).to_dict())
    except UnusableError as error:
        raise UnusableError(f"{name!r}: {error}") from error
    except Exception as error:
        # jarvis's parsers index into whatever they find, so a damaged file can raise anything.
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:150]}"
        raise UnusableError(f"{name!r} holds no crystal ({reason})") from error
    return values


def _read(name: str, text: str) -> Any:
    if not text.strip():
        raise UnusableError("it is empty")
    if name.endswith(".cif"):
        return _read_cif(text)
    if name.endswith(".xyz"):
        return _read_xyz(text)
    rows = text.splitlines()
    # As jarvis reads them, signs and all.
    counts = [int(word) for word in rows[6].split()]
    if min(counts, default=0) < 0 or sum(counts) > len(rows):
        raise UnusableError(f"it announces {sum(counts):.3g} atoms, not as many as it has lines or fewer")
    return require("jarvis.io.vasp.inputs").Poscar.from_string(text).atoms


def _read_xyz(text: str) -> Any:
    # jarvis reads these from a file only.
    with tempfile.NamedTemporaryFile("w", suffix=".xyz", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        return require("jarvis.core.atoms").Atoms.from_xyz(file.name, box_size=_XYZ_BOX)


def _read_cif(text: str) -> Any:
    if _DIGITS.search(text):
        raise UnusableError("it has a number of over 40 digits")
    atoms = require("jarvis.core.atoms").Atoms
    # jarvis hands CIFs to the program cif2cell where that is installed. Asked for it where it is not, it prints the
    # shell's complaint and then reads them itself.
    if shutil.which("cif2cell"):
        with tempfile.NamedTemporaryFile("w", suffix=".cif", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            return atoms.from_cif(file.name, use_cif2cell=True)
    with bounded_symmetry():
        cell = atoms.from_cif(from_string=text, use_cif2cell=False, get_primitive_atoms=False)
    # spglib ends the process over what is no number.
    if not (np.isfinite(cell.lattice_mat).all() and np.isfinite(np.asarray(cell.frac_coords, dtype=float)).all()):
        raise UnusableError("its lattice or its coordinates are not all finite numbers")
    if cell.num_atoms > _MAX_SITES:
        raise UnusableError(
            f"it has {cell.num_atoms} atoms, over the limit of {_MAX_SITES} for a CIF, whose primitive cell is "
            "looked for; a POSCAR may have more"
        )
    return cell.get_primitive_atoms
