"""A disk that is full when a result is written: one sentence, nothing half written, what was there before is kept."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
from click.testing import CliRunner
from crystals import entries
from full_disk import largest_file

from nodebudget import Calibration, SizeTable
from nodebudget.cli import main

TABLE = SizeTable.from_counts(range(1, 2001), ids=[f"crystal {index}" for index in range(2000)])


#: Command lines, and what they write.
RESULTS = {
    "out.json": ["plan", "sizes.npz", "--max-nodes", "4000", "-o"],
    "out.npz": ["plan", "sizes.npz", "--max-nodes", "4000", "-o"],
    "out.csv": ["measure", "sizes.npz", "-o"],
    "out.parquet": ["measure", "sizes.npz", "-o"],
    "out.html": ["report", "sizes.npz", "-o"],
    "out.png": ["compare", "sizes.npz", "sizes.npz", "--batch-size", "8", "--plot"],
}


@pytest.mark.parametrize("existing", [None, b"existing"], ids=["new", "existing"])
def test_results_are_written_whole_or_not_at_all(
    existing: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("pyarrow", "jinja2", "matplotlib.font_manager"):  # the last writes a list of fonts the first time
        pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    TABLE.save(tmp_path / "sizes.npz")
    for output, command in RESULTS.items():
        if existing is not None:
            Path(output).write_bytes(existing)
        with largest_file(200):
            done = CliRunner().invoke(main, [*command, output, "-q", *(["--force"] if existing else [])])
        assert done.exit_code == 2, done.stderr
        assert f"{output}' could not be written: File too large; free some space" in done.stderr.splitlines()[-1]
        assert (Path(output).read_bytes() if Path(output).exists() else None) == existing
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"sizes.npz", *(RESULTS if existing else ())}


def test_a_calibration_is_not_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The record is larger than the list of probes, which is kept when the record can't be written."""
    (tmp_path / "crystals.json").write_text(json.dumps(entries(most=12, count=40)))
    monkeypatch.chdir(tmp_path)
    command = ["calibrate", "--device", "cpu", "--workload", "workloads:Linear", "--data", "crystals.json"]
    command += ["--probes", "12", "--max-graphs", "8", "-q", "-o"]
    whole = CliRunner().invoke(main, [*command, "whole.json"])
    assert whole.exit_code == 0, whole.output
    with largest_file((tmp_path / "whole.json").stat().st_size - 100):
        failed = CliRunner().invoke(main, [*command, "cal.json"])
    assert failed.exit_code == 2, failed.output
    assert "cal.json' could not be written: File too large" in failed.stderr.splitlines()[-1]
    assert not (tmp_path / "cal.json").exists()
    seen = [json.loads(line) for line in (tmp_path / "cal.json.probes.jsonl").read_text().splitlines()[1:]]
    assert len(seen) == 12
    resumed = CliRunner().invoke(main, [*command, "cal.json", "--resume"])
    assert resumed.exit_code == 0, resumed.output
    kept = [asdict(entry) for entry in Calibration.load(tmp_path / "cal.json").observations]
    assert kept == [entry["seen"] for entry in seen]
    assert not (tmp_path / "cal.json.probes.jsonl").exists()
