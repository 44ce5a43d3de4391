"""Static shapes: one shape for all batches of all epochs, seeds and ranks, and hardly any padding."""

from __future__ import annotations

import csv
import gzip
import itertools
import pickle
from typing import Any

import numpy as np
import pytest
from calibrations import calibration
from generated import SIZES, budgets, fewer, over, train
from hypothesis import assume, given
from hypothesis import strategies as st
from paths import ROOT

from nodebudget import Budget, DoesNotFitError, InputError, NodeBudgetSampler, SizeTable, make_plan
from nodebudget.analysis.padding import padding_of_plan
from nodebudget.sampling.packing.items import Items
from nodebudget.sampling.packing.static_shape import find_equal_batches

#: Graphs of these sets, and the largest of them in parts of a batch of 64.
SETS = ("mpts_52_val", "mp_20_biternary_val", "perov5", "jarvis_dft3d_tc_supercon", "core_mof_2014")


def read(name: str) -> SizeTable:
    with gzip.open(ROOT / "scripts" / "benchmarks" / "data" / f"{name}.csv.gz", "rt") as text:
        rows = list(csv.DictReader(text))
    keys = ("n_atoms", "n_edges_knn12", "n_line_edges", "n_self_edges")
    nodes, edges, line, own = (np.array([int(row[key]) for row in rows]) for key in keys)
    return SizeTable.from_counts(nodes, edges, line - own)


def check(sampler: NodeBudgetSampler) -> None:
    """Check that every batch of the epoch is within its shape, with a padding graph or more."""
    shapes, plan = sampler.shapes, sampler.plan
    assert 1 <= len(shapes) <= 3
    assert sampler.shape == shapes[-1]
    for smaller, larger in itertools.pairwise(shapes):
        assert all(smaller[name] <= larger[name] for name in smaller)
    for batch, number in zip(plan, plan.shapes, strict=True):
        totals, shape = sampler.sizes.totals(batch), shapes[number]
        assert totals.keys() == shape.keys()
        assert totals["graphs"] < shape["graphs"]
        # Each padding graph has a node, and one of them two edges.
        assert totals["nodes"] + shape["graphs"] - totals["graphs"] <= shape["nodes"]
        assert totals.get("edges", 0) <= shape.get("edges", 2) - 2
        assert all(totals[name] <= shape[name] for name in shape)


@fewer
@given(budgets(), st.integers(0, 3), st.sampled_from([1, 1, 2, 3]))
def test_every_graph_once_within_the_shape(budget: tuple[SizeTable, dict[str, Any]], epoch: int, ranks: int) -> None:
    sizes, options = budget
    options |= {"pack": "static", "oversized": "skip"}
    large = over(sizes, options)
    assume(len(large) < len(sizes))
    try:
        samplers = [NodeBudgetSampler(sizes, **options, num_replicas=ranks, rank=rank) for rank in range(ranks)]
    except DoesNotFitError:
        # Only where there are fewer graphs than ranks, or no multiple of the ranks lies in between.
        left = len(sizes) - len(large)
        assert ranks > 1
        assert len(NodeBudgetSampler(sizes, **options)) + ranks - 1 >= left or left < ranks
        return
    shapes, length = samplers[0].shapes, len(samplers[0])
    for sampler in samplers:
        sampler.set_epoch(epoch)
    assert sorted(graph for batch in train(samplers) for graph in batch) == sorted(set(range(len(sizes))) - large)
    for sampler in samplers:
        assert (sampler.shapes, len(sampler)) == (shapes, length)
    check(samplers[0])
    for batch in samplers[0].plan:
        totals = sizes.totals(batch)
        assert all(totals[name] <= options.get(f"max_{name}", np.inf) for name in totals)
    other = NodeBudgetSampler(sizes, **{**options, "seed": 9}, num_replicas=ranks, rank=0)
    assert other.shapes == shapes


@fewer
@given(budgets(), st.data())
def test_resumed_and_re_planned_epochs_keep_the_shape(
    budget: tuple[SizeTable, dict[str, Any]], data: st.DataObject
) -> None:
    sizes, options = budget
    options |= {"pack": "static", "oversized": "skip"}
    large = over(sizes, options)
    assume(len(large) < len(sizes))
    first = NodeBudgetSampler(sizes, **options)
    first.set_epoch(1)
    whole = list(first)
    going = iter(first)
    head = [next(going) for _ in range(data.draw(st.integers(0, len(whole) - 1)))]
    state = pickle.loads(pickle.dumps(first.state_dict()))
    second = NodeBudgetSampler(sizes, **options)
    second.load_state_dict(state)
    assert head + list(second) == whole
    assume(len(sizes) - len(large) - sum(map(len, head)) >= 2)
    try:
        ranks = [NodeBudgetSampler(sizes, **options, num_replicas=2, rank=rank) for rank in range(2)]
        for sampler in ranks:
            sampler.load_state_dict(state)
    except DoesNotFitError:
        # What is left can't be shared by two ranks.
        return
    rest = train(ranks)
    assert sorted(graph for batch in head + rest for graph in batch) == sorted(
        graph for batch in whole for graph in batch
    )
    check(ranks[0])


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize(("graphs", "goal"), [(64, 0.004), (16, 0.03)])
def test_padding_is_small(name: str, graphs: int, goal: float) -> None:
    sizes = read(name)
    sampler = NodeBudgetSampler(sizes, graphs_per_step=graphs, pack="static")
    shapes = sampler.shapes
    for seed in (0, 1):
        for epoch in range(3):
            plan = make_plan(sizes, Budget.make(max_graphs=graphs), pack="static", seed=seed, epoch=epoch)
            assert set(plan.graphs.tolist()) <= {len(sizes) // len(plan), -(-len(sizes) // len(plan))}
            assert plan.config.static.shapes == shapes
    check(sampler)
    padding = padding_of_plan(sampler.plan)["padding"]
    mean = sampler.plan.loads(sizes["nodes"]).mean()
    for column in ("nodes", "edges", "line_edges"):
        # Where a graph fills nearly a whole batch a little more is padded.
        goal = goal if sizes["nodes"].max() < 0.5 * mean else 0.04
        # A mean in whole numbers, and the node of each padding graph.
        whole = 3 / mean if column == "nodes" else 0
        assert padding["static"][column] <= max(goal, whole)
        assert padding["static"][column] < padding["jraph"][column]


def test_a_few_huge_graphs_take_larger_shapes() -> None:
    nodes = np.tile(np.arange(10, 50), 50)
    nodes[::400] = 2000
    sizes = SizeTable.from_counts(nodes, nodes * 12)
    sampler = NodeBudgetSampler(sizes, graphs_per_step=16, pack="static")
    assert len(sampler.shapes) > 1
    for epoch in range(4):
        sampler.set_epoch(epoch)
        check(sampler)
        # Only the batches with a huge graph have one of the larger shapes.
        huge = [any(sizes["nodes"][graph] == 2000 for graph in batch) for batch in sampler.plan]
        assert (sampler.plan.shapes[~np.array(huge)] == 0).all()
    assert all(part < 0.05 for part in padding_of_plan(sampler.plan)["padding"]["static"].values())


def test_another_epoch_is_reshuffled() -> None:
    sampler = NodeBudgetSampler(SIZES, graphs_per_step=20, pack="static")
    first = {frozenset(batch) for batch in sampler}
    sampler.set_epoch(1)
    assert not first & {frozenset(batch) for batch in sampler}
    fixed = NodeBudgetSampler(SIZES, graphs_per_step=20, pack="static", shuffle=False)
    before = list(fixed)
    fixed.set_epoch(1)
    assert list(fixed) == before


def test_memory_holds_the_padded_shape() -> None:
    model = calibration()
    sampler = NodeBudgetSampler(SIZES, calibration=model, memory="30MB", pack="static")
    assert model.predict_bytes(**sampler.shape) <= model.max_prediction(30e6)
    balanced = NodeBudgetSampler(SIZES, calibration=model, memory="30MB")
    assert len(balanced) <= len(sampler) <= 1.03 * len(balanced) + 1
    check(sampler)


def test_further_columns_are_balanced_and_fractions_are_not() -> None:
    triplets = SIZES["nodes"] ** 2
    sizes = SizeTable.from_counts(SIZES["nodes"], triplets=triplets, seconds=SIZES["nodes"] * 0.3)
    sampler = NodeBudgetSampler(sizes, graphs_per_step=50, pack="static")
    assert sampler.shape.keys() == {"graphs", "nodes", "triplets"}
    assert sampler.shape["triplets"] <= 1.01 * triplets.sum() / len(sampler)


def test_packing_of_a_few_huge_graphs_keeps_each_set_of_maxima() -> None:
    values = np.where(np.arange(900) % 90, 10 + np.arange(900) % 7, 900)
    equal = find_equal_batches(Items((values,), (None,)), 60, lambda sets: True)
    assert equal is not None
    assert len(equal.maxima) > 1
    graphs, offsets = equal.packing
    loads = np.add.reduceat(values[graphs], offsets[:-1])
    assert (loads <= np.repeat([maxima[0] for maxima in equal.maxima], equal.numbers)).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"graphs_per_step": 0, "pack": "static"}, "graphs_per_step is 0"),
        ({"graphs_per_step": 9, "pack": "static", "num_replicas": 2, "rank": 0}, "2 ranks share a step"),
        ({"graphs_per_step": 9, "max_graphs": 9, "pack": "static"}, "graphs_per_step and max_graphs"),
        ({"max_nodes": 999, "oversized": "alone", "pack": "static"}, "no place in a static shape"),
        ({"max_columns": {"seconds": 2.5}, "pack": "static"}, "column 'seconds' has fractions"),
        ({"pack": "static"}, "no budget for a batch is given"),
    ],
)
def test_what_can_not_be_planned_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        NodeBudgetSampler(SIZES.with_column("seconds", SIZES["nodes"] * 0.001), **arguments)


def test_only_static_plans_have_a_shape() -> None:
    sampler = NodeBudgetSampler(SIZES, max_nodes=999)
    for look in (lambda: sampler.shape, lambda: sampler.plan.shapes):
        with pytest.raises(InputError, match="pass pack='static'"):
            look()


def test_memory_that_holds_no_padded_graph_is_refused() -> None:
    sizes = SizeTable.from_counts([100, 100], [1200, 1200], [15_000, 15_000])
    model = calibration()
    memory = int(model.predict_bytes(graphs=1, nodes=100, edges=1200, line_edges=15_000, quantile=0.99)) + 1
    with pytest.raises(DoesNotFitError, match="no static shape holds graphs of up to"):
        NodeBudgetSampler(sizes, calibration=model, memory=memory, pack="static")
