"""Molecules, slabs and isolated atoms: the pairs that their boundary conditions leave, as ASE finds them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nodebudget.datasets.counting.graph import line_edges
from nodebudget.datasets.counting.neighbors import Counts, Integers, Neighborhood, Pairs, count_shells
from nodebudget.datasets.graph_settings import FAST, GraphSettings
from nodebudget.datasets.sample_error import SampleError
from nodebudget.utils.optional_imports import require

#: Å; atoms within this distance are the same for "radius_graph".
_SAME_ATOM = 1e-5
#: Å; the first search radius of k-nearest, and how it grows.
_FIRST_RADIUS, _GROWTH = 4.0, 1.35


def count_open(atoms: Any, periodic: Sequence[bool], settings: GraphSettings) -> Counts:
    """Return the nodes, edges and line-graph edges of atoms that are not periodic along all three vectors.

    An atom that has fewer neighbours than k-nearest asks for is joined to all of them.

    Args:
        atoms: jarvis Atoms.
        periodic: Whether they are periodic along each vector.
        settings: The graph; a strategy that is counted without alignn.

    Raises:
        SampleError: alignn alone builds such graphs, and it builds periodic ones, or the cell has no volume.
    """
    if settings.strategy not in FAST:
        raise SampleError(
            f"it is not periodic along all three vectors, and alignn's {settings.strategy!r} builds periodic graphs; "
            f"{' and '.join(FAST)} are counted within other boundaries"
        )
    nodes, radius = len(atoms.elements), float(settings.cutoff)
    if settings.strategy == "radius_graph":
        site, other, _, distances = _within(atoms, periodic, radius)
        apart = distances > _SAME_ATOM
        return nodes, int(apart.sum()), line_edges(site[apart], other[apart], nodes)
    neighbors = settings.neighbors
    assert neighbors is not None, "GraphSettings refuses k-nearest graphs without a number of neighbors"
    extent = float(np.linalg.norm(np.ptp(atoms.cart_coords, axis=0)))
    radius = _FIRST_RADIUS
    while True:
        pairs = _within(atoms, periodic, radius, same_atom=None)
        fewest = int(np.bincount(pairs[0], minlength=nodes).min())
        if fewest >= neighbors or (radius > extent and not any(periodic)):
            break
        radius *= _GROWTH
    return count_shells(pairs, nodes, neighbors, canonize=settings.canonize) if len(pairs[0]) else (nodes, 0, 0)


def pairs_within(atoms: Any, periodic: Sequence[bool], cutoff: float) -> Integers:
    """Return the first atom of each pair within a cutoff, Å, of jarvis Atoms in any boundaries, shape (pairs,)."""
    site, _, _, distances = _within(atoms, periodic, cutoff)
    return site[distances > _SAME_ATOM]


def _within(atoms: Any, periodic: Sequence[bool], radius: float, same_atom: float | None = -1.0) -> Pairs:
    """Return the pairs within a radius, from a cell in which images along open vectors are beyond it."""
    is_periodic, coords = np.asarray(periodic, dtype=bool), atoms.cart_coords
    box = np.array(atoms.lattice_mat, dtype=np.float64)
    # Vectors orthogonal to those along which it is periodic.
    normals = np.linalg.svd(box[is_periodic])[2][int(is_periodic.sum()) :] if is_periodic.any() else np.eye(3)
    box[~is_periodic] = normals * (np.ptp(coords @ normals.T, axis=0) + radius + 1.0)[:, None]
    if not abs(np.linalg.det(box)) > 1e-9 * np.prod(np.linalg.norm(box, axis=1)):
        raise SampleError("its lattice has no volume")
    inside = require("jarvis.core.atoms").Atoms(lattice_mat=box, coords=coords, elements=atoms.elements, cartesian=True)
    around = Neighborhood(inside) if same_atom is None else Neighborhood(inside, same_atom)
    return around.within(radius)
