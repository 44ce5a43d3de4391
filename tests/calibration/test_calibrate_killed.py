"""`nodebudget calibrate` killed while it measures leaves whole observations, from which it goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pytest
from click.testing import CliRunner
from crystals import entries
from paths import FIXTURES

from nodebudget import Calibration
from nodebudget.cli import main

PROBES = 15


def options(data: Path, output: Path) -> list[str]:
    command = ["calibrate", "--device", "cpu", "--workload", "workloads:Linear", "--data", str(data)]
    return [*command, "--probes", str(PROBES), "--max-graphs", "8", "-q", "-o", str(output)]


def start(data: Path, output: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "nodebudget", *options(data, output)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(FIXTURES.parent), str(FIXTURES)])}
    return subprocess.Popen(
        command, cwd=FIXTURES, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


@pytest.mark.parametrize("lines", [2, pytest.param(9, marks=pytest.mark.slow)])
def test_killed_while_it_measures(lines: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, output, checkpoint = tmp_path / "crystals.json", tmp_path / "cal.json", tmp_path / "cal.json.probes.jsonl"
    data.write_text(json.dumps(entries(most=12, count=60)))
    process = start(data, output)
    while process.poll() is None and (not checkpoint.exists() or checkpoint.read_bytes().count(b"\n") < lines):
        time.sleep(0.0005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not output.exists()
    seen = [json.loads(line) for line in checkpoint.read_text().splitlines()[1:lines]]
    assert len(seen) == lines - 1
    with checkpoint.open("ab") as file:
        file.write(b'{"key": "cut in the mid')  # what a power cut may leave of a line
    monkeypatch.chdir(FIXTURES)
    done = CliRunner().invoke(main, [*options(data, output), "--resume"])
    assert done.exit_code == 0, done.output
    assert not checkpoint.exists()
    observations = [asdict(entry) for entry in Calibration.load(output).observations]
    assert len(observations) == PROBES
    assert all(entry["seen"] in observations for entry in seen)
