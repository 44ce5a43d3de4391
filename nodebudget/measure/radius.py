"""alignn's "radius_graph": all pairs within a radius, in single precision."""

from __future__ import annotations

from typing import Any

import numpy as np

from nodebudget.measure.built import count_built
from nodebudget.measure.graphs import line_edges
from nodebudget.measure.neighbors import Counts, Neighborhood, UnusableError
from nodebudget.measure.settings import GraphSettings

#: Å up to which alignn takes two atoms for the same.
_SAME_ATOM = 1e-5
#: Distances that alignn's own builder may compute at once before the crystal is refused: a gigabyte or two.
_MAX_DISTANCES = 2e8


def count_radius(atoms: Any, settings: GraphSettings) -> Counts:
    """Count what alignn's "radius_graph" strategy makes of a crystal.

    alignn compares single-precision distances with the radius. Where a distance is so near to it that
    rounding may decide, and for atoms spread over several cells, alignn builds its graph after all.

    Returns:
        nodes, edges and line-graph edges.

    Raises:
        UnusableError: No radius within reason gives every atom a neighbour.
        MissingError: alignn is needed and not there.
    """
    around = Neighborhood(atoms, same_atom=-1.0)
    cutoff = float(settings.cutoff)
    spread = bool((around.ceil - around.floor > 1).any())
    while not spread:
        margin = around.single_precision(cutoff)
        site, other, _, distances = around.within(cutoff + margin)
        if (np.abs(distances - cutoff) <= margin).any() or (distances <= _SAME_ATOM + margin).any():
            break
        # alignn stops as soon as the last atom has a neighbour, which is what DGL counts nodes by.
        if len(site) and site.max() == around.count - 1:
            return around.count, len(site), line_edges(site, other, around.count)
        cutoff += settings.cutoff_extra
    tiles = float(np.prod(around.ceil - around.floor + 2 * around.images(cutoff)))
    if tiles * around.count**2 > _MAX_DISTANCES:
        raise UnusableError(
            f"alignn would compute {tiles * around.count**2:.1e} distances, over the limit of {_MAX_DISTANCES:.0e}"
        )
    return count_built(atoms, settings)
