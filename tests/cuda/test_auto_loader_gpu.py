"""`auto_loader` on a CUDA device: batches that fill exactly the memory that it was given."""

from __future__ import annotations

import json

import pytest
from on_device import TESTS, python

BENCHMARK = str(TESTS.parent / "scripts/benchmarks/auto_soak.py")


@pytest.mark.usefixtures("stand_in")
@pytest.mark.parametrize(
    "arguments",
    [
        ["--steps", "80", "--graphs", "3000", "--memory", "1GiB", "--datasets", "crystals,porous"],
        pytest.param(["--steps", "2000"], marks=pytest.mark.slow),
    ],
    ids=["short", "long"],
)
def test_steps_on_exactly_the_memory_all_fit_in_every_order(arguments):
    done = python("-W", "ignore", BENCHMARK, "--json", *arguments)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    small = result["memory"] == 2**30
    for setting, least in (("default", 0.8), ("expandable", 0.9 if small else 0.95)):
        for row in result["settings"][setting].values():
            assert row["failures"] == 0
            assert set(row["adverse"].values()) == {0}
            assert row["planned"] >= least
            # One batch fewer would be too few.
            assert row["live"] >= row["planned"] * (1 - 1.5 / row["batches"])
