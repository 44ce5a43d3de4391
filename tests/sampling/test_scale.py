"""Many graphs and many ranks: memory, equal steps, and even load in each step."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from calibrations import calibration
from paths import ROOT

from nodebudget.calibration.time_model import TimeModel
from nodebudget.datasets.size_table import SizeTable
from nodebudget.sampling.sampler import NodeBudgetSampler


def scale(*arguments: str) -> dict[str, list[dict[str, Any]]]:
    command = [sys.executable, str(ROOT / "scripts" / "benchmarks" / "scale.py"), *arguments, "--json"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.mark.parametrize("world", [64, 1024])
def test_simulated_ranks_take_equal_steps_of_nearly_equal_load(world: int) -> None:
    rng = np.random.default_rng(0)
    nodes = np.maximum(1, rng.lognormal(3, 0.6, 300_000)).astype(np.int64)
    sizes = SizeTable.from_counts(nodes, nodes * 12, nodes * rng.integers(100, 200, len(nodes)))
    known = calibration(per_node=24e3, per_edge=13e3, per_line_edge=5.5e3)
    memory = int(known.fixed + known.graph_bytes(sizes).mean() * 48)
    times = TimeModel({"fixed": 0.0, "per_node": 2e-6, "per_line_edge": 1e-8}, 0.0)
    for balance, seconds in ((None, None), ("time", times)):
        options = {"calibration": known, "memory": memory, "balance": balance, "time_model": seconds}
        sampler = NodeBudgetSampler(sizes, **options, num_replicas=world, rank=world - 1)
        plan = sampler.plan
        assert len(plan) == world * len(sampler)
        assert len(list(sampler)) == len(sampler)
        assert sorted(plan.indices.tolist()) == list(range(len(sizes)))
        # Only what a budget leaves over is lost to the whole number of steps.
        assert len(plan) < plan.lower_bound * 1.005 + 2 * world
        values = known.graph_bytes(sizes) if balance is None else times.graph_seconds(sizes)
        steps = plan.loads(values).reshape(-1, world)
        # Batches are as even as 0.1% of the mean (std), and a step has 64 or 1,024 that follow each other in load. The
        # last few, heaviest or lightest, may be 1% off in time, whose batches keep a maximum of bytes as well.
        assert (steps.max(axis=1) / steps.mean(axis=1)).max() < 1.02
        assert plan.predicted_bytes.max() <= memory


def test_the_benchmark_prints_what_the_documentation_shows() -> None:
    found = scale("--graphs", "30000", "--ranks", "16", "--processes", "2")
    assert {(row["graphs"], row["by"]) for row in found["planning"]} == {(30_000, "edges"), (30_000, "bytes")}
    shuffled, by_bytes, by_time = found["ranks"]
    assert all(row["equal_steps"] for row in found["ranks"])
    assert by_bytes["bytes_over_worst"] < 0.01 < shuffled["bytes_over_mean"]
    assert by_time["seconds_over_worst"] < 0.01 < shuffled["seconds_over_mean"]
    assert [row["shared"] for row in found["sharing"]] == [False, True]


@pytest.mark.slow
def test_ten_million_graphs_are_planned_in_less_than_a_gigabyte() -> None:
    for row in scale("--graphs", "1e7", "--only", "planning")["planning"]:
        assert row["peak_bytes"] < 1e9
