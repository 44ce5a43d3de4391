"""What an epoch holds: drawn by weights, a subset, several datasets, and equal shares for all ranks."""

from __future__ import annotations

import json
import logging
from typing import Any

import numpy as np
import pytest
from generated import SIZES, budgets, fewer
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import ConcatDataset, DataLoader

from nodebudget import NodeBudgetSampler, SizeTable, mix
from nodebudget.errors import DoesNotFitError, InputError, RecordError


def ranks_of(world: int, sizes: Any, **options: Any) -> list[NodeBudgetSampler]:
    return [NodeBudgetSampler(sizes, **options, num_replicas=world, rank=rank) for rank in range(world)]


def graphs_of(samplers: list[NodeBudgetSampler]) -> list[int]:
    return [graph for step in zip(*samplers, strict=True) for batch in step for graph in batch]


@fewer
@given(budgets(), st.none() | st.integers(1, 40), st.booleans(), st.integers(1, 3), st.data())
def test_drawn_epochs_are_within_the_budget_and_equally_long(
    drawn: tuple[SizeTable, dict[str, Any]], step: int | None, replacement: bool, world: int, data: st.DataObject
) -> None:
    sizes, options = drawn
    options |= {"pack": "balanced" if options["pack"] == "dense" else options["pack"], "oversized": "skip"}
    weights = data.draw(st.lists(st.sampled_from([0.0, 0.5, 1.0, 3.0]), min_size=len(sizes), max_size=len(sizes)))
    size = data.draw(st.integers(1, 2 * len(sizes)))
    made = {**options, "weights": weights, "epoch_size": size, "replacement": replacement, "graphs_per_step": step}
    try:
        samplers = ranks_of(world, sizes, **made)
    except (DoesNotFitError, InputError):
        return
    lengths, epochs = set(), []
    for epoch in (0, 1, 9, 40):
        for sampler in samplers:
            sampler.set_epoch(epoch)
        batches = [batch for sampler in samplers for batch in sampler]
        lengths.add(len(batches))
        epochs.append(sorted(graph for batch in batches for graph in batch))
        assert len(epochs[-1]) == size
        assert all(weights[graph] > 0 for graph in epochs[-1])
        assert replacement or len(set(epochs[-1])) == size
        for batch in batches:
            totals = sizes.totals(batch)
            assert all(totals[name] <= options.get(f"max_{name}", np.inf) for name in totals)
    assert lengths == {len(samplers[0]) * world}
    if step is None:
        # The same graphs on any number of ranks.
        alone = NodeBudgetSampler(sizes, **made)
        assert sorted(graph for batch in alone for graph in batch) == epochs[0]
    # Interrupted and resumed: the same epoch.
    stop = data.draw(st.integers(0, len(samplers[0])))
    whole = [list(sampler) for sampler in samplers]
    again = ranks_of(world, sizes, **made)
    for sampler in again:
        sampler.load_state_dict(json.loads(json.dumps(samplers[0].state_dict(consumed=stop))))
    assert [list(sampler) for sampler in again] == [batches[stop:] for batches in whole]


@pytest.mark.parametrize("replacement", [True, False])
def test_graphs_come_as_often_as_their_weights_say(replacement: bool) -> None:
    weights = np.tile([0.0, 1.0, 2.0, 4.0], 250)
    sampler = NodeBudgetSampler(SIZES, max_nodes=1000, weights=weights, epoch_size=100, replacement=replacement)
    times = np.zeros(4)
    epochs = 300
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        for batch in sampler:
            np.add.at(times, np.array(batch) % 4, 1)
    shares = times / times.sum()
    assert times[0] == 0
    if replacement:
        # Three standard deviations of 30,000 draws.
        assert shares[1:] == pytest.approx([1 / 7, 2 / 7, 4 / 7], abs=3 * np.sqrt(0.25 / 30_000))
    else:
        # One after the other without those before: less often than asked where much was drawn already.
        assert np.all(np.diff(shares) > 0.05)
        assert shares[1:] == pytest.approx([1 / 7, 2 / 7, 4 / 7], abs=0.03)


def test_without_weights_a_part_of_the_graphs_is_drawn_once() -> None:
    sampler = NodeBudgetSampler(SIZES, max_nodes=1000, epoch_size=300)
    seen: set[int] = set()
    for epoch in range(20):
        sampler.set_epoch(epoch)
        graphs = [graph for batch in sampler for graph in batch]
        assert len(set(graphs)) == 300
        seen |= set(graphs)
    assert len(seen) > 990


def test_a_rest_of_a_drawn_epoch_is_planned_again() -> None:
    options = {"max_nodes": 1000, "weights": np.arange(1000.0), "epoch_size": 500}
    sampler = NodeBudgetSampler(SIZES, **options)
    whole = sorted(graph for batch in sampler for graph in batch)
    going = iter(sampler)
    head = [graph for _ in range(4) for graph in next(going)]
    sampler.set_budget(max_nodes=500, consumed=4)
    rest = list(sampler)
    assert max(SIZES.totals(batch)["nodes"] for batch in rest) <= 500
    assert sorted(head + [graph for batch in rest for graph in batch]) == whole
    with pytest.raises(RecordError, match="draw"):
        NodeBudgetSampler(SIZES, max_nodes=1000).load_state_dict(sampler.state_dict(consumed=5))


@pytest.mark.parametrize("step", [None, 32])
def test_a_subset_is_trained_on_by_its_places_in_the_dataset(step: int | None) -> None:
    chosen = np.arange(999, 0, -3)
    for indices in (chosen, np.isin(np.arange(1000), chosen)):
        sampler = NodeBudgetSampler(SIZES, max_nodes=1000, indices=indices, graphs_per_step=step)
        assert sorted(graph for batch in sampler for graph in batch) == sorted(chosen.tolist())
    in_order = NodeBudgetSampler(SIZES, max_nodes=1000, indices=chosen, shuffle=False)
    assert [graph for batch in in_order for graph in batch] == chosen.tolist()
    with pytest.raises(DoesNotFitError, match=r"graph 999: \d+ nodes"):
        NodeBudgetSampler(SIZES, max_nodes=int(SIZES["nodes"][999]) - 1, indices=[999])
    for wrong in ([0, 0], [1000], [-1], [0.5], []):
        with pytest.raises(InputError, match=r"index|indices"):
            NodeBudgetSampler(SIZES, max_nodes=1000, indices=wrong)
    gaps = SizeTable.from_counts([5, 6, 7], settings={"indices": [0, 2, 3]})
    assert sorted(next(iter(NodeBudgetSampler(gaps, max_nodes=50, indices=[3, 0])))) == [0, 3]
    with pytest.raises(InputError, match="index 1"):
        NodeBudgetSampler(gaps, max_nodes=50, indices=[1])


@pytest.mark.parametrize(
    ("how", "share"),
    [({}, 0.9), ({"temperature": 0.5}, 0.75), ({"temperature": 0.0}, 0.5), ({"weights": {"a": 1, "b": 3}}, 0.25)],
)
def test_datasets_come_in_the_shares_asked_for(how: dict[str, Any], share: float) -> None:
    tables = {"a": SIZES.take(range(900)), "b": SIZES.take(range(900, 1000))}
    mixture = mix(tables, **how)
    assert mixture.shares["a"] == pytest.approx(share)
    both = ConcatDataset([range(900), range(1000, 1100)])
    sampler = NodeBudgetSampler(mixture, max_nodes=1000, epoch_size=500, graphs_per_step=50)
    first = 0
    for epoch in range(60):
        sampler.set_epoch(epoch)
        for batch in DataLoader(both, batch_sampler=sampler, collate_fn=list):
            first += sum(sample < 900 for sample in batch)
    assert len(sampler) == sampler.steps * sampler.accumulate
    assert first / 30_000 == pytest.approx(share, abs=3 * np.sqrt(share * (1 - share) / 30_000))


def test_mixed_tables_keep_their_places() -> None:
    gaps = SizeTable.from_counts(
        [5, 6], settings={"indices": [0, 2], "skipped": [{"index": 1, "name": "", "reason": ""}]}
    )
    mixture = mix({"a": gaps, "b": SizeTable.from_counts([7, 8])})
    assert mixture.sizes.settings["indices"] == [0, 2, 3, 4]
    with pytest.raises(InputError, match="filtered"):
        mix({"a": gaps.take([1]), "b": SizeTable(gaps.take([1]).columns, None, {"indices": [5]})})
    for wrong in ({}, {"a": 1.0, "c": 1.0}, {"a": -1.0, "b": 1.0}, {"a": 0, "b": 0}):
        with pytest.raises(InputError, match="weights of"):
            mix({"a": gaps, "b": gaps}, weights=wrong)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"weights": [1.0]}, "weights of shape"),
        ({"weights": [-1.0] * 1000}, "not numbers of 0 or more"),
        ({"weights": [float("nan")] * 1000}, "not numbers of 0 or more"),
        ({"weights": [1.0] + [0.0] * 999, "replacement": False}, "1 graphs can be drawn"),
        ({"epoch_size": 0}, "epoch_size is 0"),
        ({"epoch_size": 1001}, "1,000 graphs can be drawn"),
        ({"even": "cut"}, "even is 'cut'"),
        ({"weights": [1.0] * 1000, "pack": "dense"}, "weights with pack"),
    ],
)
def test_wrong_arguments_are_named(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        NodeBudgetSampler(SIZES, max_nodes=1000, **wrong)


@pytest.mark.parametrize("shuffle", [True, False])
def test_an_odd_number_of_large_crystals_is_shared_out(shuffle: bool, caplog: pytest.LogCaptureFixture) -> None:
    sizes = SizeTable.from_counts(np.full(101, 60), ids=[f"c{graph}" for graph in range(101)])
    options = {"max_nodes": 100, "shuffle": shuffle}
    with pytest.raises(DoesNotFitError, match="101 graphs can't be assigned to 2 ranks"):
        NodeBudgetSampler(sizes, **options, num_replicas=2, rank=0)
    for even, length, what in (("drop", 50, "left out"), ("repeat", 51, "repeated")):
        samplers = ranks_of(2, sizes, **options, even=even)
        chosen = set()
        for epoch in range(101):
            for sampler in samplers:
                sampler.set_epoch(epoch)
            graphs = graphs_of(samplers)
            times = np.bincount(graphs, minlength=101)
            assert len(samplers[0]) == len(samplers[1]) == length
            [changed] = np.flatnonzero(times != 1)
            assert times[changed] == (0 if even == "drop" else 2)
            chosen.add(int(changed))
            # Once over all ranks, whatever was repeated.
            real = np.concatenate([sampler.real() for sampler in samplers])
            shares = np.concatenate([np.concatenate(list(sampler)) for sampler in samplers])
            assert sorted(shares[real]) == [graph for graph in range(101) if even == "repeat" or graph != changed]
            if not shuffle:
                assert graphs[:100] == [graph for graph in range(101) if even == "repeat" or graph != changed][:100]
        assert len(chosen) == 101
        assert f"1 of 101 graphs {what}, others in other epochs: graph " in caplog.text


def test_where_graphs_can_be_shared_out_nothing_is_dropped_or_repeated(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        for even in ("drop", "repeat"):
            samplers = ranks_of(3, SIZES, max_nodes=1000, even=even)
            assert sorted(graph for sampler in samplers for batch in sampler for graph in batch) == list(range(1000))
            assert all(sampler.real().all() for sampler in samplers)
    assert not caplog.records


def test_fewer_graphs_than_ranks() -> None:
    sizes = SizeTable.from_counts([5, 6])
    samplers = ranks_of(4, sizes, max_nodes=50, even="repeat")
    assert sum(sampler.real().sum() for sampler in samplers) == 2
    assert [len(sampler) for sampler in samplers] == [1, 1, 1, 1]
    with pytest.raises(DoesNotFitError, match="2 graphs can't be assigned to 4 ranks"):
        NodeBudgetSampler(sizes, max_nodes=50, even="drop", num_replicas=4, rank=0)


def test_filled_steps_say_which_graphs_are_real() -> None:
    samplers = ranks_of(2, SIZES, max_nodes=900, graphs_per_step=96, last="fill")
    real = np.concatenate([sampler.real() for sampler in samplers])
    graphs = np.concatenate([np.concatenate(list(sampler)) for sampler in samplers])
    assert len(graphs) == 1056
    assert sorted(graphs[real]) == list(range(1000))
