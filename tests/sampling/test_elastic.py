"""Another budget or another number of ranks in the middle of an epoch: the rest is re-planned, every graph once."""

from __future__ import annotations

import json
import pickle
from typing import Any

import numpy as np
import pytest
from calibrations import calibration
from generated import NODES, SIZES, budgets, fewer, over, train
from hypothesis import given
from hypothesis import strategies as st

from nodebudget.datasets.size_table import SizeTable
from nodebudget.errors import DoesNotFitError, InputError, OversizedError, RecordError
from nodebudget.sampling.sampler import NodeBudgetSampler


def ranks_of(world: int, sizes: SizeTable = SIZES, **options: Any) -> list[NodeBudgetSampler]:
    return [NodeBudgetSampler(sizes, **options, num_replicas=world, rank=rank) for rank in range(world)]


def check_caps(batches: list[list[int]], sizes: SizeTable, maxima: dict[str, Any]) -> None:
    large = over(sizes, maxima)
    for batch in batches:
        assert batch
        totals = sizes.totals(batch)
        kept = all(totals[name] <= maxima.get(f"max_{name}", np.inf) for name in totals)
        assert kept or (len(batch) == 1 and batch[0] in large)


@fewer
@given(budgets(), st.integers(0, 3), st.data())
def test_whatever_changes_every_graph_comes_once(
    budget: tuple[SizeTable, dict[str, Any]], epoch: int, data: st.DataObject
) -> None:
    sizes, options = budget
    maxima = {name: value for name, value in options.items() if name.startswith("max_")}
    made = {**options, "oversized": "alone"}
    world = data.draw(st.integers(1, 3))
    try:
        samplers = ranks_of(world, sizes, **made)
    except DoesNotFitError:
        return
    for sampler in samplers:
        sampler.set_epoch(epoch)
    trained: list[list[int]] = []
    done = 0
    for _ in range(data.draw(st.integers(1, 3))):
        steps = data.draw(st.integers(0, len(samplers[0]) - done))
        batches = train(samplers, steps)
        check_caps(batches, sizes, maxima)
        trained += batches
        done += steps
        if done == len(samplers[0]):
            break
        samplers, maxima = change(samplers, sizes, made, maxima, done, data)
        assert len({len(sampler) for sampler in samplers}) == 1
        states = [sampler.state_dict() for sampler in samplers]
        assert all(state == states[0] for state in states)
        assert states[0]["consumed"] == done
    rest = train(samplers) if done < len(samplers[0]) else []
    check_caps(rest, sizes, maxima)
    assert len(rest) == (len(samplers[0]) - done) * len(samplers)
    assert sorted(graph for batch in trained + rest for graph in batch) == list(range(len(sizes)))
    # The next epoch is a whole one, under the budget and for the ranks of now.
    for sampler in samplers:
        sampler.set_epoch(epoch + 1)
    whole = train(samplers)
    assert len(whole) == len(samplers[0]) * len(samplers)
    assert sorted(graph for batch in whole for graph in batch) == list(range(len(sizes)))
    check_caps(whole, sizes, maxima)


def change(
    samplers: list[NodeBudgetSampler],
    sizes: SizeTable,
    made: dict[str, Any],
    maxima: dict[str, Any],
    done: int,
    data: st.DataObject,
) -> tuple[list[NodeBudgetSampler], dict[str, Any]]:
    """Set another budget, or go on in new processes, as many or others; where that can't be, nothing changes."""
    before = samplers[0].state_dict(consumed=done)
    if data.draw(st.booleans()):
        name = data.draw(st.sampled_from(sorted(maxima)))
        given = {name: max(1, int(maxima[name] * data.draw(st.sampled_from([0.3, 0.7, 2]))))}
        try:
            for sampler in samplers:
                sampler.set_budget(**given, consumed=done)
        except DoesNotFitError:
            assert samplers[0].state_dict(consumed=done) == before
            return resumed(samplers, before), maxima
        return samplers, {**maxima, **given}
    state = json.loads(json.dumps(before))
    try:
        others = ranks_of(data.draw(st.integers(1, 4)), sizes, **made)
        for other in others:
            other.load_state_dict(state)
    except DoesNotFitError:
        return resumed(samplers, before), maxima
    return others, maxima


def resumed(samplers: list[NodeBudgetSampler], state: dict[str, Any]) -> list[NodeBudgetSampler]:
    for sampler in samplers:
        sampler.load_state_dict(state)
    return samplers


@fewer
@given(budgets(), st.data())
def test_resumed_after_a_change_is_uninterrupted(budget: tuple[SizeTable, dict[str, Any]], data: st.DataObject) -> None:
    sizes, options = budget
    options["oversized"] = "alone"
    first = NodeBudgetSampler(sizes, **options)
    name = next(name for name in options if name.startswith("max_"))
    stop = data.draw(st.integers(0, len(first)))
    began = stop if stop < len(first) else 0
    train([first], stop)
    first.set_budget(**{name: max(1, options[name] // 2)}, consumed=stop)
    whole = train([first])
    again = data.draw(st.integers(began, len(first)))
    state = first.state_dict(consumed=again)
    second = NodeBudgetSampler(sizes, **options)
    second.load_state_dict(state)
    assert second.budget.to_dict() == first.budget.to_dict()
    assert train([second]) == whole[again - began :]
    for sampler in (first, second):
        sampler.set_epoch(5)
    assert train([second]) == train([first])


def test_the_rest_of_an_epoch_is_planned_under_the_new_budget() -> None:
    sampler = NodeBudgetSampler(SIZES, max_nodes=1000)
    before = len(sampler)
    head = train([sampler], 5)
    sampler.set_budget(max_nodes=500, consumed=5)
    assert before < len(sampler) < 2 * before
    rest = list(sampler)
    assert len(rest) == len(sampler) - 5
    assert max(SIZES.totals(batch)["nodes"] for batch in rest) <= 500
    assert sorted(graph for batch in head + rest for graph in batch) == list(range(1000))
    # Iterated once more the epoch is whole again.
    assert sorted(graph for batch in sampler for graph in batch) == list(range(1000))
    assert sampler.plan.config.seed == 0


def test_the_batch_that_failed_is_planned_again() -> None:
    sampler = NodeBudgetSampler(SIZES, max_nodes=1000)
    trained: list[list[int]] = []
    refused = 0
    while len(trained) < len(sampler):
        for batch in sampler:
            if SIZES.totals(batch)["nodes"] > 700:  # stands for an out-of-memory error
                refused += 1
                sampler.set_budget(max_nodes=int(sampler.budget.maxima["nodes"] * 0.8), consumed=len(trained))
                break
            trained.append(batch)
    assert refused == 2
    assert sorted(graph for batch in trained for graph in batch) == list(range(1000))


def test_a_budget_between_epochs_counts_for_the_next() -> None:
    sampler = NodeBudgetSampler(SIZES, max_nodes=1000)
    list(sampler)
    sampler.set_budget(max_nodes=400)
    again = NodeBudgetSampler(SIZES, max_nodes=1000)
    again.load_state_dict(sampler.state_dict())
    assert list(again) == []
    for one in (sampler, again):
        one.set_epoch(1)
        assert len(list(one)) == len(one) == len(NodeBudgetSampler(SIZES, max_nodes=400))
    # Without another epoch the same one comes whole, as it does without a change.
    assert len(list(sampler)) == len(sampler)


def test_before_the_first_batch_all_is_planned_again() -> None:
    sampler = NodeBudgetSampler(SIZES, max_nodes=1000)
    sampler.set_budget(max_nodes=400)
    assert list(sampler) == list(NodeBudgetSampler(SIZES, max_nodes=400))


def test_what_is_not_given_stays() -> None:
    known = calibration(per_graph=1000.0, per_line_edge=5500.0)
    sampler = NodeBudgetSampler(SIZES, calibration=known, memory="2GiB", max_graphs=40)
    sampler.set_budget(memory="1GiB")
    assert sampler.budget.describe() == "up to 40 graphs, 1.00 GiB"
    assert sampler.plan.predicted_bytes.max() <= 2**30
    sampler.set_budget(calibration=calibration(per_graph=1000.0, per_line_edge=11000.0))
    assert sampler.budget.memory == 2**30
    state = json.loads(json.dumps(sampler.state_dict()))
    again = NodeBudgetSampler(SIZES, calibration=known, memory="2GiB", max_graphs=40)
    again.load_state_dict(state)
    assert list(again) == list(sampler)
    assert again.budget.calibration.coefficient("line_edges") == 11000


def test_a_calibration_may_be_the_first_budget_in_bytes() -> None:
    sampler = NodeBudgetSampler(SIZES, max_nodes=1000)
    with pytest.raises(InputError, match="memory and calibration go together"):
        sampler.set_budget(memory="1GiB")
    sampler.set_budget(memory="1GiB", calibration=calibration(per_line_edge=5500.0))
    assert sampler.budget.describe() == "up to 1,000 nodes, 1.00 GiB"


def test_how_much_was_trained_must_be_said() -> None:
    sampler = NodeBudgetSampler(SIZES, max_nodes=1000)
    train([sampler], 5)
    with pytest.raises(InputError, match=r"5 of \d+ batches given out.*pass consumed"):
        sampler.set_budget(max_nodes=500)
    with pytest.raises(InputError, match="no budget"):
        sampler.set_budget(consumed=4)
    with pytest.raises(InputError, match="consumed is 100"):
        sampler.set_budget(max_nodes=500, consumed=100)
    sampler.set_budget(max_nodes=500, consumed=4)
    with pytest.raises(InputError, match=r"consumed is 3 .*4 of them before the last change"):
        sampler.set_budget(max_nodes=400, consumed=3)


def test_a_state_that_was_loaded_says_how_much_was_trained() -> None:
    sampler = NodeBudgetSampler(SIZES, max_nodes=1000)
    state = sampler.state_dict(consumed=5)
    head = train([sampler], 5)
    again = NodeBudgetSampler(SIZES, max_nodes=1000)
    again.load_state_dict(state)
    again.set_budget(max_nodes=500)
    again.set_budget(max_nodes=400)
    rest = train([again])
    assert sorted(graph for batch in head + rest for graph in batch) == list(range(1000))
    assert max(SIZES.totals(batch)["nodes"] for batch in rest) <= 400


def test_a_loop_over_the_old_batches_does_not_go_on() -> None:
    sampler = NodeBudgetSampler(SIZES, max_nodes=1000)
    going = iter(sampler)
    next(going)
    sampler.set_budget(max_nodes=500, consumed=1)
    with pytest.raises(InputError, match="start a new loop"):
        next(going)
    assert len(list(sampler)) == len(sampler) - 1


def test_a_budget_that_a_graph_is_over_changes_nothing() -> None:
    sampler = NodeBudgetSampler(SIZES, max_nodes=1000)
    train([sampler], 3)
    state = sampler.state_dict()
    with pytest.raises(OversizedError):
        sampler.set_budget(max_nodes=int(NODES.max()) - 1, consumed=3)
    assert sampler.state_dict() == state
    assert len(list(sampler)) == len(sampler)


def test_graphs_that_were_left_out_come_when_they_fit(caplog: pytest.LogCaptureFixture) -> None:
    sizes = SizeTable.from_counts([90, *[5] * 40])
    sampler = NodeBudgetSampler(sizes, max_nodes=50, oversized="skip")
    head = train([sampler], 1)
    sampler.set_budget(max_nodes=100, consumed=1)
    assert sorted(graph for batch in head + list(sampler) for graph in batch) == list(range(41))
    assert len(caplog.records) == 1


def test_too_little_is_left_for_so_many_ranks() -> None:
    sizes = SizeTable.from_counts([5] * 6)
    [one] = ranks_of(1, sizes, max_nodes=5)
    train([one], 4)
    other = NodeBudgetSampler(sizes, max_nodes=5, num_replicas=3, rank=0)
    state = other.state_dict()
    with pytest.raises(DoesNotFitError, match=r"2 graphs can't be assigned to 3 ranks.*next epoch: set_epoch\(1\)"):
        other.load_state_dict(one.state_dict())
    assert other.state_dict() == state
    other.load_state_dict(one.state_dict(consumed=3))
    assert len(list(other)) == 1


def test_an_epoch_that_is_done_is_done_for_other_ranks() -> None:
    [one] = ranks_of(1, max_nodes=1000)
    list(one)
    for other in ranks_of(3, max_nodes=1000):
        other.load_state_dict(one.state_dict())
        assert list(other) == []
        assert len(list(other)) == len(other)


def test_states_of_the_first_version_are_read() -> None:
    # As nodebudget wrote it before budgets could change.
    state = {
        "version": 1,
        "epoch": 4,
        "consumed": 2,
        "seed": 3,
        "num_replicas": 2,
        "data": "873d771a54770623e830261388adb329de266ced19395810f465ac16bef413b0",
        "settings": "1cbae797ee27285cf2799f5d2a8fd6766c5feeee59dc65d589197aa78fa14544",
    }
    sizes = SizeTable.from_counts(list(range(1, 101)), list(range(100, 0, -1)))
    samplers = ranks_of(2, sizes, max_nodes=500, seed=3)
    for sampler in samplers:
        sampler.load_state_dict(state)
        assert len(sampler) == 6
    steps = [[sorted(batch) for batch in step] for step in zip(*samplers, strict=True)]
    # The steps are those that were planned then; which rank takes which batch of a step is not.
    for step, planned in zip(
        steps,
        [
            [5, 6, 17, 53, 68, 72, 94, 97],
            [3, 10, 24, 28, 46, 62, 73, 78, 87],
            [15, 22, 23, 32, 36, 55, 58, 75, 96],
            [12, 34, 44, 45, 54, 57, 71, 99],
        ],
        strict=True,
    ):
        assert planned in step


@pytest.mark.parametrize(
    "wrong",
    [
        {"stretches": [{"budget": None, "num_replicas": 1, "steps": 10**6}]},
        {"stretches": [{"budget": None, "num_replicas": 0, "steps": 1}]},
        {"stretches": [{"budget": None, "num_replicas": 1, "steps": -1}]},
        {"stretches": ["three"]},
        {"budget": {"caps": {"nodes": 100}}},
        {"budget": {"caps": {"nodes": float("nan")}, "max_graphs": None, "memory": None, "calibration": None}},
        {"budget": {"caps": {}, "max_graphs": None, "memory": 10**9, "calibration": {"coefficients": {}}}},
        {"budget": 7},
        {"num_replicas": "two"},
        {"consumed": 10**9},
    ],
)
def test_a_state_that_was_altered_is_refused(wrong: dict[str, Any]) -> None:
    sampler = NodeBudgetSampler(SIZES, max_nodes=1000)
    before = sampler.state_dict()
    with pytest.raises(InputError):
        sampler.load_state_dict({**before, **wrong})
    assert sampler.state_dict() == before


def test_a_state_without_its_stretches_is_none() -> None:
    sampler = NodeBudgetSampler(SIZES, max_nodes=1000)
    state = sampler.state_dict()
    del state["stretches"]
    with pytest.raises(RecordError, match="not the state"):
        sampler.load_state_dict(state)


def test_a_pickled_sampler_goes_on_after_a_change() -> None:
    sampler = NodeBudgetSampler(SIZES, max_nodes=1000)
    train([sampler], 5)
    sampler.set_budget(max_nodes=500, consumed=5)
    again = pickle.loads(pickle.dumps(sampler))
    assert list(again) == list(sampler)
