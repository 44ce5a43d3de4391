"""The choice of probes."""

import numpy as np
import pytest

from nodebudget import SizeTable
from nodebudget.calibration.probe_design import choose_fit_batches, choose_holdout_batches, lightest_batch
from nodebudget.errors import InputError


def table(count=200, seed=0):
    rng = np.random.default_rng(seed)
    nodes = rng.integers(2, 50, count)
    edges = (nodes * rng.uniform(10, 15, count)).astype(int)
    return SizeTable.from_counts(nodes, edges, (edges * rng.uniform(10, 16, count)).astype(int))


def condition(sizes, batches):
    rows = np.array([[1.0, *sizes.totals(batch).values()] for batch in batches])
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    rows = rows / np.linalg.norm(rows, axis=0)
    return np.linalg.cond(rows)


def test_chosen_batches_tell_the_columns_apart_better_than_drawn_ones():
    sizes = table()
    chosen = condition(sizes, choose_fit_batches(sizes, 16, 32, np.random.default_rng(0)))
    drawn = [condition(sizes, choose_holdout_batches(sizes, 16, 32, np.random.default_rng(seed))) for seed in range(5)]
    assert chosen < min(drawn) / 3


def test_batches_hold_each_graph_once_and_no_more_than_the_most():
    sizes = table()
    for batch in choose_fit_batches(sizes, 16, 32, np.random.default_rng(0)):
        assert len(set(batch.tolist())) == len(batch) <= 32


def test_heavy_probes_stay_within_reach_of_a_mean_batch():
    sizes = table()
    weight = sizes["nodes"] + sizes["edges"] + sizes["line_edges"]
    chosen = choose_fit_batches(sizes, 16, 32, np.random.default_rng(0))
    assert max(weight[batch].sum() for batch in chosen) <= 1.5 * 32 * weight.mean()


def test_a_dataset_smaller_than_a_batch_is_enough():
    sizes = table(3)
    # Each crystal comes several times: what a batch of 32 takes is not known from batches of 3.
    assert max(len(batch) for batch in choose_holdout_batches(sizes, 4, 32, np.random.default_rng(0))) == 32
    assert max(len(batch) for batch in choose_fit_batches(sizes, 9, 32, np.random.default_rng(0))) > 3


def test_the_lightest_batch():
    assert lightest_batch(SizeTable.from_counts([5, 2, 9], [1, 1, 1])).tolist() == [1, 0]


def test_an_empty_dataset_is_refused():
    with pytest.raises(InputError, match="no crystals"):
        choose_fit_batches(SizeTable.from_counts([]), 5, 5, np.random.default_rng(0))


def test_no_batch_to_fit_is_a_single_node():
    sizes = SizeTable.from_counts([1, 1, 1, 2, 3], [12, 14, 18, 24, 40], [130, 180, 300, 290, 500])
    chosen = choose_fit_batches(sizes, 12, 4, np.random.default_rng(0))
    assert min(sizes["nodes"][batch].sum() for batch in chosen) >= 2
