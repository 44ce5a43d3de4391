"""A plan as a value: pure, with figures that are what they say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from calibrations import calibration

from nodebudget.datasets.size_table import SizeTable
from nodebudget.errors import InputError, OversizedError
from nodebudget.sampling.budget import BYTES, Budget
from nodebudget.sampling.plan import Plan
from nodebudget.sampling.plan_config import PlanConfig
from nodebudget.sampling.planner import Planner, make_plan

NODES = np.maximum(1, np.random.default_rng(0).lognormal(3, 0.6, 2000)).astype(np.int64)
SIZES = SizeTable.from_counts(NODES, NODES * 12, NODES * 150)


def by_memory(**options: Any) -> Plan:
    budget = Budget.make(calibration=calibration(per_graph=1000.0, per_line_edge=5500.0), memory="1GiB")
    return make_plan(SIZES, budget, **options)


def test_the_same_arguments_give_the_same_plan() -> None:
    one, two = by_memory(seed=3, epoch=2), by_memory(seed=3, epoch=2)
    assert one.indices.tolist() == two.indices.tolist()
    assert one.offsets.tolist() == two.offsets.tolist()
    assert by_memory(seed=4, epoch=2).indices.tolist() != one.indices.tolist()
    assert by_memory(seed=3, epoch=1).indices.tolist() != one.indices.tolist()


def test_every_seed_and_epoch_has_as_many_batches() -> None:
    budget = Budget.make(max_nodes=200)
    assert len({len(make_plan(SIZES, budget, seed=seed, epoch=epoch)) for seed in range(4) for epoch in range(4)}) == 1


def test_statistics_are_what_they_say() -> None:
    plan = by_memory()
    found = plan.statistics()
    known = plan.config.budget.calibration
    assert known is not None
    totals = [SIZES.totals(batch) for batch in plan]
    predicted = np.array([known.predict_bytes(**batch) for batch in totals])
    graphs = np.array([batch["graphs"] for batch in totals])
    assert found["batches"] == len(totals) == len(plan)
    assert found["lower_bound"] <= found["batches"] <= found["lower_bound"] + 1
    assert found["graphs_per_batch"] == {"mean": graphs.mean(), "std": pytest.approx(graphs.std())}
    assert found["predicted_bytes"]["max"] == pytest.approx(predicted.max())
    assert found["predicted_bytes"]["mean"] == pytest.approx(predicted.mean())
    assert found["predicted_bytes"]["cv"] == pytest.approx(predicted.std() / predicted.mean(), rel=1e-6)
    assert predicted.max() <= 2**30
    room = 2**30 - known.fixed
    assert found["fill"] == pytest.approx((predicted.mean() - known.fixed) / room, rel=1e-4)
    assert found["balanced"]["column"] == BYTES
    assert found["oversized"] == 0
    assert plan.graphs.std() <= 0.025 * plan.graphs.mean()
    assert found["predicted_bytes"]["cv"] <= 0.005
    json.dumps(found)


def test_without_a_calibration_bytes_are_unknown() -> None:
    found = make_plan(SIZES, Budget.make(max_edges=12_000)).statistics()
    assert found["predicted_bytes"] is None
    assert found["balanced"]["column"] == "edges"
    assert found["balanced"]["cv"] <= 0.005
    assert found["balanced"]["max"] <= 12_000


def test_batches_can_be_read_one_by_one() -> None:
    plan = by_memory()
    assert [plan.batch(place).tolist() for place in range(len(plan))] == list(plan)
    assert plan.batch(-1).tolist() == list(plan)[-1]
    with pytest.raises(IndexError):
        plan.batch(len(plan))
    with pytest.raises(InputError, match="ranks are 0 to 0"):
        plan.rank_batches(1)


def test_loss_weights_make_every_graph_count_the_same() -> None:
    plan = make_plan(SIZES, Budget.make(max_nodes=900), pack="dense")
    assert plan.loss_weights.mean() == pytest.approx(1)
    counted = plan.loss_weights / plan.graphs
    assert np.allclose(counted, counted[0])


def test_dense_batches_are_few() -> None:
    plan = make_plan(SIZES, Budget.make(max_nodes=900), pack="dense")
    assert len(plan) <= plan.lower_bound + 1


@pytest.mark.parametrize("pack", ["balanced", "dense", "sequential"])
def test_oversized_graphs_stand_alone_or_are_left_out(pack: str) -> None:
    sizes = SizeTable.from_counts([500, *([5] * 50), 400])
    budget = Budget.make(max_nodes=50)
    for ranks in (1, 3):
        alone = make_plan(sizes, budget, pack=pack, oversized="alone", num_replicas=ranks)
        assert alone.oversized.tolist() == [0, 51]
        assert sorted(map(len, alone))[:2] == [1, 1]
        assert len(alone) % ranks == 0
        assert alone.fill <= 1
        if pack == "sequential":
            assert alone.indices.tolist() == list(range(52))
        left = make_plan(sizes, budget, pack=pack, oversized="skip", num_replicas=ranks)
        assert sorted(left.indices.tolist()) == list(range(1, 51))
        assert left.statistics()["oversized"] == 2


@pytest.mark.parametrize("pack", ["balanced", "dense"])
def test_a_few_endless_batches_among_many_short_ones(pack: str) -> None:
    # A thousand graphs that fill a batch each, and twenty thousand specks that fill twenty.
    nodes = np.random.default_rng(0).permutation(np.r_[np.full(1000, 1000), np.ones(20_000, dtype=int)])
    budget = Budget.make(max_nodes=1000)
    planner = Planner(PlanConfig(SizeTable.from_counts(nodes), budget, pack=pack))
    plans = [planner.plan(epoch) for epoch in (0, 1)]
    for plan in plans:
        assert len(plan) == len(planner) <= plan.lower_bound * 1.005
        assert sorted(plan.indices.tolist()) == list(range(21_000))
        assert plan.loads(nodes).max() <= 1000
    together = [{frozenset(batch) for batch in plan if len(batch) > 1} for plan in plans]
    assert not together[0] & together[1]


def test_all_graphs_may_stand_alone() -> None:
    plan = make_plan(SizeTable.from_counts([50, 60]), Budget.make(max_nodes=5), oversized="alone")
    assert sorted(plan) == [[0], [1]]
    assert plan.fill == 1


def test_an_oversized_graph_is_named_with_the_memory_that_it_needs() -> None:
    sizes = SizeTable.from_counts([5, 10**6], [0, 0], [0, 0], ids=["small", "JVASP-1"])
    budget = Budget.make(calibration=calibration(), memory="1GiB")
    with pytest.raises(OversizedError, match=r"graph 1 \(JVASP-1\): [\d,]+ nodes, a step with it alone needs 22.4 GiB"):
        make_plan(sizes, budget)


def test_graphs_without_edges_fit_a_cap_on_edges() -> None:
    plan = make_plan(SizeTable.from_counts([1] * 9, [0] * 9), Budget.make(max_edges=1))
    assert len(plan) == 1


def test_a_further_column_is_packed_and_balanced() -> None:
    tokens = np.random.default_rng(1).integers(1, 500, len(NODES))
    sizes = SizeTable.from_counts(NODES, tokens=tokens)
    plan = make_plan(sizes, Budget.make(max_columns={"tokens": 10_000}))
    assert plan.loads(tokens).max() <= 10_000
    assert plan.statistics()["balanced"]["column"] == "tokens"
    by_nodes = make_plan(sizes, Budget.make(max_columns={"tokens": 10_000}), balance="nodes")
    assert by_nodes.loads(tokens).max() <= 10_000
    assert by_nodes.statistics()["balanced"]["column"] == "nodes"


def test_a_plan_is_written_and_read(tmp_path: Path) -> None:
    plan = by_memory(epoch=1)
    written = json.loads(plan.save(tmp_path / "plan.json").read_text())
    assert written["plan"] == list(plan)
    assert written["batches"] == len(plan)
    assert written == json.loads(json.dumps(plan.to_dict()))
    with np.load(plan.save(tmp_path / "plan.npz")) as arrays:
        assert arrays["indices"].tolist() == plan.indices.tolist()
        assert arrays["offsets"].tolist() == plan.offsets.tolist()
        about = json.loads(arrays["about"].tobytes())
    assert about.items() >= plan.statistics().items()
    assert about["data"] == plan.config.sizes.fingerprint()
    with pytest.raises(InputError, match=r"can't be written as \.txt"):
        plan.save(tmp_path / "plan.txt")
    with pytest.raises(InputError, match="exists"):
        plan.save(tmp_path / "plan.json")


def test_a_plan_says_what_it_is() -> None:
    plan = make_plan(SIZES, Budget.make(max_nodes=900))
    assert repr(plan).startswith(f"Plan({len(plan)} batches, 2000 graphs, pack='balanced'")
    assert "up to 1.00 GiB" in repr(by_memory())


def test_memory_stays_under_a_hundred_bytes_a_graph() -> None:
    import tracemalloc

    nodes = np.random.default_rng(0).integers(1, 100, 400_000)
    sizes = SizeTable.from_counts(nodes)
    budget = Budget.make(max_nodes=64 * 50)
    tracemalloc.start()
    planner = Planner(PlanConfig(sizes, budget))
    planner.plan(0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak / len(sizes) < 100
