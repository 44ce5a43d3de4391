"""`nodebudget train-alignn` on a CUDA device: alignn's own loop on the memory that it was planned for."""

from __future__ import annotations

import json

import pytest
from on_device import MIB, TESTS, python

BENCHMARK = str(TESTS.parent / "scripts/benchmarks/alignn_budget.py")


# Slow; with the default allocator one run of some twenty was out of memory, since the free block that it takes among
# equal ones depends on addresses, which differ from process to process.
@pytest.mark.slow
def test_an_epoch_with_forces_fits_on_what_the_device_leaves_in_every_order(stand_in):
    options = ["--device", "cuda", "--only", "pure, forces", "--crystals", "160", "--epochs", "1", "--json"]
    done = python("-W", "ignore", BENCHMARK, *options, STUBCUDA_BYTES=384 * MIB)
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    assert {(run["setting"], run["order"]) for run in results} == {
        (setting, order)
        for setting in ("default", "expandable")
        for order in ("largest first", "smallest first", "alternating")
    }
    for run in results:
        assert "failed" not in run, run
        assert run["steps"] == run["batches"] > 1
        assert max(run["largest"], run["validation"]) <= run["memory"], run
        assert run["cv"] <= 0.005, run


@pytest.mark.parametrize("launcher", ["spawn", "torchrun"])
def test_two_processes_share_one_plan(stand_in, tmp_path, launcher):
    made = python("train_alignn_ranks.py", "--write", str(tmp_path))
    assert made.returncode == 0, made.stderr
    script = ["train_alignn_ranks.py", str(tmp_path)]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = python(
        *(script if launcher == "spawn" else [*torchrun, *script]),
        STUBCUDA_BYTES=2048 * MIB,
        STUBCUDA_DEVICES=2,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    ranks = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    # Every rank sees its own graphs, as often as the other; all graphs once, in both epochs.
    for first, second in zip(*ranks, strict=True):
        assert len(first) == len(second)
        graphs = sorted(graph for batches in (first, second) for batch in batches for graph in batch)
        assert graphs == list(range(32))
    assert ranks[0][0] != ranks[0][1]
    assert len(json.loads((tmp_path / "out" / "history_train.json").read_text())) == 2
