"""Structures as pymatgen, ASE and CIF files write them, to the `atoms` of a JARVIS entry; nothing in them can run.

Where a structure is not periodic along all three vectors, its `atoms` have a further key `pbc`, three booleans, and
vectors along which it is not periodic may be made up.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from nodebudget.datasets.readers.structure_text import parse_full_cif
from nodebudget.datasets.sample_error import SampleError
from nodebudget.errors import first_line
from nodebudget.utils.optional_imports import require

#: Keys that hold the structure of an entry, in order of preference.
STRUCTURE_KEYS = ("atoms", "structure", "cif")
#: Keys by which a dict is known for a structure: of JARVIS, pymatgen's Structure and Molecule, and ASE.
SIGNS = (
    {"lattice_mat", "coords"},
    {"lattice", "sites"},
    {"sites", "spin_multiplicity"},
    {"numbers", "positions"},
)
#: Å; the length of made-up vectors: the cell that alignn's training script puts a molecule of an .xyz file into.
_BOX = 500.0
_CIF = re.compile(r"^\s*_cell_length_a\s", re.MULTILINE)
_PERIODIC = (True, True, True)


def jarvis_entry(sample: Any, key: str | None = None) -> Any:
    """Return a sample with its structure as JARVIS's `atoms`; a sample that is not a dict is returned as it is.

    Args:
        sample: An entry with a structure, or a structure: of JARVIS, pymatgen or ASE as a dict, or a CIF as text.
        key: Key of the structure in the entry; None: "atoms", "structure", "cif", or the only value that is one.

    Raises:
        SampleError: The structure is missing, disordered, empty or not complete.
    """
    if not isinstance(sample, Mapping):
        return sample
    if key is not None and key not in sample:
        raise SampleError(f"it has no {key!r}; its keys are {_listed(sample)}")
    if key is None and not is_structure(sample):
        key = _structure_key(sample)
    value, rest = (sample, sample.get("key_value_pairs") or {}) if key is None else (sample[key], sample)
    if key in (None, "atoms") and (not is_structure(value) or (isinstance(value, Mapping) and "lattice_mat" in value)):
        return sample  # JARVIS's own, which is checked where it is counted
    return {**{name: other for name, other in rest.items() if name != key}, "atoms": to_jarvis(value)}


def is_structure(value: Any) -> bool:
    """Return whether a value is a structure that `to_jarvis` takes."""
    if isinstance(value, Mapping):
        return any(sign <= value.keys() for sign in SIGNS)
    return isinstance(value, str) and (value.lstrip().startswith("{") or bool(_CIF.search(value)))


def to_jarvis(value: Any) -> dict[str, Any]:
    """Return the `atoms` of a JARVIS entry.

    Args:
        value: A dict of pymatgen's Structure or Molecule, of ASE's Atoms, or of JARVIS, the JSON text of one, or a CIF.

    Raises:
        SampleError: It is not a structure, or a disordered one.
    """
    try:
        if isinstance(value, str):
            return parse_full_cif(value) if _CIF.search(value) else to_jarvis(json.loads(value))
        if not is_structure(value):
            what = "dict with the keys " + _listed(value) if isinstance(value, Mapping) else type(value).__name__
            raise SampleError(f"it is a {what}, not a structure of JARVIS, pymatgen or ASE")
        if "sites" in value:
            return _from_pymatgen(value)
        if "numbers" in value:
            symbols = atomic_symbols(_array(value["numbers"]))
            cell, pbc = (None if value.get(name) is None else _array(value[name]) for name in ("cell", "pbc"))
            return boxed(symbols, _array(value["positions"]), cell, pbc)
        return dict(value)
    except SampleError:
        raise
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError, OverflowError) as error:
        raise SampleError(f"its structure is damaged: {type(error).__name__}: {first_line(error)}") from error


def boxed(symbols: Sequence[str], positions: Any, cell: Any = None, pbc: Any = None) -> dict[str, Any]:
    """Return the `atoms` of a JARVIS entry for atoms in a cell, or in none.

    Args:
        symbols: Elements, n of them.
        positions: Å, shape (n, 3).
        cell: Lattice vectors in Å, shape (3, 3), those that are zero are missing; None: there are none.
        pbc: Whether it is periodic along each; default: along those that there are.

    Raises:
        SampleError: It has no atoms, or is periodic along a vector that is missing.
    """
    coords = np.asarray(positions, dtype=np.float64).reshape(-1, 3)
    matrix = np.zeros((3, 3)) if cell is None else np.asarray(cell, dtype=np.float64).reshape(3, 3)
    if not len(coords):
        raise SampleError("it has no atoms")
    given = matrix.any(axis=1)
    periodic = given if pbc is None else np.asarray(pbc).astype(bool).reshape(-1)
    periodic = np.broadcast_to(periodic, 3)
    if (periodic & ~given).any():
        raise SampleError("it is periodic along a vector of length 0; give it a cell, or no periodic boundaries")
    atoms: dict[str, Any] = {
        "lattice_mat": _completed(matrix, periodic, coords).tolist(),
        "coords": coords.tolist(),
        "elements": list(symbols),
        "cartesian": True,
        "props": [""] * len(coords),
    }
    return atoms if periodic.all() else {**atoms, "pbc": periodic.tolist()}


def atomic_symbols(numbers: Any) -> list[str]:
    """Return the elements of atomic numbers."""
    symbols = require("ase.data").chemical_symbols
    wrong = [number for number in np.asarray(numbers).tolist() if not 0 <= number < len(symbols)]
    if wrong:
        raise SampleError(f"it has an atom of the atomic number {wrong[0]}")
    return [symbols[int(number)] for number in np.asarray(numbers).tolist()]


def _completed(matrix: Any, periodic: Any, coords: Any) -> npt.NDArray[np.float64]:
    """Replace the vectors that are missing, or all that are not needed where these are flat, by ones of a box."""
    usable = periodic | matrix.any(axis=1)
    with np.errstate(all="ignore"):
        if usable.all() and abs(np.linalg.det(matrix)) > 1e-9 * np.prod(np.linalg.norm(matrix, axis=1)):
            return np.asarray(matrix)
    if not np.isfinite(matrix).all():
        raise SampleError("its lattice is not 3×3 finite numbers")
    # Orthogonal to the vectors along which it is periodic.
    normals = np.linalg.svd(matrix[periodic])[2][int(periodic.sum()) :] if periodic.any() else np.eye(3)
    box = matrix.copy()
    box[~periodic] = normals * np.maximum(_BOX, 2 * np.ptp(coords @ normals.T, axis=0))[:, None]
    return np.asarray(box)


def _structure_key(sample: Mapping[str, Any]) -> str:
    keys = [key for key in STRUCTURE_KEYS if key in sample] or [key for key in sample if is_structure(sample[key])]
    if not keys:
        raise SampleError(
            f"it has no 'atoms', 'structure' or 'cif' and no other structure; its keys are {_listed(sample)}"
        )
    if len(keys) > 1 and keys[0] not in STRUCTURE_KEYS:
        raise SampleError(f"it has several structures ({_listed(keys)}); name one: --structures {keys[0]}")
    return str(keys[0])


def _from_pymatgen(values: Mapping[str, Any]) -> dict[str, Any]:
    sites, lattice = values["sites"], values.get("lattice")
    symbols = [_element(number, site) for number, site in enumerate(sites)]
    if not symbols:
        raise SampleError("it has no atoms")
    if lattice is None:
        return boxed(symbols, [site["xyz"] for site in sites], pbc=False)
    pbc = lattice.get("pbc") or _PERIODIC
    if all(pbc):
        coords = [site["abc"] for site in sites]
        box = {"lattice_mat": lattice["matrix"], "coords": coords, "elements": symbols, "cartesian": False}
        return {**box, "props": [""] * len(symbols)}
    positions = np.asarray([site["abc"] for site in sites], np.float64) @ np.asarray(lattice["matrix"], np.float64)
    return boxed(symbols, positions, lattice["matrix"], pbc)


def _element(number: int, site: Mapping[str, Any]) -> str:
    species = site["species"]
    if len(species) != 1 or abs(float(species[0].get("occu", 1)) - 1) > 1e-6:
        shares = ", ".join(f"{one.get('element')} {one.get('occu')}" for one in species) or "empty"
        raise SampleError(f"its site {number} is disordered ({shares}); make an ordered structure of it")
    return str(species[0]["element"])


def _array(values: Any) -> Any:
    """Return an array as ASE's JSON has it: a list, or a dict of shape, type and numbers."""
    while isinstance(values, Mapping):
        if "__ndarray__" in values:
            shape, _, flat = values["__ndarray__"]
            return np.asarray(flat).reshape([int(length) for length in shape])
        values = values["array"]  # a cell
    return np.asarray(values)


def _listed(names: Any) -> str:
    names = [repr(str(name))[:40] for name in names]
    return ", ".join(names[:12]) + (", …" if len(names) > 12 else "")
