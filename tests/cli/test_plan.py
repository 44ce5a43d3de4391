"""`nodebudget plan`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from calibrations import calibration
from click.testing import CliRunner, Result

from nodebudget.cli import main
from nodebudget.datasets.size_table import SizeTable


@pytest.fixture
def sizes(tmp_path: Path) -> str:
    nodes = np.random.default_rng(0).integers(5, 60, 300)
    table = SizeTable.from_counts(nodes, nodes * 12, nodes * 150, ids=[f"c{i}" for i in range(300)])
    return str(table.save(tmp_path / "sizes.npz"))


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["plan", *arguments])


def test_json_has_the_keys_that_are_relied_on(sizes: str) -> None:
    done = run(sizes, "--max-nodes", "1000", "--json")
    assert done.exit_code == 0
    found = json.loads(done.stdout)
    assert {"batches", "fill", "lower_bound", "graphs_per_batch", "predicted_bytes", "oversized"} <= found.keys()
    assert found["graphs_per_batch"].keys() == {"mean", "std"}
    assert found["predicted_bytes"] is None


def test_by_calibration_and_memory(sizes: str, tmp_path: Path) -> None:
    path = calibration().save(tmp_path / "calibration.json")
    done = run(sizes, "--calibration", str(path), "--memory", "30MB", "--json")
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)["predicted_bytes"]
    assert found.keys() == {"mean", "max", "cv"}
    assert found["max"] <= 30e6


def test_static_batches_come_with_their_shape_and_what_is_padded(sizes: str) -> None:
    done = run(sizes, "--pack", "static", "--max-graphs", "20")
    assert done.exit_code == 0
    assert "Shapes of the padded batches, padding graphs included" in done.stdout
    assert "jraph's dynamic batches" in done.stdout
    found = json.loads(run(sizes, "--pack", "static", "--max-graphs", "20", "--json").stdout)
    assert [shape["batches"] for shape in found["shapes"]] == [found["batches"]]
    assert found["shapes"][0]["graphs"] == 21
    assert found["padding"].keys() == {"static", "fixed", "jraph"}
    assert found["padding"]["static"]["edges"] < 0.01 < found["padding"]["fixed"]["edges"]


def test_people_get_a_table_and_advice(sizes: str) -> None:
    done = run(sizes, "--max-nodes", "1e3")
    assert done.exit_code == 0
    assert "lower bound" in done.stdout
    assert "This replaces batch_size=" in done.stdout


def test_batches_are_written_and_not_overwritten(sizes: str, tmp_path: Path) -> None:
    target = tmp_path / "plan.json"
    assert run(sizes, "--max-nodes", "1000", "--ranks", "4", "-o", str(target), "-q").stderr == ""
    written = json.loads(target.read_text())
    assert written["batches"] % 4 == 0
    assert sorted(graph for batch in written["plan"] for graph in batch) == list(range(300))
    again = run(sizes, "--max-nodes", "1000", "-o", str(target))
    assert again.exit_code == 2
    assert "exists" in again.stderr
    assert run(sizes, "--max-nodes", "1000", "-o", str(target), "--force").exit_code == 0


def test_the_order_is_kept(sizes: str, tmp_path: Path) -> None:
    target = tmp_path / "plan.json"
    run(sizes, "--max-nodes", "1000", "--pack", "sequential", "-o", str(target))
    assert [graph for batch in json.loads(target.read_text())["plan"] for graph in batch] == list(range(300))


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--max-nodes", "10"], 1, "larger than a batch may be: graph"),
        ([], 2, "no budget"),
        (["--max-nodes", "0"], 2, "--max-nodes is 0"),
        (["--max-nodes", "-4"], 2, "--max-nodes is -4"),
        (["--max-nodes", "nan"], 2, "--max-nodes is nan"),
        (["--max-nodes", "1.5"], 2, "--max-nodes is 1.5"),
        (["--max-nodes", "1000", "--memory", "40GiB"], 2, "go together"),
        (["--max-nodes", "1000", "--calibration", "nowhere.json", "--memory", "40GiB"], 2, "nowhere.json"),
        (["--max-nodes", "1000", "--ranks", "0"], 2, "--ranks is 0"),
        (["--max-nodes", "1000", "--ranks", "301"], 1, "300 graphs can't be assigned to 301 ranks"),
        (["--max-nodes", "1000", "--seed", "-1"], 2, "seed is -1"),
        (["--max-nodes", "1000", "-o", "plan.txt"], 2, "unsupported file format 'plan.txt'"),
    ],
)
def test_wrong_input_is_one_sentence(sizes: str, options: list[str], code: int, message: str) -> None:
    done = run(sizes, *options)
    assert done.exit_code == code
    assert message in done.stderr
    assert done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1


def test_memory_must_be_an_amount(sizes: str, tmp_path: Path) -> None:
    path = calibration().save(tmp_path / "calibration.json")
    done = run(sizes, "--calibration", str(path), "--memory", "3 potatoes")
    assert done.exit_code == 2
    assert "'3 potatoes' is not an amount of memory" in done.stderr
    done = run(sizes, "--calibration", str(path), "--memory", "1KiB")
    assert done.exit_code == 1
    assert "without any graph" in done.stderr


@pytest.mark.parametrize("name", ["nowhere.npz", "sizes.txt"])
def test_data_that_is_not_there(name: str) -> None:
    done = run(name, "--max-nodes", "10")
    assert done.exit_code == 2
    assert name in done.stderr


def test_oversized_graphs_are_counted(sizes: str) -> None:
    done = run(sizes, "--max-nodes", "40", "--oversized", "skip", "--json")
    assert done.exit_code == 0
    assert json.loads(done.stdout)["oversized"] > 0
    shown = run(sizes, "--max-nodes", "40", "--oversized", "alone").stdout
    assert "exceed the budget" in shown
