"""The optimizer step as the unit: its size, its graphs on any ranks and under any budget, its parts, its gradient."""

from __future__ import annotations

import itertools
import json
from typing import Any

import numpy as np
import pytest
from calibrations import calibration
from generated import SIZES, budgets, fewer, over
from hypothesis import given
from hypothesis import strategies as st

from nodebudget import NodeBudgetSampler, SizeTable
from nodebudget.calibration.time_model import TimeModel
from nodebudget.errors import DoesNotFitError, InputError, RecordError
from nodebudget.sampling.packing.ordered import best_fit

Sets = list[list[int]]


def ranks_of(world: int, sizes: SizeTable, **options: Any) -> list[NodeBudgetSampler]:
    return [NodeBudgetSampler(sizes, **options, num_replicas=world, rank=rank) for rank in range(world)]


def rounds(samplers: list[NodeBudgetSampler]) -> list[list[list[int]]]:
    """Return the batches of all ranks, round by round, from where they stand."""
    return [list(batches) for batches in zip(*samplers, strict=True)]


def steps_of(samplers: list[NodeBudgetSampler], taken: list[list[list[int]]], first: int = 0) -> Sets:
    """Return the graphs of each step, sorted; what is before `first` belongs to the first of them."""
    steps: Sets = [[]]
    for place, batches in enumerate(taken, first):
        steps[-1] += [graph for batch in batches for graph in batch]
        if samplers[0].ends_step(place):
            steps.append([])
    assert steps.pop() == []
    return [sorted(step) for step in steps]


def options_of(drawn: tuple[SizeTable, dict[str, Any]]) -> tuple[SizeTable, dict[str, Any]]:
    sizes, options = drawn
    return sizes, {**options, "pack": "sequential" if options["pack"] == "sequential" else "balanced"}


@fewer
@given(
    budgets(), st.integers(1, 40), st.sampled_from(["keep", "drop", "fill"]), st.integers(1, 4), st.integers(0, 9),
    st.sampled_from(["skip", "alone"]),
)  # fmt: skip
def test_steps_are_of_the_size_asked_for_and_micro_batches_within_the_budget(
    drawn: tuple[SizeTable, dict[str, Any]], graphs: int, last: str, world: int, epoch: int, policy: str
) -> None:
    sizes, options = options_of(drawn)
    large = over(sizes, options)
    inside = [graph for graph in range(len(sizes)) if policy == "alone" or graph not in large]
    made = {**options, "graphs_per_step": graphs, "last": last, "oversized": policy}
    try:
        samplers = ranks_of(world, sizes, **made)
    except DoesNotFitError:
        # No step at all, or too few graphs in one for what it must be divided into.
        assert (
            len(inside) < graphs
            or min(graphs, len(inside)) < 2 * world
            or min_batches(sizes.take(inside), options, policy) > 1
        )
        return
    first = samplers[0]
    for sampler in samplers:
        sampler.set_epoch(epoch)
    taken = rounds(samplers)
    assert len(taken) == len(first) == first.steps * first.accumulate
    assert first.micro_batches == world * first.accumulate
    steps = steps_of(samplers, taken)
    counts = [len(step) for step in steps]
    seen = sorted(graph for step in steps for graph in step)
    assert len(steps) == first.steps
    if last == "keep":
        assert seen == inside
        assert first.steps == -(-len(inside) // graphs)
        assert max(counts) - min(counts) <= 1
    else:
        assert set(counts) == {graphs}
        assert set(seen) <= set(inside)
        assert len(set(seen)) == min(len(seen), len(inside))
    for batch in (batch for batches in taken for batch in batches):
        assert batch
        totals = sizes.totals(batch)
        within = all(totals[name] <= options.get(f"max_{name}", np.inf) for name in totals)
        assert within or (len(batch) == 1 and batch[0] in large)


def min_batches(sizes: SizeTable, options: dict[str, Any], policy: str) -> int:
    maxima = {name: value for name, value in options.items() if name.startswith("max_")}
    return len(NodeBudgetSampler(sizes, **maxima, oversized=policy))


@fewer
@given(budgets(), st.integers(1, 40), st.integers(0, 7), st.data())
def test_the_graphs_of_every_step_hang_on_seed_epoch_and_number_alone(
    drawn: tuple[SizeTable, dict[str, Any]], graphs: int, epoch: int, data: st.DataObject
) -> None:
    sizes, options = options_of(drawn)
    fixed = {key: options[key] for key in ("pack", "shuffle", "seed")}
    plain = NodeBudgetSampler(sizes, graphs_per_step=graphs, **fixed)
    plain.set_epoch(epoch)
    expected = [sorted(batch) for batch in plain]
    if len(sizes) > 3 * graphs and options["shuffle"] and options["pack"] == "balanced":
        plain.set_epoch(epoch + 1)
        assert [sorted(batch) for batch in plain] != expected
    maxima = {name: value for name, value in options.items() if name.startswith("max_")}
    for world in (1, 2, data.draw(st.integers(3, 6))):
        scaled = {name: value * data.draw(st.integers(1, 3)) for name, value in maxima.items()}
        try:
            samplers = ranks_of(world, sizes, graphs_per_step=graphs, oversized="alone", **scaled, **fixed)
        except DoesNotFitError:
            continue
        for sampler in samplers:
            sampler.set_epoch(epoch)
        assert steps_of(samplers, rounds(samplers)) == expected


@fewer
@given(budgets(), st.integers(2, 40), st.integers(0, 4), st.data())
def test_changed_or_resumed_after_any_micro_batch_steps_stay_whole(
    drawn: tuple[SizeTable, dict[str, Any]], graphs: int, epoch: int, data: st.DataObject
) -> None:
    sizes, options = options_of(drawn)
    made = {**options, "graphs_per_step": graphs, "oversized": "alone"}
    try:
        samplers = ranks_of(data.draw(st.integers(1, 3)), sizes, **made)
    except DoesNotFitError:
        return
    for sampler in samplers:
        sampler.set_epoch(epoch)
    whole = rounds(samplers)
    expected = steps_of(samplers, whole)
    stop = data.draw(st.integers(0, len(whole)))
    state = json.loads(json.dumps(samplers[0].state_dict(consumed=stop)))
    how = data.draw(st.sampled_from(["same", "ranks", "budget", "another budget"]))
    name = next(name for name in made if name.startswith("max_"))
    smaller = {name: max(1, int(made[name] * data.draw(st.sampled_from([0.5, 0.8, 3]))))}
    try:
        if how == "budget":
            others = samplers
            for other in others:
                other.load_state_dict(state)
                other.set_budget(**smaller, consumed=stop)
        else:
            again = {**made, **smaller} if how == "another budget" else made
            others = ranks_of(data.draw(st.integers(1, 4)) if how == "ranks" else len(samplers), sizes, **again)
            for other in others:
                other.load_state_dict(state)
    except DoesNotFitError:
        return
    if stop == len(whole):
        assert rounds(others) == []
        return
    rest = rounds(others)
    assert len(rest) == len(others[0]) - stop
    if how == "same":
        assert rest == whole[stop:]
    assert steps_of(others, whole[:stop] + rest) == expected
    weights = [other.loss_weights() for other in others]
    assert all(len(of_rank) == len(others[0]) for of_rank in weights)
    check_weights(others, whole[:stop] + rest, np.arange(len(sizes)) ** 2.0, stop)
    for other in others:
        other.set_epoch(epoch + 1)
    fresh = NodeBudgetSampler(
        sizes, graphs_per_step=graphs, **{key: options[key] for key in ("pack", "shuffle", "seed")}
    )
    fresh.set_epoch(epoch + 1)
    assert steps_of(others, rounds(others)) == [sorted(batch) for batch in fresh]


def check_weights(
    samplers: list[NodeBudgetSampler], taken: list[list[list[int]]], values: np.ndarray, first: int = 0
) -> None:
    """Of each step after `first`: the weighted means of its batches, summed and averaged over ranks, are its mean."""
    weights, world = np.array([sampler.loss_weights() for sampler in samplers]), len(samplers)
    total, graphs, begin = 0.0, [], 0
    for place, batches in enumerate(taken):
        graphs += [graph for batch in batches for graph in batch]
        if place >= first:
            total += sum(w * values[batch].mean() for w, batch in zip(weights[:, place], batches, strict=True)) / world
        if samplers[0].ends_step(place):
            if begin >= first:
                assert total == pytest.approx(values[graphs].mean())
            total, graphs, begin = 0.0, [], place + 1


@fewer
@given(budgets(), st.integers(1, 40), st.integers(1, 3))
def test_weighted_means_are_the_mean_of_the_step(
    drawn: tuple[SizeTable, dict[str, Any]], graphs: int, world: int
) -> None:
    sizes, options = options_of(drawn)
    for further in ({"graphs_per_step": graphs}, {}):
        try:
            samplers = ranks_of(world, sizes, **options, **further, oversized="skip")
        except DoesNotFitError:
            continue
        taken = rounds(samplers)
        check_weights(samplers, taken, np.sin(np.arange(len(sizes))))
        nodes = np.array([sampler.loss_weights(by="nodes") for sampler in samplers])
        # By atoms: the sums over the step are those of the sizes.
        place = 0
        while not samplers[0].ends_step(place):
            place += 1
        batches = [batch for batches in taken[: place + 1] for batch in batches]
        share = [sizes["nodes"][batch].sum() for batch in batches] / sizes["nodes"][np.concatenate(batches)].sum()
        assert nodes[:, : place + 1].T.ravel() == pytest.approx(world * np.asarray(share))


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("part", [3, 4, 7])
def test_micro_batches_are_as_few_as_fit(world: int, part: int) -> None:
    maximum = int(SIZES["nodes"].sum() / 10 / part * 1.02)
    sampler = NodeBudgetSampler(SIZES, max_nodes=maximum, graphs_per_step=100, num_replicas=world, rank=0)
    assert sampler.micro_batches == part + -part % world
    tight = NodeBudgetSampler(SIZES, max_nodes=int(SIZES["nodes"].max()), graphs_per_step=100)
    items = tight.budget.columns(SIZES)[1]
    needed = max(len(best_fit(items.take(np.array(step)))[1]) - 1 for step in split_steps(tight.plan))
    assert tight.micro_batches <= needed + 1


def test_all_micro_batches_are_balanced_in_bytes_and_those_of_a_step_in_time() -> None:
    rng = np.random.default_rng(0)
    nodes = np.maximum(1, rng.lognormal(3, 0.6, 20_000)).astype(np.int64)
    edges = nodes * rng.integers(9, 15, len(nodes))
    sizes = SizeTable.from_counts(nodes, edges, edges * rng.integers(9, 15, len(nodes)))
    known = calibration(per_node=24e3, per_edge=13e3, per_line_edge=5.5e3)
    memory = int(known.fixed + known.graph_bytes(sizes).mean() * 40)
    options = {"calibration": known, "memory": memory, "graphs_per_step": 256, "num_replicas": 2, "rank": 0}
    plan = NodeBudgetSampler(sizes, **options).plan
    assert plan.predicted_bytes.std() < 0.005 * plan.predicted_bytes.mean()
    assert plan.graphs.max() - plan.graphs.min() <= 4
    times = TimeModel({"fixed": 0.0, "per_node": 2e-5, "per_line_edge": 1e-8}, 0.0)
    timed = NodeBudgetSampler(sizes, **options, balance="time", time_model=times)
    seconds = timed.plan.loads(times.graph_seconds(sizes)).reshape(-1, timed.micro_batches)
    assert (seconds.max(axis=1) / seconds.mean(axis=1)).max() < 1.01
    assert timed.plan.predicted_bytes.std() < 0.03 * timed.plan.predicted_bytes.mean()
    assert timed.plan.predicted_bytes.max() <= memory
    # Time decides who shares a micro-batch, not who shares a step.
    assert {frozenset(step) for step in split_steps(plan)} == {frozenset(step) for step in split_steps(timed.plan)}


def split_steps(plan: Any) -> list[list[int]]:
    ends = plan.offsets[plan.steps]
    return [plan.indices[begin:end].tolist() for begin, end in itertools.pairwise(ends)]


def test_repeated_and_dropped_graphs_rotate() -> None:
    for last, count in (("drop", 40), ("fill", 56)):
        sampler = NodeBudgetSampler(SIZES, graphs_per_step=96, last=last)
        chosen = []
        for epoch in range(12):
            sampler.set_epoch(epoch)
            times = np.bincount([graph for batch in sampler for graph in batch], minlength=1000)
            chosen.append(np.flatnonzero(times != 1))
            assert len(chosen[-1]) == count
        assert len(np.unique(np.concatenate(chosen))) == 12 * count


def test_a_state_goes_on_under_another_budget_and_only_with_the_same_steps() -> None:
    big = NodeBudgetSampler(SIZES, max_nodes=2000, graphs_per_step=100)
    state = big.state_dict(consumed=3)
    small = NodeBudgetSampler(SIZES, max_nodes=700, graphs_per_step=100)
    small.load_state_dict(state)
    assert small.budget.maxima == {"nodes": 700}
    assert max(SIZES.totals(batch)["nodes"] for batch in small) <= 700
    for other in ({"graphs_per_step": 99}, {"graphs_per_step": 100, "last": "drop"}, {}):
        with pytest.raises(RecordError, match="graphs_per_step"):
            NodeBudgetSampler(SIZES, max_nodes=2000, **other).load_state_dict(state)
    # A budget that was set in the run comes with its state.
    big.set_budget(max_nodes=900, consumed=0)
    again = NodeBudgetSampler(SIZES, max_nodes=2000, graphs_per_step=100)
    again.load_state_dict(big.state_dict())
    assert again.budget.maxima == {"nodes": 900}


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(InputError, match="graphs_per_step is 0"):
        NodeBudgetSampler(SIZES, graphs_per_step=0)
    with pytest.raises(InputError, match="last is 'cut'"):
        NodeBudgetSampler(SIZES, graphs_per_step=10, last="cut")
    with pytest.raises(InputError, match="pack='dense'"):
        NodeBudgetSampler(SIZES, graphs_per_step=10, pack="dense")
    with pytest.raises(DoesNotFitError, match="a step of 10 graphs can't be assigned to 16 ranks"):
        NodeBudgetSampler(SIZES, graphs_per_step=10, num_replicas=16, rank=0)
    with pytest.raises(DoesNotFitError, match="1,000 graphs make no step"):
        NodeBudgetSampler(SIZES, graphs_per_step=1001, last="drop")
    sampler = NodeBudgetSampler(SIZES, graphs_per_step=10)
    with pytest.raises(InputError, match="batch 100"):
        sampler.ends_step(100)
    with pytest.raises(InputError, match="no column 'tokens'"):
        sampler.loss_weights(by="tokens")


def test_ranks_of_a_machine_share_plans_of_steps(tmp_path: Any) -> None:
    options = {"max_nodes": 900, "graphs_per_step": 100, "last": "fill"}
    shared = NodeBudgetSampler(SIZES, **options, share=str(tmp_path))
    plain = NodeBudgetSampler(SIZES, **options)
    for epoch in range(2):
        for sampler in (shared, plain):
            sampler.set_epoch(epoch)
        assert list(shared) == list(plain)
    assert (shared.accumulate, shared.steps) == (plain.accumulate, plain.steps)
