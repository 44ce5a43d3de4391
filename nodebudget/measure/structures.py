"""Structure files, read as alignn reads them."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from typing import Any

from nodebudget.frameworks import require
from nodebudget.measure.neighbors import UnusableError

#: Å; the cell that alignn's training script puts a molecule of an .xyz file into.
_XYZ_BOX = 500


def read_structure(path: Path) -> dict[str, Any]:
    """Read a CIF (.cif), an .xyz or, with any other name, a POSCAR file.

    Returns:
        The `atoms` of a JARVIS entry.

    Raises:
        UnusableError: There is no such file, or it holds no crystal.
        MissingError: jarvis-tools is not there.
    """
    atoms = require("jarvis.core.atoms").Atoms
    if not path.is_file():
        raise UnusableError(f"there is no file {str(path)!r}")
    try:
        with warnings.catch_warnings():
            # jarvis uses spglib in a way that spglib is about to drop.
            warnings.simplefilter("ignore", DeprecationWarning)
            values: dict[str, Any] = dict(_read(atoms, path).to_dict())
    except Exception as error:
        # jarvis's parsers index into whatever they find, so a damaged file can raise anything.
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:150]}"
        raise UnusableError(f"{str(path)!r} holds no crystal ({reason})") from error
    return values


def _read(atoms: Any, path: Path) -> Any:
    suffix = path.suffix.lower()
    if suffix == ".cif":
        # jarvis hands CIFs to the program cif2cell where that is installed. Asked for it where it is not,
        # it prints the shell's complaint and then reads them itself.
        return atoms.from_cif(str(path), use_cif2cell=shutil.which("cif2cell") is not None)
    if suffix == ".xyz":
        return atoms.from_xyz(str(path), box_size=_XYZ_BOX)
    return atoms.from_poscar(str(path))
