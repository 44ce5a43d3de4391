"""The counts are those of the graphs that alignn builds: every crystal here is built by alignn as well."""

from __future__ import annotations

import numpy as np
import pytest
from crystals import alignn_counts, make, prototypes, small_prototypes
from hypothesis import given, settings
from hypothesis import strategies as st

from nodebudget.datasets.counting.crystal import count_crystal
from nodebudget.datasets.graph_settings import GraphSettings
from nodebudget.datasets.sample_error import SampleError


def test_every_aflow_prototype():
    crystals = small_prototypes(60)
    assert len(crystals) > 250
    assert [count_crystal(a, GraphSettings()) for a in crystals] == [alignn_counts(a) for a in crystals]


def test_a_few_hundred_atoms():
    large = sorted(prototypes(), key=lambda atoms: atoms.num_atoms)[-2:]
    cell = small_prototypes(8)[5].make_supercell([3, 3, 3])
    for atoms in [*large, cell]:
        assert atoms.num_atoms > 60
        assert count_crystal(atoms, GraphSettings()) == alignn_counts(atoms)


@pytest.mark.parametrize("repeats", [[1, 1, 4], [4, 1, 1], [1, 6, 1], [2, 2, 1]])
def test_supercells_and_elongated_cells(repeats):
    for atoms in small_prototypes(4)[::6]:
        cell = atoms.make_supercell(repeats)
        assert count_crystal(cell, GraphSettings()) == alignn_counts(cell)


@pytest.mark.parametrize(("neighbors", "cutoff", "canonize"), [(1, 4.0, True), (16, 5.0, False), (12, 1.0, True)])
def test_other_settings(neighbors, cutoff, canonize):
    graphs = GraphSettings(neighbors=neighbors, cutoff=cutoff, canonize=canonize)
    for atoms in small_prototypes(10)[::4]:
        expected = alignn_counts(atoms, max_neighbors=neighbors, cutoff=cutoff, use_canonize=canonize)
        assert count_crystal(atoms, graphs) == expected


def test_atoms_outside_of_the_cell():
    """jarvis visits a fixed range of images, and misses neighbours of atoms that lie cells apart."""
    rng = np.random.default_rng(7)
    differs = 0
    for atoms in small_prototypes(8)[::5]:
        moved = atoms.frac_coords + rng.integers(-3, 4, size=atoms.frac_coords.shape)
        crystal = make(atoms.lattice_mat, moved, atoms.elements)
        found = count_crystal(crystal, GraphSettings())
        assert found == alignn_counts(crystal)
        differs += found != count_crystal(atoms, GraphSettings())
    assert differs


def test_one_atom_cells_and_vacuum():
    for lattice in (
        np.eye(3) * 3,
        np.diag([3, 3, 40]),
        np.diag([3, 25, 25]),
        np.diag([12, 12, 12]),
        np.diag([3, 3, -3]),
    ):
        atoms = make(lattice, [[0.0, 0.0, 0.0]])
        assert count_crystal(atoms, GraphSettings()) == alignn_counts(atoms)
        pair = make(lattice, [[0.1, 0.2, 0.3], [0.6, 0.7, 0.8]])
        assert count_crystal(pair, GraphSettings()) == alignn_counts(pair)


def test_coordinates_that_lie_by_columns_in_memory():
    """numpy sums in the order of memory, which shows in the last bit of distances."""
    for atoms in small_prototypes(12)[::6]:
        atoms.cart_coords = np.asfortranarray(atoms.cart_coords)
        assert count_crystal(atoms, GraphSettings()) == alignn_counts(atoms)


@settings(max_examples=120, deadline=None)
@given(
    lengths=st.tuples(*[st.floats(2.5, 9.0)] * 3),
    shears=st.tuples(*[st.floats(-0.9, 0.9)] * 3),
    sites=st.lists(st.tuples(*[st.integers(-12, 24)] * 3), min_size=1, max_size=6, unique=True),
    steps=st.sampled_from([4, 7, 12]),
    canonize=st.booleans(),
)
def test_triclinic_cells(lengths, shears, sites, steps, canonize):
    lattice = np.diag(lengths)
    lattice[1, 0], lattice[2, 0], lattice[2, 1] = np.array(shears) * lengths[0]
    atoms = make(lattice, np.array(sites) / steps)
    try:
        expected = alignn_counts(atoms, use_canonize=canonize, cutoff=5.0)
    except ValueError:
        # Too few neighbours everywhere, because atoms share a spot and jarvis leaves both out.
        pytest.fail("alignn could not build this crystal")
    assert count_crystal(atoms, GraphSettings(canonize=canonize, cutoff=5.0)) == expected


@pytest.mark.parametrize("cutoff", [2.5, 4.0, 5.0])
def test_radius_graph(cutoff):
    graphs = GraphSettings(strategy="radius_graph", cutoff=cutoff, cutoff_extra=0.5)
    for atoms in small_prototypes(12)[::5]:
        expected = alignn_counts(atoms, neighbor_strategy="radius_graph", cutoff=cutoff, cutoff_extra=0.5)
        assert count_crystal(atoms, graphs) == expected


def test_radius_graph_at_the_very_distance_of_a_shell():
    graphs = GraphSettings(strategy="radius_graph", cutoff=3.0)
    for lattice in (np.eye(3) * 3, np.diag([3, 4, 5])):
        for frac in ([[0.0, 0.0, 0.0]], [[0.0, 0.0, 0.0], [1 / 3, 1 / 3, 1 / 3]], [[2.5, -1.0, 0.0], [0.1, 0.1, 0.1]]):
            atoms = make(lattice, frac)
            expected = alignn_counts(atoms, neighbor_strategy="radius_graph", cutoff=3.0, cutoff_extra=3.0)
            assert count_crystal(atoms, graphs) == expected


@pytest.mark.parametrize("strategy", ["fast_graph", "torch_graph", "pure_torch", "radius_graph_jarvis"])
def test_strategies_that_alignn_builds(strategy):
    graphs = GraphSettings(strategy=strategy, cutoff=5.0, three_body_cutoff=3.5)
    for atoms in small_prototypes(6)[::25]:
        expected = alignn_counts(atoms, neighbor_strategy=strategy, cutoff=5.0, three_body_cutoff=3.5)
        assert count_crystal(atoms, graphs) == expected


@pytest.mark.parametrize("strategy", ["k-nearest", "radius_graph"])
def test_absurd_crystals_are_refused_quickly(strategy):
    graphs = GraphSettings(strategy=strategy)
    needle = make(np.diag([1e-4, 1e5, 1e5]), [[0.0, 0.0, 0.0]])
    dense = make(np.eye(3) * 1e-3, [[0.0, 0.0, 0.0]])
    scattered = make(np.eye(3) * 4, [[0.0, 0.0, 0.0], [1e7, 0.0, -1e7]])
    for atoms in (needle, dense, scattered):
        with pytest.raises(SampleError, match=r"images|cells|distances|no neighbour"):
            count_crystal(atoms, graphs)


def test_a_lone_atom_in_a_huge_cell():
    atoms = make(np.eye(3) * 1e4, [[0.5, 0.5, 0.5]])
    assert count_crystal(atoms, GraphSettings()) == alignn_counts(atoms)


def test_thin_cells_with_more_vacuum_than_vesin_can_bin():
    """vesin divides by zero on these, which would end the process, unless its cells are kept few."""
    atoms = make(np.diag([3, 1e4, 1e4]), [[0.0, 0.0, 0.0]])
    graphs = GraphSettings(neighbors=4)
    assert count_crystal(atoms, graphs) == alignn_counts(atoms, max_neighbors=4)


def test_radius_graph_with_atoms_outside_of_the_cell():
    rng = np.random.default_rng(8)
    graphs = GraphSettings(strategy="radius_graph", cutoff=4.0)
    for shift in (1.0, -1.0, None):
        for atoms in small_prototypes(6)[::15]:
            moved = atoms.frac_coords % 1 + (rng.integers(-2, 3, size=(atoms.num_atoms, 3)) if shift is None else shift)
            crystal = make(atoms.lattice_mat, moved, atoms.elements)
            expected = alignn_counts(crystal, neighbor_strategy="radius_graph", cutoff=4.0, cutoff_extra=3.0)
            assert count_crystal(crystal, graphs) == expected
