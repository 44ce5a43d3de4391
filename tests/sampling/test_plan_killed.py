"""`nodebudget plan` killed at any moment leaves its output whole or not at all."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from paths import ROOT

from nodebudget.datasets.size_table import SizeTable
from nodebudget.sampling.budget import Budget
from nodebudget.sampling.planner import make_plan

NODES = np.maximum(1, np.random.default_rng(0).lognormal(3, 0.6, 150_000)).astype(np.int64)
SIZES = SizeTable.from_counts(NODES)


@pytest.fixture(scope="module")
def sizes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return SIZES.save(tmp_path_factory.mktemp("data") / "sizes.npz")


@pytest.fixture(scope="module")
def expected() -> list[list[int]]:
    return list(make_plan(SIZES, Budget.make(max_nodes=2000)))


def start(sizes: Path, output: Path, *options: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "nodebudget", "plan", str(sizes), "--max-nodes", "2000", "-q", "-o", str(output)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([*command, *options], env=environment, stdout=subprocess.DEVNULL)


def kill(process: subprocess.Popen[bytes]) -> bool:
    """Kill it; say whether it was still running."""
    process.send_signal(signal.SIGKILL)
    return process.wait() == -signal.SIGKILL


def batches(path: Path) -> list[list[int]]:
    if path.suffix == ".json":
        return json.loads(path.read_text())["plan"]
    with np.load(path) as arrays:
        return [part.tolist() for part in np.split(arrays["indices"], arrays["offsets"][1:-1])]


@pytest.mark.parametrize("suffix", [".json", ".npz"])
def test_killed_while_it_writes(suffix: str, sizes: Path, expected: list[list[int]], tmp_path: Path) -> None:
    output = tmp_path / f"plan{suffix}"
    killed = 0
    for _ in range(2):
        process = start(sizes, output, "--force")
        # The file is written beside its place, under another name.
        while process.poll() is None and not any(tmp_path.glob(".plan*.part")):
            time.sleep(0.0005)
        killed += kill(process)
        assert not output.exists() or batches(output) == expected
    assert killed
    # The hidden files that a kill leaves do not matter.
    assert start(sizes, output, "--force").wait() == 0
    assert batches(output) == expected


def test_killed_at_any_moment_what_was_there_stays(sizes: Path, expected: list[list[int]], tmp_path: Path) -> None:
    output = tmp_path / "plan.json"
    began = time.monotonic()
    assert start(sizes, output).wait() == 0
    took = time.monotonic() - began
    whole = output.read_bytes()
    for part in (0.5, 0.8, 0.9):
        process = start(sizes, output, "--force", "--seed", "1")
        time.sleep(part * took)
        if not kill(process):
            assert batches(output) != expected
            output.write_bytes(whole)
        assert output.read_bytes() == whole or len(batches(output)) == len(expected)
