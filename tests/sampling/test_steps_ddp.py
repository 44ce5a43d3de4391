"""Real ranks that train real ALIGNN with forces in float64: the same steps and the same weights on any of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from paths import FIXTURES, ROOT

GRAPHS = 10


def run(folder: Path, ranks: int, *options: dict[str, Any]) -> list[dict[str, Any]]:
    folder.mkdir()
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"),
        *(str(FIXTURES / "ddp_steps.py"), str(folder)),
        *(json.dumps({"graphs_per_step": GRAPHS, **entry}) for entry in options or ({},)),
    ]
    paths = os.pathsep.join([str(ROOT), str(FIXTURES)])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(ranks)]


def steps_of(ranks: list[dict[str, Any]]) -> list[list[int]]:
    parts = zip(*(rank["steps"] for rank in ranks), strict=True)
    return [sorted(graph for part in step for graph in part) for step in parts]


@pytest.fixture(scope="module")
def one_batch_per_step(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    [alone] = run(tmp_path_factory.mktemp("steps") / "one", 1)
    assert (alone["accumulate"], len(alone["steps"])) == (1, 4)
    return alone


def check(ranks: list[dict[str, Any]], alone: dict[str, Any]) -> None:
    assert steps_of(ranks) == steps_of([alone])
    expected = np.array(alone["weights"])
    for rank in ranks:
        assert np.abs(np.array(rank["weights"]) - expected).max() < 1e-6 * np.abs(expected).max()
        # Far closer than any other weighting of the micro-batches would be.
        assert rank["weights"] == pytest.approx(alone["weights"], rel=1e-6, abs=1e-12)


@pytest.mark.parametrize("ranks", [1, 2, pytest.param(4, marks=pytest.mark.slow)])
def test_weights_after_an_epoch_are_those_of_one_large_batch(
    ranks: int, one_batch_per_step: dict[str, Any], tmp_path: Path
) -> None:
    found = run(tmp_path / "run", ranks, {"max_nodes": 12})
    assert found[0]["accumulate"] * ranks > 2
    assert max(nodes for rank in found for nodes in rank["nodes"]) <= 12
    check(found, one_batch_per_step)


def test_a_rank_with_half_the_budget_takes_batches_of_half_the_size(
    one_batch_per_step: dict[str, Any], tmp_path: Path
) -> None:
    large, small = run(tmp_path / "run", 2, {"max_nodes": 20}, {"max_nodes": 10})
    assert max(large["nodes"]) <= 20
    assert max(small["nodes"]) <= 10
    assert sum(small["nodes"]) / sum(large["nodes"]) == pytest.approx(0.5, abs=0.1)
    assert large["accumulate"] == small["accumulate"]
    check([large, small], one_batch_per_step)
