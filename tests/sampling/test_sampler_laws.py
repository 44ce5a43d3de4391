"""The sampler's laws: every graph once, within the budget, an exact length, ranks that agree, reshuffled epochs."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from generated import budgets, fewer, over
from hypothesis import given
from hypothesis import strategies as st

from nodebudget.datasets.size_table import SizeTable
from nodebudget.errors import DoesNotFitError, InputError, OversizedError, RecordError
from nodebudget.sampling.sampler import NodeBudgetSampler


@given(budgets(), st.sampled_from(["skip", "alone"]), st.integers(0, 5))
def test_every_graph_once_within_the_budget(budget: tuple[SizeTable, dict[str, Any]], policy: str, epoch: int) -> None:
    sizes, options = budget
    large = over(sizes, options)
    if policy == "skip" and len(large) == len(sizes):
        with pytest.raises(DoesNotFitError, match="over the budget"):
            NodeBudgetSampler(sizes, **options, oversized=policy)
        return
    sampler = NodeBudgetSampler(sizes, **options, oversized=policy)
    length = len(sampler)
    sampler.set_epoch(epoch)
    batches = list(sampler)
    assert len(batches) == length
    assert all(type(graph) is int for batch in batches for graph in batch)
    graphs = sorted(graph for batch in batches for graph in batch)
    assert graphs == (sorted(set(range(len(sizes))) - large) if policy == "skip" else list(range(len(sizes))))
    assert set(sampler.plan.oversized.tolist()) == large
    for batch in batches:
        assert batch
        if set(batch) & large:
            assert len(batch) == 1
            continue
        totals = sizes.totals(batch)
        assert all(totals[name] <= options.get(f"max_{name}", np.inf) for name in totals)


@given(budgets())
def test_oversized_graphs_are_named(budget: tuple[SizeTable, dict[str, Any]]) -> None:
    sizes, options = budget
    large = over(sizes, options)
    if not large:
        NodeBudgetSampler(sizes, **options)
        return
    with pytest.raises(OversizedError) as caught:
        NodeBudgetSampler(sizes, **options)
    assert caught.value.indices == sorted(large)
    assert all(f"graph {graph}:" in str(caught.value) for graph in sorted(large)[:5])


@fewer
@given(budgets(), st.integers(1, 5), st.integers(0, 3))
def test_ranks_share_every_graph_in_equally_many_batches(
    budget: tuple[SizeTable, dict[str, Any]], ranks: int, epoch: int
) -> None:
    sizes, options = budget
    options["oversized"] = "alone"
    try:
        samplers = [NodeBudgetSampler(sizes, **options, num_replicas=ranks, rank=rank) for rank in range(ranks)]
    except DoesNotFitError:
        # Only where there are fewer graphs than ranks, or no multiple of the ranks lies in between.
        alone = NodeBudgetSampler(sizes, **options)
        assert len(alone) + ranks - 1 >= len(sizes) or len(sizes) < ranks
        return
    shares = []
    for sampler in samplers:
        sampler.set_epoch(epoch)
        shares.append(list(sampler))
    assert len({len(share) for share in shares} | {len(sampler) for sampler in samplers}) == 1
    graphs = [graph for share in shares for batch in share for graph in batch]
    assert sorted(graphs) == list(range(len(sizes)))


@fewer
@given(budgets(), st.data())
def test_interrupted_and_resumed_is_uninterrupted(
    budget: tuple[SizeTable, dict[str, Any]], data: st.DataObject
) -> None:
    sizes, options = budget
    options["oversized"] = "alone"
    first = NodeBudgetSampler(sizes, **options)
    first.set_epoch(data.draw(st.integers(0, 2)))
    whole = list(first)
    stop = data.draw(st.integers(0, len(whole)))
    going = iter(first)
    head = [next(going) for _ in range(stop)]
    second = NodeBudgetSampler(sizes, **options)
    second.load_state_dict(pickle.loads(pickle.dumps(first.state_dict())))
    second.set_epoch(first.epoch)
    assert head + list(second) == whole
    assert list(second) == whole
    second.set_epoch(first.epoch + 1)
    assert len(list(second)) == len(whole)


@fewer
@given(budgets())
def test_epochs_are_a_function_of_the_seed(budget: tuple[SizeTable, dict[str, Any]]) -> None:
    sizes, options = budget
    options["oversized"] = "alone"
    one, two = NodeBudgetSampler(sizes, **options), pickle.loads(pickle.dumps(NodeBudgetSampler(sizes, **options)))
    for epoch in (1, 0):
        one.set_epoch(epoch)
        two.set_epoch(epoch)
        assert list(one) == list(two) == list(one)
    if not options["shuffle"]:
        before = list(one)
        one.set_epoch(7)
        assert list(one) == before


@pytest.fixture
def crystals() -> SizeTable:
    nodes = np.maximum(1, np.random.default_rng(0).lognormal(3, 0.6, 3000)).astype(np.int64)
    return SizeTable.from_counts(nodes, nodes * 12, nodes * 150, ids=[f"JVASP-{i}" for i in range(3000)])


def test_ranks_of_a_step_have_nearly_the_same_load(crystals: SizeTable) -> None:
    for ranks in (2, 3, 8):
        shares = [NodeBudgetSampler(crystals, max_nodes=800, num_replicas=ranks, rank=rank) for rank in range(ranks)]
        for step in zip(*shares, strict=True):
            loads = [crystals.totals(batch)["nodes"] for batch in step]
            assert max(loads) <= 1.01 * min(loads)


def test_steps_come_in_random_order_of_load(crystals: SizeTable) -> None:
    sampler = NodeBudgetSampler(crystals, max_nodes=300, num_replicas=2, rank=0)
    loads = sampler.plan.balance.reshape(-1, 2).mean(axis=1)
    assert abs(np.corrcoef(loads, np.arange(len(loads)))[0, 1]) < 0.3


def test_another_epoch_is_reshuffled(crystals: SizeTable) -> None:
    sampler = NodeBudgetSampler(crystals, max_nodes=800)

    def pairs() -> set[tuple[int, int]]:
        return {(a, b) for batch in map(sorted, sampler) for i, a in enumerate(batch) for b in batch[i + 1 :]}

    first = pairs()
    sampler.set_epoch(1)
    shared = len(first & pairs()) / len(first)
    assert shared < 3 / len(sampler)  # two shuffles share one pair in as many as there are batches


def test_like_and_unlike_graphs_meet_as_often_as_in_a_shuffle(crystals: SizeTable) -> None:
    few = crystals.take(np.arange(600))
    sampler = NodeBudgetSampler(few, max_nodes=int(few["nodes"].mean() * 20))
    together = np.zeros((600, 600))
    epochs = 200
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        for batch in sampler:
            together[np.ix_(batch, batch)] += 1
    by_size = np.argsort(few["nodes"], kind="stable")
    together = together[np.ix_(by_size, by_size)]
    np.fill_diagonal(together, np.nan)
    shuffled = epochs * (20 - 1) / (600 - 1)
    tenths = together.reshape(10, 60, 10, 60)
    met = np.nanmean(tenths, axis=(1, 3)) / shuffled
    # The largest tenth can't meet itself as often: then batches would not be even.
    assert met[-1, -1] > 0.6
    assert np.abs(met[:-1, :] - 1).max() < 0.25


def test_a_target_that_goes_with_size_varies_less_than_in_a_shuffle(crystals: SizeTable) -> None:
    target = np.log(crystals["nodes"])
    means = [target[batch].mean() for batch in NodeBudgetSampler(crystals, max_nodes=800)]
    order = np.random.default_rng(0).permutation(len(crystals))
    fixed = [target[part].mean() for part in np.array_split(order, len(means))]
    assert np.std(means) < np.std(fixed)


def test_validation_keeps_the_order(crystals: SizeTable) -> None:
    sampler = NodeBudgetSampler(crystals, max_nodes=800, pack="sequential", num_replicas=1)
    assert [graph for batch in sampler for graph in batch] == list(range(len(crystals)))


def test_an_empty_dataset_is_refused() -> None:
    with pytest.raises(InputError, match="no graphs"):
        NodeBudgetSampler(SizeTable.from_counts([]), max_nodes=5)


def test_one_graph_makes_one_batch() -> None:
    assert list(NodeBudgetSampler(SizeTable.from_counts([5]), max_nodes=5)) == [[0]]


def test_fewer_graphs_than_ranks_is_refused() -> None:
    with pytest.raises(DoesNotFitError, match="2 graphs can't be assigned to 3 ranks"):
        NodeBudgetSampler(SizeTable.from_counts([5, 5]), max_nodes=50, num_replicas=3, rank=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_replicas": 2, "rank": 2}, "rank is 2"),
        ({"num_replicas": 0, "rank": 0}, "num_replicas is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 1.5}, "seed is 1.5"),
        ({"pack": "tight"}, "pack is 'tight'"),
        ({"oversized": "drop"}, "oversized is 'drop'"),
    ],
)
def test_wrong_arguments_are_named(crystals: SizeTable, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        NodeBudgetSampler(crystals, max_nodes=800, **options)


@pytest.mark.parametrize("epoch", [-1, 1.5, "2", True])
def test_a_wrong_epoch_is_refused(crystals: SizeTable, epoch: Any) -> None:
    with pytest.raises(InputError, match="epoch is"):
        NodeBudgetSampler(crystals, max_nodes=800).set_epoch(epoch)


def test_a_foreign_state_is_refused_with_the_reason(crystals: SizeTable) -> None:
    sampler = NodeBudgetSampler(crystals, max_nodes=800)
    state = sampler.state_dict()
    others = {
        "another dataset": NodeBudgetSampler(crystals.take(range(100)), max_nodes=800),
        "another budget": NodeBudgetSampler(crystals, max_nodes=801),
        "seed 0, not 1": NodeBudgetSampler(crystals, max_nodes=800, seed=1),
    }
    for reason, other in others.items():
        with pytest.raises(RecordError, match=reason):
            other.load_state_dict(state)
    with pytest.raises(RecordError, match="another version"):
        sampler.load_state_dict({**state, "version": 99})
    with pytest.raises(RecordError, match="not the state"):
        sampler.load_state_dict({"consumed": 3})


def test_batches_trained_on_can_be_given(crystals: SizeTable) -> None:
    sampler = NodeBudgetSampler(crystals, max_nodes=800)
    whole = list(sampler)
    assert sampler.state_dict()["consumed"] == len(whole)
    sampler.load_state_dict(sampler.state_dict(consumed=3))
    assert list(sampler) == whole[3:]
    with pytest.raises(InputError, match="an epoch has"):
        sampler.state_dict(consumed=len(whole) + 1)


def test_oversized_graphs_are_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    sizes = SizeTable.from_counts([90, 5, 5, 5], ids=["big", "a", "b", "c"])
    sampler = NodeBudgetSampler(sizes, max_nodes=10, oversized="alone")
    list(sampler)
    list(sampler)
    assert len(caplog.records) == 1
    assert "graph 0 (big): 90 nodes, 80 over the maximum of 10" in caplog.text
    assert len(sampler) == 3
    assert sampler.plan.oversized.tolist() == [0]
