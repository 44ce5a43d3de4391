"""A disk that is full when a result is written: one sentence, nothing half written, what was there before is kept."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from crystals import entries
from paths import FIXTURES

from nodebudget import Calibration, SizeTable
from nodebudget.cli import main

TABLE = SizeTable.from_counts(range(1, 2001), ids=[f"crystal {index}" for index in range(2000)])


def limited(size: int) -> Callable[[], None]:
    def limit() -> None:
        # Python ignores the signal, so that writing beyond ends in an error as on a full disk.
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return limit


#: Command lines, and what they write.
RESULTS = {
    "out.json": ["plan", "sizes.npz", "--max-nodes", "4000", "-o"],
    "out.npz": ["plan", "sizes.npz", "--max-nodes", "4000", "-o"],
    "out.csv": ["measure", "sizes.npz", "-o"],
    "out.parquet": ["measure", "sizes.npz", "-o"],
    "out.html": ["report", "sizes.npz", "-o"],
    "out.png": ["compare", "sizes.npz", "sizes.npz", "--batch-size", "8", "--plot"],
}

#: Runs each command in one process that can write no file of over 200 bytes.
ALL = """
import json, resource, sys
from click.testing import CliRunner
import matplotlib.font_manager  # which writes a list of fonts the first time
from nodebudget.cli import main
resource.setrlimit(resource.RLIMIT_FSIZE, (200, 200))
found = {}
for output, command in json.loads(sys.argv[1]).items():
    done = CliRunner().invoke(main, [*command, output, "-q", *sys.argv[2:]])
    found[output] = [done.exit_code, done.stderr.splitlines()[-1]]
print(json.dumps(found))
"""


def test_results_are_written_whole_or_not_at_all(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    TABLE.save(tmp_path / "sizes.npz")
    command = [sys.executable, "-c", ALL, json.dumps(RESULTS)]
    for kept, options in ((None, []), (b"kept", ["--force"])):
        done = subprocess.run([*command, *options], cwd=tmp_path, capture_output=True, text=True, check=True)
        for output, (code, line) in json.loads(done.stdout).items():
            assert code == 2, line
            assert f"{output}' could not be written: File too large; free some space" in line
            assert (tmp_path / output).read_bytes() == kept if kept else not (tmp_path / output).exists()
            (tmp_path / output).write_bytes(b"kept")
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*RESULTS, "sizes.npz"])


def test_a_calibration_is_not_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The record is larger than the list of what was measured, which stays where the record finds no room."""
    (tmp_path / "crystals.json").write_text(json.dumps(entries(most=12, count=40)))
    monkeypatch.chdir(tmp_path)
    command = ["calibrate", "--device", "cpu", "--workload", "workloads:Linear", "--data", "crystals.json"]
    command += ["--probes", "12", "--max-graphs", "8", "-q", "-o"]
    whole = CliRunner().invoke(main, [*command, "whole.json"])
    assert whole.exit_code == 0, whole.output
    room = (tmp_path / "whole.json").stat().st_size - 100
    failed = subprocess.run(
        [sys.executable, "-m", "nodebudget", *command, "cal.json"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(FIXTURES.parent), str(FIXTURES)])},
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=limited(room),
    )
    assert failed.returncode == 2, failed.stderr
    assert "cal.json' could not be written: File too large" in failed.stderr.splitlines()[-1]
    assert not (tmp_path / "cal.json").exists()
    seen = [json.loads(line) for line in (tmp_path / "cal.json.probes.jsonl").read_text().splitlines()[1:]]
    assert len(seen) == 12
    resumed = CliRunner().invoke(main, [*command, "cal.json", "--resume"])
    assert resumed.exit_code == 0, resumed.output
    kept = [entry.to_dict() for entry in Calibration.load(tmp_path / "cal.json").observations]
    assert kept == [entry["seen"] for entry in seen]
    assert not (tmp_path / "cal.json.probes.jsonl").exists()
