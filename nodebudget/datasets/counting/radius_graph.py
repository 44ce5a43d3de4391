"""alignn's "radius_graph": all pairs within a radius, in single precision."""

from __future__ import annotations

from typing import Any

import numpy as np

from nodebudget.datasets.counting.alignn_builder import count_built
from nodebudget.datasets.counting.graph import line_edges
from nodebudget.datasets.counting.neighbors import Counts, Neighborhood, Pairs
from nodebudget.datasets.graph_settings import GraphSettings
from nodebudget.datasets.sample_error import SampleError

_SAME_ATOM = 1e-5  #: Å; alignn takes two atoms within this distance for the same.
_MAX_STEPS = 100  #: Times that the radius may grow before the crystal is refused; alignn itself would go on forever.
#: Distances that alignn's own builder may compute at once before the crystal is refused: a gigabyte or two.
_MAX_DISTANCES = 2e8


def count_radius(atoms: Any, settings: GraphSettings) -> Counts:
    """Return the nodes, edges and line-graph edges of alignn's "radius_graph" of a crystal.

    alignn compares single-precision distances with the radius. Where a distance is so near to it that
    rounding may decide, and for atoms outside of the cell, alignn builds its graph after all.
    """
    around = Neighborhood(atoms, same_atom=-1.0)
    (site, other, _, _), cutoff, certain = _search(around, settings)
    if certain and around.inside:
        return around.count, len(site), line_edges(site, other, around.count)
    distances = around.count**2 * float(np.prod(around.ceil - around.floor + 2 * around.images(cutoff)))
    if distances > _MAX_DISTANCES:
        raise SampleError(f"alignn would compute {distances:.1e} distances, over the limit of {_MAX_DISTANCES:.0e}")
    return count_built(atoms, settings)


def _search(around: Neighborhood, settings: GraphSettings) -> tuple[Pairs, float, bool]:
    """Increase the radius until the last atom has a neighbour: DGL counts nodes by the last one with an edge.

    Returns the pairs within the final radius, that radius in Å, and whether rounding can't have changed anything.
    """
    cutoff, certain = float(settings.cutoff), True
    for _ in range(_MAX_STEPS):
        margin = around.single_precision(cutoff)
        pairs = around.within(cutoff + margin)
        distances = pairs[3]
        apart = distances > _SAME_ATOM + margin
        certain = certain and bool(apart.all()) and not (np.abs(distances - cutoff) <= margin).any()
        if (pairs[0][apart] == around.count - 1).any():
            return pairs, cutoff, certain
        cutoff += settings.cutoff_extra
    raise SampleError(f"its last atom has no neighbour within {cutoff - settings.cutoff_extra:.4g} Å")
