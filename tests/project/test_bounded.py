"""Files that are far larger than files of their kind ever are are refused before they are parsed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from nodebudget import Calibration, MemoryMonitor, NodeBudgetSampler, SizeTable, read_run
from nodebudget.analysis.run_diff.runs import read_run_config
from nodebudget.calibration.checkpoint import ProbeCheckpoint
from nodebudget.datasets.cache.checkpoint import MeasureCheckpoint
from nodebudget.datasets.graph_settings import GraphSettings
from nodebudget.errors import InputError, NodeBudgetError
from nodebudget.report.html.page import make_page
from nodebudget.sampling.plan_io import read_plan
from nodebudget.workloads.registry import load_workload


def large(path: Path, size: int) -> Path:
    """A sparse file of zeros."""
    with path.open("wb") as file:
        file.truncate(size)
    return path


@pytest.mark.parametrize(
    ("name", "read", "max_bytes"),
    [
        ("cal.json", Calibration.load, 2**26),
        ("probes.jsonl", lambda path: ProbeCheckpoint(path, {}, resume=True), 2**20),
        ("sizes.npz.part", lambda path: MeasureCheckpoint(path, {}), 2**24),
        ("config.json", read_run_config, 2**24),
        ("config.yaml", read_run_config, 2**20),
        ("config.json", GraphSettings.from_alignn_config, 2**26),
        ("workload.toml", lambda path: load_workload(str(path), "cpu"), 2**20),
        ("plan.json", read_plan, 2**29),
        ("what.json", lambda path: make_page([str(path)]), 2**29),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_files_that_are_too_large(name: str, read: Callable[[Path], object], max_bytes: int, tmp_path: Path) -> None:
    with pytest.raises(NodeBudgetError, match=r"over .*iB, more than such a file takes"):
        read(large(tmp_path / name, max_bytes + 1))


def test_a_file_without_an_end() -> None:
    with pytest.raises(NodeBudgetError, match=r"it has over 64\.0 MiB"):
        Calibration.load("/dev/zero")


def test_a_line_without_an_end(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    with MemoryMonitor(path, sizes=lambda batch: {"nodes": batch}, device="cpu") as monitor:
        list(monitor.watch([3]))
    assert len(read_run(path).steps) == 1
    with path.open("ab") as file:
        file.write(b"x" * (2**20 + 1))
    with pytest.raises(NodeBudgetError, match=r"has a line of over 1\.00 MiB"):
        read_run(path)


def test_a_plan_too_large_for_json_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = NodeBudgetSampler(SizeTable.from_counts(range(1, 40)), max_nodes=100).plan
    monkeypatch.setattr("nodebudget.sampling.plan.TEXT", 100)
    with pytest.raises(InputError, match=r"the plan of 39 graphs takes .* as JSON .*save it as \.npz"):
        plan.save(tmp_path / "plan.json")
    assert not list(tmp_path.iterdir())
    assert len(read_plan(plan.save(tmp_path / "plan.npz")).graphs) == len(plan)
