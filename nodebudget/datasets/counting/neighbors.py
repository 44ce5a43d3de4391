"""The edges of alignn's graphs, counted on a neighbour list from vesin instead of by building the graph.

Counts are exact only where distances are the very floating-point numbers that jarvis computes: alignn
splits the shell of the k-th neighbour by exact comparison, and atoms that symmetry puts at one distance
differ in the last bits. So vesin only proposes pairs; their distances are computed again here, by the
operations of `jarvis.core.atoms.Atoms.get_all_neighbors` in the same order.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import numpy.typing as npt

from nodebudget.datasets.graph_settings import GraphSettings
from nodebudget.datasets.sample_error import SampleError
from nodebudget.utils.optional_imports import require

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
#: Pairs of atoms within a radius: site, other, image of the other (pairs, 3), distance in Å.
Pairs = tuple[Integers, Integers, Integers, Floats]

Counts = tuple[int, int, int]  #: nodes, edges, line_edges
_MARGIN = 1e-6  #: Å added to a search radius: far over vesin's rounding, far under any real distance.
_SAME_ATOM = 0.15  #: jarvis's `bond_tol`, Å: atoms that are nearer count as the same atom.
#: Å²; from about here on, cells are so large that jarvis's rounding of the reciprocal lattice (5 decimals)
#: loses images within the cutoff.
_ROUNDED = 2e4
_MAX_PAIRS = 1e7  #: Pairs and periodic images of one search at which the crystal is refused.
_MAX_IMAGES = 2e5
#: vesin sorts atoms into cells as wide as the radius. Beyond 100,000 of them it merges some, and divides by
#: zero, which ends the process, where the crystal is too thin for that.
_MAX_CELLS = 2e4
#: Pairs of these cells that one search may visit: a second. Ordinary crystals need 27 for each cell; those that are
#: thin one way and long another, as only broken or crafted ones are, hundreds for each of many.
_MAX_VISITS = 1e7
#: Neighbours to expect in the first sphere, over those asked for: large enough that few atoms fall short.
_FIRST_SPHERE = 1.7
_GROWTH = 1.35


@functools.cache
def _vesin() -> Any:
    return require("vesin")


class Neighborhood:
    """The neighbours of every atom of a crystal (jarvis Atoms, finite, with a volume), to any radius.

    Atoms that are not farther from each other than `same_atom`, Å, count as the same atom.
    """

    def __init__(self, atoms: Any, same_atom: float = _SAME_ATOM) -> None:
        self._same_atom = same_atom
        self.lattice = atoms.lattice
        self._matrix = atoms.lattice_mat
        self._box = np.ascontiguousarray(atoms.lattice_mat, dtype=np.float64)
        self._coords = np.ascontiguousarray(atoms.cart_coords, dtype=np.float64)
        self._by_rows = bool(atoms.cart_coords.flags.c_contiguous)
        frac = np.asarray(atoms.frac_coords, dtype=np.float64)
        self.floor = np.floor(frac.min(axis=0))
        self.ceil = np.ceil(frac.max(axis=0))
        cells = float(np.prod(self.ceil - self.floor + 1))
        if cells > _MAX_IMAGES:
            raise SampleError(f"its atoms are scattered over {cells:.1e} cells, over the limit of {_MAX_IMAGES:.0e}")
        self.count = len(self._coords)
        inverse = np.linalg.inv(self._box)
        #: Distances between the planes of the cell, Å.
        self._planes = 1.0 / np.sqrt((inverse**2).sum(axis=0))
        self.density = self.count / abs(float(np.linalg.det(self._box)))
        #: All atoms are in the cell: the images that jarvis visits then hold every neighbour.
        self.inside = bool((self.floor == 0).all() and (self.ceil <= 1).all())
        self._reciprocal: Floats | None = None

    def within(self, radius: float) -> Pairs:
        """Return the pairs of two atoms whose distance in jarvis's arithmetic is `radius` Å or less."""
        reach = radius + _MARGIN
        while np.prod(np.maximum(1.0, self._planes / reach)) > _MAX_CELLS:
            reach *= _GROWTH
        self._check_cost(reach)
        search = _vesin().NeighborList(cutoff=reach, full_list=True, n_threads=1)
        pairs, images = search.compute(points=self._coords, box=self._box, periodic=True, quantities="PS", copy=False)
        site, other = pairs.astype(np.int64).T
        images = images.astype(np.int64)
        distances = self._distances(site, other, images)
        return _select((site, other, images, distances), (distances <= radius) & (distances > self._same_atom))

    def reached(self, pairs: Pairs, cutoff: float) -> Pairs:
        """Drop the pairs that alignn misses, because jarvis does not visit their image for `cutoff`.

        Only crystals with atoms far outside of the cell have any.
        """
        if self.inside and cutoff * self._planes.max() < _ROUNDED:
            return pairs
        if self._reciprocal is None:
            self._reciprocal = np.array(self.lattice.reciprocal_lattice().abc)
        reach = np.ceil((cutoff + _SAME_ATOM) * self._reciprocal / (2 * math.pi))
        images = pairs[2]
        return _select(pairs, ((images >= self.floor - reach) & (images < self.ceil + reach)).all(axis=1))

    def images(self, radius: float) -> Floats:
        """Return how many cells away, along each lattice vector, an atom within `radius` Å can be."""
        reach: Floats = np.ceil(radius / self._planes) + 1
        return reach

    def single_precision(self, cutoff: float) -> float:
        """Return an upper bound, in Å, of how far rounding to float32 moves a distance of about `cutoff`."""
        extent = (
            float((self.images(cutoff)[:, None] * np.abs(self._box)).sum()) + float(np.abs(self._coords).max()) + cutoff
        )
        return 16 * float(np.finfo(np.float32).eps) * extent

    def _distances(self, site: Integers, other: Integers, images: Integers) -> Floats:
        if not len(site):
            return np.empty(0)
        # One product per image, as jarvis does it: a single product of all images rounds differently.
        distinct, place = _distinct_rows(images)
        offsets = np.array([np.dot(image, self._matrix) for image in distinct.astype(np.float64)])
        z = ((offsets[place] + self._coords[other]) - self._coords[site]) ** 2
        if not self._by_rows:
            # numpy sums in the order in which an array lies in memory, and jarvis's lies as its coordinates do.
            z = np.asfortranarray(z)
        distances: Floats = np.sum(z, axis=-1) ** 0.5
        return distances

    def _check_cost(self, radius: float) -> None:
        images = float(np.prod(2 * np.ceil(radius / self._planes) + 1))
        # Pairs of evenly spread atoms, and those of every atom with its own images, which are more in thin cells.
        pairs = self.count * self.density * 4.19 * radius**3
        pairs += self.count * float(np.prod(2 * np.floor(radius / self._planes) + 1))
        if images > _MAX_IMAGES or pairs > _MAX_PAIRS:
            raise SampleError(
                f"a search to {radius:.4g} Å visits about {images:.1e} periodic images and {pairs:.1e} pairs, "
                f"over the limit of {_MAX_IMAGES:.0e} and {_MAX_PAIRS:.0e}"
            )
        cells = np.maximum(1, np.floor(self._planes / radius))
        visits = float(np.prod(cells * (2 * np.maximum(1, np.ceil(radius * cells / self._planes)) + 1)))
        if visits > _MAX_VISITS:
            raise SampleError(f"its cell is thin and long: a search visits {visits:.1e} boxes, over {_MAX_VISITS:.0e}")


def _select(pairs: Pairs, chosen: npt.NDArray[np.bool_]) -> Pairs:
    if chosen.all():
        return pairs
    site, other, images, distances = pairs
    return site[chosen], other[chosen], images[chosen], distances[chosen]


def count_k_nearest(atoms: Any, settings: GraphSettings) -> Counts:
    """Return the nodes, edges and line-graph edges of alignn's "k-nearest" graph of a crystal."""
    around, neighbors = Neighborhood(atoms), settings.neighbors
    assert neighbors is not None, "GraphSettings refuses k-nearest graphs without a number of neighbors"
    return count_shells(_enough(around, settings, neighbors), around.count, neighbors, canonize=settings.canonize)


def count_shells(pairs: Pairs, nodes: int, neighbors: int, *, canonize: bool) -> Counts:
    """Return the sizes of the graph of each atom's `neighbors` nearest pairs, or all where an atom has fewer."""
    shell = _shells(pairs[0], pairs[3], nodes, neighbors)
    site, other, images, _ = _select(pairs, pairs[3] <= shell[pairs[0]])
    return _edges(nodes, site, other, images, canonize)


def _shells(site: Integers, distances: Floats, count: int, neighbors: int) -> Floats:
    """Return each atom's distance to its k-th neighbour, shape (count,), Å."""
    order = np.argsort(site, kind="stable")
    counts = np.bincount(site, minlength=count)
    table = np.full((count, max(int(counts.max()), neighbors)), np.inf)
    # The places in use, row by row, line up with the pairs sorted by atom.
    table[np.arange(table.shape[1]) < counts[:, None]] = distances[order]
    shells: Floats = np.partition(table, neighbors - 1, axis=1)[:, neighbors - 1]
    return shells


def _enough(around: Neighborhood, settings: GraphSettings, neighbors: int) -> Pairs:
    """Increase the search radius until every atom has its neighbours.

    alignn searches the whole cutoff at once; the k-th shell is complete as soon as every atom has k
    neighbours, so a smaller sphere gives the same edges.
    """
    cutoff = float(settings.cutoff)
    radius = (_FIRST_SPHERE * neighbors / (4.19 * around.density)) ** (1 / 3)
    while True:
        radius = min(radius, cutoff)
        pairs = around.reached(around.within(radius), cutoff)
        fewest = np.bincount(pairs[0], minlength=around.count).min()
        if fewest >= neighbors:
            return pairs
        if radius >= cutoff:
            longest = float(max(around.lattice.abc))
            cutoff = longest if cutoff < longest else 2 * cutoff  # as alignn goes on
        radius *= _GROWTH


def _edges(nodes: int, site: Integers, other: Integers, images: Integers, canonize: bool) -> Counts:
    """Count alignn's undirected edges, each kept in both directions, and the pairs of bonds that meet."""
    low, high = site, other
    if canonize:
        flipped = other < site
        low, high = np.where(flipped, other, site), np.where(flipped, site, other)
        numbers, span = _row_numbers(np.where(flipped[:, None], -images, images))
        # An image of the same atom counts twice, at +image and at −image: alignn's keys distinguish them.
        keys = np.sort((low * nodes + high) * span + numbers)
        ends = keys[np.diff(keys, prepend=-1) > 0] // span
        low, high = ends // nodes, ends % nodes
    degrees = np.bincount(low, minlength=nodes) + np.bincount(high, minlength=nodes)
    loops = 2 * int(np.count_nonzero(low == high))
    return nodes, 2 * len(low), int((degrees**2).sum()) - loops


def _row_numbers(rows: Integers) -> tuple[Integers, int]:
    """Number the rows of a (n, 3) array of small integers; equal rows get equal numbers under `span`."""
    low = rows.min(axis=0)
    size = rows.max(axis=0) - low + 1
    keys = ((rows[:, 0] - low[0]) * size[1] + (rows[:, 1] - low[1])) * size[2] + (rows[:, 2] - low[2])
    return keys, int(size[0] * size[1] * size[2])


def _distinct_rows(rows: Integers) -> tuple[Integers, Integers]:
    """Return the distinct rows, and for each row its place among them."""
    keys, span = _row_numbers(rows)
    if span > 4096:
        _, first, place = np.unique(keys, return_index=True, return_inverse=True)
        return rows[first], place.reshape(-1)
    # Few numbers: marking them in a table is several times faster than sorting.
    example = np.full(span, -1)
    example[keys] = np.arange(len(keys))
    used = np.flatnonzero(example >= 0)
    numbers = np.empty(span, dtype=np.int64)
    numbers[used] = np.arange(len(used))
    return rows[example[used]], numbers[keys]
