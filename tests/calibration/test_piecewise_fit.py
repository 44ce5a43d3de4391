"""Maxima of several segments."""

import dataclasses

import numpy as np
import pytest
from calibrations import RESIDENT, batches

from nodebudget import Calibration, NodeBudgetSampler, SizeTable
from nodebudget.calibration.fit import fit_calibration
from nodebudget.calibration.memory_model import Observation
from nodebudget.calibration.piecewise_fit import fit_two_segments

NAMES = ("graphs", "nodes", "edges", "line_edges")
# Two phases of a step: one holds the tensors of nodes and edges, the other those of the line graph.
PHASES = ((4e7, 0.0, 24e3, 15e3, 2e3), (4e7, 0.0, 4e3, 4e3, 6e3))


def peak(sizes):
    row = np.array([1.0, *(sizes[name] for name in NAMES)])
    return int(max(row @ np.array(moment) for moment in PHASES))


def steps(count, seed, role):
    rng = np.random.default_rng(seed)
    for sizes in batches(count, seed):
        # Degrees from 2 to 12, so that each phase is the highest for some.
        sizes["line_edges"] = int(sizes["edges"] * rng.uniform(0.5, 9))
        yield Observation(sizes, peak(sizes), RESIDENT, role)


def bent(seed=0):
    return fit_calibration([*steps(24, seed, "fit"), *steps(10, seed + 100, "holdout")], NAMES)


def test_two_segments_are_fitted_where_one_is_not_enough():
    calibration = bent()
    assert len(calibration.further_segments) == 1
    assert calibration.holdout.mape < 1e-3
    for entry in steps(50, 7, "holdout"):
        assert calibration.predict_bytes(**entry.sizes) == pytest.approx(entry.peak, rel=5e-3)


def test_the_simpler_model_wins_ties():
    straight = [
        dataclasses.replace(entry, peak=int(5e7 + 6e3 * entry.sizes["line_edges"] + 2e4 * entry.sizes["nodes"]))
        for role in ("fit", "holdout")
        for entry in steps(24, len(role), role)
    ]
    assert fit_calibration(straight, NAMES).further_segments == ()


def test_few_steps_give_one_segment():
    rng = np.random.default_rng(0)
    assert fit_two_segments(np.ones((8, 5)), np.ones(8), rng) is None


def test_segments_come_back_from_disk(tmp_path):
    calibration = bent()
    assert Calibration.load(calibration.save(tmp_path / "cal.json")) == calibration


def test_a_plan_keeps_every_segment_within_the_memory():
    calibration = bent()
    rng = np.random.default_rng(3)
    nodes = rng.integers(2, 60, 2000)
    edges = (nodes * rng.uniform(6, 16, 2000)).astype(int)
    # A mixture: half of the graphs cost more in one phase, half in the other.
    line_edges = (edges * np.where(rng.random(2000) < 0.5, 0.5, 9)).astype(int)
    sampler = NodeBudgetSampler(
        SizeTable.from_counts(nodes, edges, line_edges), calibration=calibration, memory="120MiB"
    )
    truth = [peak(sampler.sizes.totals(batch)) for batch in sampler]
    assert max(truth) <= 120 * 2**20 * 1.005
    assert sampler.plan.predicted_bytes.max() <= 120 * 2**20
    assert sorted(index for batch in sampler for index in batch) == list(range(2000))
