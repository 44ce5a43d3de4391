"""The benchmarks of packing run, and our batches keep the goals that they print."""

from __future__ import annotations

import json
import runpy
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from paths import ROOT

from nodebudget import Calibration

BENCHMARKS = ROOT / "scripts" / "benchmarks"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a benchmark in this process, which spares its imports, and return what it prints."""
    monkeypatch.syspath_prepend(BENCHMARKS)

    def call(name: str, *arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            code = None
            try:
                runpy.run_path(str(BENCHMARKS / name), run_name="__main__")
            except SystemExit as end:
                code = end.code
        assert not code, capsys.readouterr()
        return capsys.readouterr().out

    return call


def test_goals_of_packing_are_kept_on_sets_that_are_quick(tmp_path: Path, run: Callable[..., str]) -> None:
    pytest.importorskip("matplotlib")
    picture = tmp_path / "packing.png"
    printed = run("packing.py", "--sets", "supercon", "core_mof", "--json", "--goals", "--plot", str(picture))
    found = json.loads(printed)
    assert found["missed"] == []
    assert picture.stat().st_size > 0
    rows = found["one_cap"] + found["two_caps"]
    assert {row["mean_graphs"] for row in rows} == {16, 64, 256}
    ours = [row for row in rows if row["way"].startswith("nodebudget")]
    assert all(row["lost"] == row["repeated"] == row["over_cap"] == 0 for row in ours)
    even = {
        row["way"]: row["cv"] for row in rows if row["set"] == "jarvis_dft3d_tc_supercon" and row["mean_graphs"] == 64
    }
    assert len(even) >= 6
    assert min(even, key=lambda way: even[way]) == "nodebudget, balanced"


def test_packing_prints_a_table_of_every_way(run: Callable[..., str]) -> None:
    printed = run("packing.py", "--sets", "supercon", "--batch", "64")
    table = [line for line in printed.splitlines() if line.startswith("| nodebudget, balanced")]
    assert len(table) == 2  # the summary, and the one set
    assert "All goals reached." in printed


def test_static_shapes_pad_less_than_the_other_ways(run: Callable[..., str]) -> None:
    found = json.loads(run("static_shapes.py", "--sets", "mpts_52_val", "core_mof", "--json"))
    assert not [miss for miss in found["missed"] if "padded" in miss]
    assert [len(row["shapes"]) for row in found["rows"]] == [1, 1, 1, 3]
    for row in found["rows"]:
        ways = row["padding"]
        assert all(
            ways["static"][column] < min(ways["fixed"][column], ways["jraph"][column]) for column in ways["static"]
        )
    table = run("static_shapes.py", "--sets", "mpts_52_val", "--batch", "64").splitlines()
    assert table[2].startswith("| mpts_52_val | 64 | 0.04 | 1 | ")


def test_balanced_batches_are_as_random_as_shuffled_ones_and_vary_less(run: Callable[..., str]) -> None:
    printed = run("randomness.py", "--sets", "mpts_52_val", "--batch", "64", "--epochs", "60", "--json")
    [found] = json.loads(printed)
    meetings: dict[str, Any] = found["meetings"]
    # Seeds are fixed, so that these are no matter of luck.
    assert all(0.9 < both["balanced"]["ratio"] < 1.1 for name, both in meetings.items() if "-" in name)
    assert meetings["all"]["balanced"]["spread"] == pytest.approx(1, abs=0.05)
    means = found["batch_mean_std"]
    assert means["size"]["ratio"] < 0.6
    assert means["half size, half noise"]["ratio"] < 1
    assert means["noise"]["ratio"] == pytest.approx(1, abs=0.05)


@pytest.mark.slow
def test_parity_trains_all_ways_for_as_many_steps(tmp_path: Path, run: Callable[..., str]) -> None:
    pytest.importorskip("alignn")
    from crystals import entries, small_prototypes

    atoms = small_prototypes(8)[:40]
    made = [{**entry, "energy": item.volume} for entry, item in zip(entries(8, 40), atoms, strict=True)]
    data = tmp_path / "crystals.json"
    data.write_text(json.dumps(made))
    small = ("--epochs", "2", "--hidden", "8", "--layers", "1", "--batch", "8", "--seeds", "0")
    printed = run("parity.py", str(data), "--target", "energy", *small, "--json")
    found = json.loads(printed)
    [seed] = found["runs"]
    ways = [seed[way] for way in ("fixed", "fixed, other order", "balanced")]
    assert {way["steps"] for way in ways} == {8}
    assert {way["graphs"][0] for way in ways} == {8.0}
    assert seed["balanced"]["line_edges_cv"] < seed["fixed"]["line_edges_cv"]


def test_what_the_documentation_says_of_a_gpu_is_what_was_measured_there(run: Callable[..., str]) -> None:
    kept = BENCHMARKS / "h200"
    printed = run("gpu.py", "--show", str(kept / "epoch.json"))
    assert printed in (ROOT / "docs/benchmarks/gpu.md").read_text()
    readme = (ROOT / "README.md").read_text()
    epochs = json.loads((kept / "epoch.json").read_text())["settings"]["expandable"]["epochs"]
    for found in epochs.values():
        peak, step = found["peak"], found["step_seconds"]
        memory = f"{peak['mean'] / 2**20:,.0f} MiB, {peak['max'] / 2**20:,.0f} MiB, {peak['cv']:.2%}"
        speed = f"{step['mean'] * 1e3:.1f} ms, {step['cv']:.2%} | {found['crystals_per_second']:,.0f}"
        assert f"{memory} | {found['least_device'] / 2**20:,.0f} MiB | {speed} |" in readme
    here, there = (Calibration.load(kept / name) for name in ("calibration.json", "calibration_cpu.json"))
    assert here.holdout is not None
    assert here.holdout.mape < 0.01
    # What a GPU takes for cuBLAS, a CPU does not.
    for seen in here.observations:
        if seen.role == "holdout":
            assert there.predict_bytes(**seen.sizes) + 2**26 == pytest.approx(seen.peak, rel=0.01)


def test_what_a_budget_is_worth_is_what_the_readme_says(run: Callable[..., str]) -> None:
    results = json.loads(run("budget_worth.py", "--json", "--sets", "jarvis_dft3d_tc_supercon"))
    rows = results["jarvis_dft3d_tc_supercon"]["rows"]
    readme = (ROOT / "README.md").read_text()
    for graphs, row in rows.items():
        [line] = [line for line in readme.splitlines() if line.startswith(f"| {graphs} mean graphs: fixed, budget")]
        assert f"| {row['fixed']}, {row['budget']:.0f} |" in line
        assert row["gain"] > 1
