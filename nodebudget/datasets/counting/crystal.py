"""One crystal, in any of the forms in which datasets hold them, to its sizes."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from nodebudget.datasets.counting.alignn_builder import count_built
from nodebudget.datasets.counting.neighbors import Counts, Integers, count_k_nearest
from nodebudget.datasets.counting.open_boundaries import count_open, pairs_within
from nodebudget.datasets.counting.radius_graph import count_radius
from nodebudget.datasets.counting.structures import boxed, jarvis_entry
from nodebudget.datasets.graph_settings import FAST, GraphSettings
from nodebudget.datasets.sample_error import SampleError
from nodebudget.errors import NodeBudgetError, first_line
from nodebudget.utils.optional_imports import require

#: What `Atoms.from_dict` of jarvis asks for, and alignn with it.
_KEYS = ("lattice_mat", "coords", "elements", "cartesian", "props")


def to_atoms(sample: Any) -> Any:
    """Convert a sample to jarvis Atoms, the way alignn does, or raise a SampleError.

    The sample is a JARVIS dict with `atoms`, those atoms themselves, an entry or a structure as a dict
    (`nodebudget.datasets.counting.structures.jarvis_entry`), or Atoms of jarvis, ase or pymatgen.
    """
    atoms, periodic = _atoms_in_boundaries(sample)
    if not all(periodic):
        along = [axis for axis, is_periodic in zip("abc", periodic, strict=True) if is_periodic]
        raise SampleError(
            f"it is periodic along {' and '.join(along) or 'no vector'} only, and alignn's graphs are periodic along "
            "all three: put it into a cell with vacuum and set pbc to true to train alignn on it"
        )
    return atoms


def _atoms_in_boundaries(sample: Any) -> tuple[Any, tuple[bool, ...]]:
    """Return jarvis Atoms, and whether the sample is periodic along each of the three vectors."""
    pbc = getattr(sample, "pbc", None)  # of ase
    if isinstance(sample, Mapping):
        sample = jarvis_entry(sample)
        values = sample.get("atoms", sample)
        if not isinstance(values, Mapping):
            raise SampleError(f"its 'atoms' is a {type(values).__name__}, not a dict")
        if missing := [key for key in _KEYS if key not in values]:
            raise SampleError(f"its atoms have no {', '.join(map(repr, missing))}")
        pbc = values.get("pbc")
    elif hasattr(sample, "get_scaled_positions") and not np.all(pbc):
        return _atoms_in_boundaries(
            boxed(sample.get_chemical_symbols(), sample.positions, np.asarray(sample.cell), pbc)
        )
    elif hasattr(sample, "as_dict") and hasattr(sample, "sites") and not all(getattr(sample, "pbc", (False,))):
        return _atoms_in_boundaries(sample.as_dict())  # a slab or a molecule of pymatgen
    elif not any(hasattr(sample, name) for name in ("lattice_mat", "get_scaled_positions", "frac_coords")):
        raise SampleError(f"it is a {type(sample).__name__}, not a dict with 'atoms' or Atoms")
    try:
        # Infinities are refused afterwards; until then numpy need not warn of them.
        with np.errstate(all="ignore"):
            return _checked(_converted(sample)), (True, True, True) if pbc is None else tuple(map(bool, pbc))
    except NodeBudgetError:
        raise
    except (ValueError, TypeError, IndexError, KeyError, AttributeError, ArithmeticError) as error:
        if isinstance(error, SampleError):
            raise
        # What jarvis or numpy say to lists of unequal lengths, texts among numbers, partial occupancies.
        raise SampleError(f"{type(error).__name__}: {first_line(error)}") from error


@functools.cache
def _jarvis() -> Any:
    return require("jarvis.core.atoms")


def _converted(sample: Any) -> Any:
    jarvis = _jarvis()
    if isinstance(sample, Mapping):
        return jarvis.Atoms.from_dict(sample.get("atoms", sample))
    if hasattr(sample, "lattice_mat"):
        return sample
    if hasattr(sample, "get_scaled_positions"):
        return jarvis.ase_to_atoms(sample)
    return jarvis.pmg_to_atoms(sample)


def count_crystal(sample: Any, settings: GraphSettings) -> Counts:
    """Return the nodes, edges and line-graph edges of alignn's graph of a crystal, or raise a SampleError.

    Where the sample is not periodic along all three vectors, they are those of the same graph within its boundaries.
    """
    atoms, periodic = _atoms_in_boundaries(sample)
    if not all(periodic):
        return count_open(atoms, periodic, settings)
    if settings.strategy == "k-nearest":
        return count_k_nearest(atoms, settings)
    return count_radius(atoms, settings) if settings.strategy in FAST else count_built(atoms, settings)


def count_pairs(sample: Any, cutoff: float | None) -> Integers:
    """Return the numbers of pairs that each atom makes within a cutoff, Å, in its boundaries, shape (atoms,).

    The sample is what `to_atoms` takes, or a PyG `Data` with `pos`, and `cell` and `pbc` where it has them. Without a
    cutoff, no pairs are looked for.
    """
    if hasattr(sample, "edge_index") and getattr(sample, "pos", None) is not None:
        cell, pbc = getattr(sample, "cell", None), getattr(sample, "pbc", None)
        sample = boxed(["X"] * len(sample.pos), sample.pos, cell, pbc)
    atoms, periodic = _atoms_in_boundaries(sample)
    degrees = np.zeros(len(atoms.elements), dtype=np.int64)
    return (
        degrees
        if cutoff is None
        else degrees + np.bincount(pairs_within(atoms, periodic, cutoff), minlength=len(degrees))
    )


def _checked(atoms: Any) -> Any:
    matrix, coords = atoms.lattice_mat, atoms.cart_coords
    if matrix.shape != (3, 3) or matrix.dtype.kind not in "iuf" or not np.isfinite(matrix).all():
        raise SampleError("its lattice is not 3×3 finite numbers")
    if coords.ndim != 2 or coords.shape[1] != 3 or not len(coords):
        raise SampleError(f"its coordinates have the shape {coords.shape}, not (atoms, 3)")
    if coords.dtype.kind not in "iuf" or not np.isfinite(coords).all() or not np.isfinite(atoms.frac_coords).all():
        raise SampleError("its coordinates are not all finite numbers")
    if len(atoms.elements) != len(coords):
        raise SampleError(f"it has {len(atoms.elements)} elements and {len(coords)} coordinates")
    if not min(_flatness(matrix), _flatness(atoms.lattice.matrix)) > 1e-9:
        raise SampleError("its lattice has no volume")
    return atoms


def _flatness(matrix: Any) -> float:
    """Return the volume of a cell over that of a box with the same edges: 0 for a flat one."""
    # In plain Python, which for nine numbers is ten times faster than numpy's routines.
    (a, b, c), (d, e, f), (g, h, i) = matrix.tolist()
    edges = math.sqrt((a * a + b * b + c * c) * (d * d + e * e + f * f) * (g * g + h * h + i * i))
    return abs(a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)) / edges if edges else 0.0
