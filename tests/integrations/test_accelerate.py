"""accelerate, in real processes: each rank has its batches, every epoch has other ones, and a run can be resumed."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from paths import FIXTURES, ROOT

pytestmark = pytest.mark.skipif(importlib.util.find_spec("accelerate") is None, reason="accelerate is not installed")


def run(script: str, ranks: int, folder: Path) -> list[Any]:
    """Run a script on some ranks; return what each of them wrote."""
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
    done = subprocess.run(
        [sys.executable, *(launch if ranks > 1 else []), str(FIXTURES / script), str(folder)],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(FIXTURES)]),
            "OMP_NUM_THREADS": "1",
            "ACCELERATE_USE_CPU": "1",
        },
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(ranks)]


@pytest.fixture(scope="module", params=[1, 2])
def ranks(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return run("accelerate_train.py", request.param, tmp_path_factory.mktemp("accelerate"))


@pytest.mark.skipif(importlib.util.find_spec("torch_geometric") is None, reason="PyG is not installed")
@pytest.mark.parametrize("count", [1, 2])
def test_a_budget_by_one_line(count: int, tmp_path: Path) -> None:
    by_rank = run("accelerate_auto.py", count, tmp_path)
    assert len({len(epoch) for epochs in by_rank for epoch in epochs}) == 1
    for epoch in range(2):
        seen = [graph for epochs in by_rank for batch in epochs[epoch] for graph in batch]
        assert sorted(seen) == list(range(200))
    assert by_rank[0][0] != by_rank[0][1]


def test_every_crystal_comes_once_per_epoch_and_epochs_differ(ranks: list[dict[str, Any]]) -> None:
    for epoch in range(3):
        seen = [graph for rank in ranks for batch in rank["epochs"]["plain"][epoch] for graph in batch]
        assert sorted(seen) == list(range(ranks[0]["graphs"]))
    first, second, third = ranks[0]["epochs"]["plain"]
    assert first != second != third


def test_every_way_to_run_and_to_resume_gives_the_batches_of_the_uninterrupted_run(ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        assert len(rank["epochs"]) > 20
        assert [name for name, epochs in rank["epochs"].items() if epochs != rank["expected"]] == []


def test_a_stream_keeps_its_shares(ranks: list[dict[str, Any]]) -> None:
    seen = [graph for rank in ranks for batch in rank["stream"] for graph in batch]
    assert sorted(seen) == list(range(ranks[0]["graphs"]))


def test_what_would_lose_crystals_is_refused_before_the_first_batch(ranks: list[dict[str, Any]]) -> None:
    for place, rank in enumerate(ranks):
        errors = rank["errors"]
        assert "skips 3 batches of an epoch that the sampler resumes at batch 3" in errors["skip twice"]
        assert "batch_size" in errors["split"]
        if len(ranks) == 2:
            assert "dispatch_batches=True" in errors["dispatch"]
            assert "dispatch_batches=True" in errors["stream dispatched"]
            assert f"is rank 1 of 3 (accelerate loads data for rank {place} of 2" in errors["others"]
