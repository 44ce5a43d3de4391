"""The same plan with every numpy, on every processor and on every rank."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from paths import FIXTURES, GOLDEN, ROOT

try:
    from numpy._core._multiarray_umath import __cpu_dispatch__, __cpu_features__
except ImportError:  # before numpy 2
    from numpy.core._multiarray_umath import __cpu_dispatch__, __cpu_features__

from nodebudget.sampling.packing.balancing import is_balanced
from nodebudget.sampling.packing.reproducible import RandomStream, shuffled, shuffled_rows, stable_argsort

#: Vector instructions that numpy uses on this processor, by its own names.
FEATURES = [name for name in __cpu_dispatch__ if __cpu_features__[name]]
WIDE = [name for name in FEATURES if "512" in name or name == "X86_V4"]
DISABLED = {"nothing": [], "512 bits": WIDE, "all vector instructions": FEATURES}


def start(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    paths = os.pathsep.join([str(ROOT), str(FIXTURES)])
    return subprocess.Popen(
        [sys.executable, *arguments],
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def output(process: subprocess.Popen[str]) -> str:
    stdout, stderr = process.communicate(timeout=300)
    assert process.returncode == 0, stderr[-3000:]
    return stdout


@pytest.mark.parametrize("disabled", DISABLED)
def test_plans_are_those_of_the_golden_file_on_every_processor(disabled: str) -> None:
    if disabled != "nothing" and not DISABLED[disabled]:
        pytest.skip("numpy uses none of them here")
    features = " ".join(DISABLED[disabled])
    printed = output(start(str(FIXTURES / "plan_hashes.py"), NPY_DISABLE_CPU_FEATURES=features))
    golden = GOLDEN / "plan_hashes.json"
    if os.environ.get("NODEBUDGET_GOLDEN") == "write":
        golden.write_text(printed)
    assert json.loads(printed) == json.loads(golden.read_text())


def test_ranks_with_different_plans_all_raise_before_the_first_step(tmp_path: Path) -> None:
    ranks = [start(str(FIXTURES / "differing_ranks.py"), str(rank), str(tmp_path)) for rank in range(2)]
    for rank in ranks:
        output(rank)
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert first == second
    differing = {
        "seed": "the seed (rank 1)",
        "explicit": "the seed (rank 1)",
        "dataset": "the dataset, or its order (rank 1)",
        "budget": "the budget, pack, shuffle, oversized or balance (rank 1)",
        "shuffle": "the budget, pack, shuffle, oversized or balance (rank 1)",
        "epoch": "the epoch (set_epoch) (rank 1)",
        "consumed": "the batches consumed (rank 1)",
        "re-planned": "the budget, pack, shuffle, oversized or balance (rank 1)",
    }
    for name, message in first.items():
        assert f"different from rank 0: {differing[name]} (every" in message if name in differing else message == ""


def test_random_numbers_are_these() -> None:
    stream = RandomStream(3, 1)
    assert stream.words(2).tolist() == [4671694712983073299, 7511462375112314811]
    assert stream.permutation(9).tolist() == [7, 4, 3, 1, 2, 5, 6, 0, 8]
    assert [stream.below(bound) for bound in (1, 2, 7, 100, 2**31 + 3)] == [0, 0, 3, 52, 1842640228]
    assert stream.coins(8).tolist() == [False, False, True, True, False, True, True, False]
    assert stream.permutation(6).tolist() == [2, 4, 1, 0, 3, 5]
    assert shuffled(9, stream).tolist() == [8, 4, 5, 1, 0, 7, 3, 6, 2]
    assert shuffled_rows(np.arange(9).reshape(3, 3), stream).tolist() == [[2, 0, 1], [5, 4, 3], [6, 7, 8]]


@pytest.mark.parametrize("count", [0, 1, 2, 1000])
def test_permutations_hold_every_number_once(count: int) -> None:
    assert sorted(RandomStream(count).permutation(count).tolist()) == list(range(count))
    assert sorted(shuffled(count, RandomStream(count)).tolist()) == list(range(count))


@pytest.mark.parametrize("bits", [1, 3, 40, 62])
def test_equal_numbers_stay_in_order(bits: int) -> None:
    values = (RandomStream(bits).words(2000) >> np.uint64(64 - bits)).astype(np.int64) - 2 ** (bits - 1)
    assert np.array_equal(stable_argsort(values), np.argsort(values, kind="stable"))
    assert stable_argsort(values[:0]).tolist() == []


def test_balance_is_decided_exactly() -> None:
    assert is_balanced(np.array([5]))
    assert is_balanced(np.array([3, 4, 4]))  # as near as whole numbers come to their mean
    assert not is_balanced(np.array([2, 4, 5]))
    for scale in (1, 2**20, 2**44):
        # A standard deviation of 0.1% of the mean, and a little more.
        assert is_balanced(np.array([999, 1001] * 64) * scale)
        assert not is_balanced(np.array([999, 1001] * 63 + [998, 1002]) * scale)
