"""The dataset's order where it was asked for, sizes that are extreme, and datasets that change."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
from crystals import entries
from generated import SIZES, budgets, fewer, over
from hypothesis import given, settings
from hypothesis import strategies as st

from nodebudget import Budget, NodeBudgetSampler, SizeTable, make_plan, measure
from nodebudget.errors import DoesNotFitError, InputError, RecordError


@given(budgets(), st.sampled_from(["skip", "alone"]), st.integers(1, 3))
def test_without_shuffling_batches_are_in_the_datasets_order(
    budget: tuple[SizeTable, dict[str, Any]], policy: str, ranks: int
) -> None:
    sizes, options = budget
    del options["pack"]
    options |= {"shuffle": False, "oversized": policy}
    large = over(sizes, options)
    try:
        shares = [NodeBudgetSampler(sizes, **options, num_replicas=ranks, rank=rank) for rank in range(ranks)]
    except DoesNotFitError:
        return
    # As the results of the ranks are gathered: step by step.
    graphs = [graph for step in zip(*shares, strict=True) for batch in step for graph in batch]
    assert graphs == [graph for graph in range(len(sizes)) if policy == "alone" or graph not in large]
    for batch in (batch for share in shares for batch in share):
        assert not set(batch) & large or len(batch) == 1


def test_an_oversized_graph_follows_its_predecessors() -> None:
    sizes = SizeTable.from_counts([5, 5, 90, 5, 5])
    assert list(NodeBudgetSampler(sizes, max_nodes=20, shuffle=False, oversized="alone")) == [[0, 1], [2], [3, 4]]
    plan = make_plan(sizes, Budget.make(max_nodes=20), shuffle=False, oversized="alone")
    assert (plan.lower_bound, plan.oversized.tolist(), plan.fill) == (2, [2], 0.5)


def test_a_balanced_plan_that_stays_the_same_is_asked_for() -> None:
    fixed = NodeBudgetSampler(SIZES, max_nodes=1000, shuffle=False, pack="balanced")
    batches = list(fixed)
    assert [graph for batch in batches for graph in batch] != list(range(1000))
    fixed.set_epoch(3)
    assert list(fixed) == batches
    assert fixed.plan.balance.std() < 0.01 * fixed.plan.balance.mean()


@st.composite
def large_sets(draw: st.DrawFn) -> tuple[SizeTable, dict[str, Any]]:
    """Over 200,000 graphs of which one or two fill a batch."""
    graphs = draw(st.integers(200_000, 200_100))
    nodes = np.full(graphs, 7)
    nodes[: draw(st.sampled_from([0, 3, 40_000]))] = draw(st.sampled_from([1, 8]))
    return SizeTable.from_counts(nodes), draw(
        st.sampled_from([{"max_graphs": 1}, {"max_nodes": 13}, {"max_graphs": 2}, {"max_nodes": 15}])
    )


@settings(max_examples=8)
@given(large_sets(), st.integers(1, 3))
def test_many_graphs_of_which_one_fills_a_batch(drawn: tuple[SizeTable, dict[str, Any]], ranks: int) -> None:
    sizes, budget = drawn
    try:
        sampler = NodeBudgetSampler(sizes, **budget, num_replicas=ranks, rank=0)
    except DoesNotFitError:
        # Truly: as many batches as graphs, and these can't be shared out equally.
        bound = make_plan(sizes, Budget.make(**budget)).lower_bound
        assert bound > len(sizes) // ranks * ranks
        return
    plan = sampler.plan
    assert np.array_equal(np.sort(plan.indices), np.arange(len(sizes)))
    assert plan.graphs.max() <= budget.get("max_graphs", len(sizes))
    assert plan.loads(sizes["nodes"]).max() <= budget.get("max_nodes", 10**9)
    # One or two graphs of seven nodes fill a batch.
    fewest = -(-len(sizes) // budget.get("max_graphs", budget.get("max_nodes", 0) // 7))
    assert len(plan) == ranks * len(sampler) <= 1.02 * max(fewest, plan.lower_bound) + ranks


def test_a_filtered_table_of_a_measurement_with_gaps_knows_its_crystals(tmp_path: Any) -> None:
    broken = {"jid": "BROKEN", "atoms": {"elements": ["Si"]}}
    crystals = entries(most=8, count=8)
    sizes = measure([crystals[0], broken, *crystals[1:6]], on_error="skip")
    mask = np.arange(len(sizes)) % 2 == 1
    rows = sizes.take(mask)
    assert sorted(graph for batch in NodeBudgetSampler(rows, max_graphs=2) for graph in batch) == [2, 4, 6]
    for suffix in ("npz", "csv", "parquet"):
        again = SizeTable.load(rows.save(tmp_path / f"rows.{suffix}"))
        assert again.settings["indices"] == [2, 4, 6]
        assert again.fingerprint() == rows.fingerprint()
    # The same sizes of other crystals: a state of one is not a state of the other.
    others = SizeTable(rows.columns)
    assert others.fingerprint() != rows.fingerprint()
    with pytest.raises(RecordError, match="another dataset"):
        NodeBudgetSampler(others, max_graphs=2).load_state_dict(NodeBudgetSampler(rows, max_graphs=2).state_dict())


@pytest.mark.parametrize("rows", [[True, False], [0, 1000], [-1001], [0.5]])
def test_rows_that_do_not_exist_are_refused(rows: list[Any]) -> None:
    with pytest.raises(InputError, match=r"mask of shape|not rows"):
        SIZES.take(rows)


def test_a_dataset_that_changed_is_noticed_when_iterated() -> None:
    crystals = entries(most=8, count=6)
    sampler = NodeBudgetSampler(crystals, max_graphs=2)
    assert len(list(sampler)) == 3
    crystals.append(crystals[0])
    with pytest.raises(InputError, match=r"the dataset has 7 samples \(it had 6"):
        list(sampler)
    del crystals[-2:]
    with pytest.raises(ValueError, match="the dataset has 5 samples"):
        iter(sampler)


def test_graphs_that_are_left_out_are_named(caplog: pytest.LogCaptureFixture) -> None:
    sizes = SizeTable.from_counts([90, 5, 5, 5], ids=["big", "a", "b", "c"])
    with caplog.at_level(logging.WARNING):
        NodeBudgetSampler(sizes, max_nodes=10, oversized="skip")
    assert "1 of 4, over the budget (up to 10 nodes), left out (graph 0 (big): 90 nodes" in caplog.text


@fewer
@given(budgets(), st.lists(st.sampled_from([1, 2, 3, 4]), min_size=2, max_size=4), st.data())
def test_a_chain_of_ranks_within_an_epoch(
    budget: tuple[SizeTable, dict[str, Any]], chain: list[int], data: st.DataObject
) -> None:
    sizes, options = budget
    run_chain(sizes, {**options, "oversized": "alone"}, chain, data.draw(st.integers(0, 5)))


def test_a_chain_of_24_16_and_48_ranks() -> None:
    sizes = SizeTable.from_counts(np.tile(SIZES["nodes"], 10))
    run_chain(sizes, {"max_nodes": 300}, [24, 16, 48], 3)


def run_chain(sizes: SizeTable, options: dict[str, Any], chain: list[int], steps: int) -> None:
    """Train some steps with each number of ranks, each from the state of the one before; then to the end."""
    trained: list[int] = []
    state: dict[str, Any] | None = None
    done = 0
    for place, world in enumerate(chain):
        try:
            samplers = [NodeBudgetSampler(sizes, **options, num_replicas=world, rank=rank) for rank in range(world)]
            for sampler in samplers:
                sampler.load_state_dict(state or sampler.state_dict())
        except DoesNotFitError:
            return
        last = place == len(chain) - 1
        taken = len(samplers[0]) - done if last else min(steps, len(samplers[0]) - done)
        for sampler in samplers:
            going = iter(sampler)
            trained += [graph for _ in range(taken) for graph in next(going)]
        done += taken
        state = samplers[0].state_dict(consumed=done)
        if not last and done == len(samplers[0]):
            break
    assert sorted(trained) == list(range(len(sizes)))
