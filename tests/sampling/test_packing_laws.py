"""What holds for every packing, whatever the sizes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from generated import fewer
from hypothesis import given
from hypothesis import strategies as st

from nodebudget.sampling.packing.batch_count import assign_epoch, count_batches, exchange_packing
from nodebudget.sampling.packing.items import Items
from nodebudget.sampling.packing.ordered import best_fit, next_fit, split
from nodebudget.sampling.packing.reproducible import RandomStream


@st.composite
def packable(draw: st.DrawFn) -> Items:
    """Sizes from constant to heavy-tailed, zeros among them, with one to three maxima, some reached exactly."""
    graphs = draw(st.integers(1, 120))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    columns = []
    for _ in range(draw(st.integers(1, 3))):
        kind = draw(st.sampled_from(["constant", "uniform", "lognormal", "zeros", "two", "huge"]))
        columns.append(_column(kind, graphs, rng))
    maxima = []
    for values in columns:
        top, total = int(values.max()), int(values.sum())
        maximum = draw(st.sampled_from([top, 2 * top, top + 1, total, total + 1, top + total // 4]))
        maxima.append(max(maximum, 1))
    max_graphs = draw(st.none() | st.integers(1, 40))
    return Items(tuple(columns), tuple(maxima), max_graphs)


def _column(kind: str, graphs: int, rng: np.random.Generator) -> np.ndarray:
    if kind == "constant":
        return np.full(graphs, 7)
    if kind == "uniform":
        return rng.integers(0, 50, graphs)
    if kind == "lognormal":
        return rng.lognormal(2, 1.5, graphs).astype(np.int64)
    if kind == "two":
        return rng.choice([1, 40], graphs, p=[0.8, 0.2])
    if kind == "huge":
        return rng.integers(0, 2**50, graphs)
    return np.where(rng.random(graphs) < 0.7, 0, rng.integers(1, 9, graphs))


def check(items: Items, graphs: np.ndarray, offsets: np.ndarray) -> None:
    assert sorted(graphs.tolist()) == list(range(len(items)))
    counts = np.diff(offsets)
    assert counts.min() >= 1
    assert items.max_graphs is None or counts.max() <= items.max_graphs
    for values, maximum in items.limited:
        assert np.add.reduceat(values[graphs], offsets[:-1]).max() <= maximum
    assert len(counts) >= items.lower_bound()


@fewer
@given(packable(), st.integers(0, 3))
def test_an_assignment_keeps_every_maximum_in_every_epoch(items: Items, multiple: int) -> None:
    count = count_batches(items, max(multiple, 1))
    if count.batches > len(items):
        assert multiple > 1
        return
    assert count.batches % max(multiple, 1) == 0
    for seed in (None, 0, 1):
        grid = assign_epoch(items, count, None if seed is None else RandomStream(seed))
        check(items, *grid.batches_in_order(np.arange(grid.batches)))
        assert grid.batches == count.batches


@fewer
@given(packable())
def test_exchanges_keep_every_maximum(items: Items) -> None:
    count = count_batches(items)
    for even in (False, True):
        grid = exchange_packing(items, count, RandomStream(0), balanced=even)
        check(items, *grid.batches_in_order(np.arange(grid.batches)))


@given(packable())
def test_best_fit_keeps_every_maximum(items: Items) -> None:
    graphs, offsets = best_fit(items)
    check(items, graphs, offsets)


@given(packable())
def test_next_fit_keeps_every_maximum_and_the_order(items: Items) -> None:
    graphs, offsets = next_fit(items)
    check(items, graphs, offsets)
    assert graphs.tolist() == list(range(len(items)))
    for start, end in itertools.pairwise(offsets[:-1]):
        # A batch ends only where the next graph does not fit.
        over = [values[start : end + 1].sum() > maximum for values, maximum in items.limited]
        assert any(over) or (items.max_graphs is not None and end - start == items.max_graphs)


@given(st.integers(1, 60), st.data())
def test_split_halves_until_there_are_enough(graphs: int, data: st.DataObject) -> None:
    cuts = data.draw(st.sets(st.integers(1, graphs), max_size=graphs))
    offsets = np.array(sorted({0, graphs} | cuts))
    wanted = data.draw(st.integers(len(offsets) - 1, graphs))
    done = split(offsets, wanted)
    assert len(done) - 1 == wanted
    assert set(offsets.tolist()) <= set(done.tolist())
    assert (np.diff(done) >= 1).all()


def test_the_lower_bound_counts_graphs_over_half_a_maximum() -> None:
    items = Items((np.array([6, 6, 6, 1]),), (10,))
    assert items.lower_bound() == 3
    assert count_batches(items).batches == 3


def test_whole_numbers_beyond_the_precision_of_floats_keep_the_maximum() -> None:
    big = 2**53
    items = Items((np.array([big + 1, big + 1, big, big]),), (2 * big + 1,))
    grid = assign_epoch(items, count_batches(items), RandomStream(0))
    check(items, *grid.batches_in_order(np.arange(grid.batches)))
    assert grid.batches == 2


@pytest.mark.parametrize("spread", [0.0, 0.3, 0.8, 1.2])
@pytest.mark.parametrize("batch", [16, 64, 256])
def test_batches_are_few_and_even(spread: float, batch: int) -> None:
    rng = np.random.default_rng(1)
    values = np.maximum(1, rng.lognormal(3, spread, 20_000) * 100).astype(np.int64)
    items = Items((values,), (int(np.ceil(values.mean() * batch)),))
    if values.max() * 2 > items.maxima[0]:
        pytest.skip("a graph is over half the maximum")
    count = count_batches(items)
    bound = items.lower_bound()
    assert count.batches <= max(bound * 1.005, bound + 1)
    for seed in range(3):
        grid = assign_epoch(items, count, RandomStream(seed))
        loads = grid.loads[0]
        assert grid.counts.std() <= 0.025 * grid.counts.mean()
        assert loads.std() <= 0.005 * loads.mean() or spread == 0


def test_maxima_that_bind_different_graphs_are_filled_together() -> None:
    rng = np.random.default_rng(2)
    frames = rng.lognormal(5, 0.5, 3000)  # many nodes, few edges to each
    dense = rng.lognormal(3, 0.5, 12000)  # few nodes, many edges to each
    nodes = np.concatenate([frames, dense]).astype(np.int64) + 1
    edges = np.concatenate([frames * 8, dense * 40]).astype(np.int64) + 1
    order = rng.permutation(len(nodes))
    items = Items((nodes[order], edges[order]), (int(nodes.mean() * 32), int(edges.mean() * 32)))
    count = count_batches(items)
    assert count.batches <= 1.02 * items.lower_bound()
    grid = assign_epoch(items, count, RandomStream(0))
    check(items, *grid.batches_in_order(np.arange(grid.batches)))
