"""A long run of real ALIGNN with sampler, workers and monitor does not grow."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest
from paths import ROOT


def soak(*arguments: str) -> dict[str, Any]:
    command = [sys.executable, str(ROOT / "scripts" / "benchmarks" / "soak.py"), *arguments, "--json"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "DGLBACKEND": "pytorch"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.mark.slow
def test_a_short_run_reads_all_processes() -> None:
    found = soak("--steps", "40", "--hidden", "8", "--layers", "1", "--workers", "1", "--restart-workers")
    assert found["steps"] == 40
    assert found["epochs"] > 1
    assert found["warnings"] == []
    assert min(found["last"].values()) > 0


@pytest.mark.slow
@pytest.mark.parametrize("workers", [[], ["--restart-workers"]], ids=["persistent", "restarted"])
def test_two_thousand_steps_do_not_grow(workers: list[str]) -> None:
    found = soak(*workers)
    assert found["steps"] == 2000
    assert found["growth"]["rss"] < 0.01
    assert found["growth"]["workers_rss"] < 0.01
    assert found["last"]["files"] <= found["max"]["files"]
    assert abs(found["growth"]["files"]) < 0.1
    assert found["warnings"] == []
