"""What an earlier nodebudget wrote stays readable: a file of every version of every kind, by the one of its time."""

from __future__ import annotations

import ast
import importlib
import json
from pathlib import Path

import numpy as np
import pytest
from paths import GOLDEN, ROOT

from nodebudget import NodeBudgetSampler, SizeTable, read_run
from nodebudget.analysis import static_step
from nodebudget.errors import InputError, RecordError
from nodebudget.report.html.inputs import read_inputs
from nodebudget.report.html.page import make_page
from nodebudget.sampling.plan_io import read_plan
from nodebudget.utils.records import read_record, write_record

PACKAGE = ROOT / "nodebudget"

NODES = [4, 2, 8, 6, 4, 3, 5, 8, 2, 6, 4, 8]
BATCHES = [[6, 4, 9], [8, 7, 3], [11, 0, 1], [10, 5, 2]]

#: Where a version number stands → files of that kind, `{}` for the version. (Sizes as text or Parquet have no number.)
VERSIONS = {
    "calibration.memory_model.SCHEMA_VERSION": ["calibration_v{}.json"],
    "sampling.plan.SCHEMA_VERSION": ["plan_v{}.json", "plan_v{}.npz"],
    "monitor.log_reader.SCHEMA_VERSION": ["run_v{}.jsonl"],
    "report.quickstart.SCHEMA_VERSION": ["quickstart_v{}.json"],
    "datasets.size_table_io.SCHEMA_VERSION": ["sizes_v{}.npz", "sizes_mapped_v{}.npz"],
    "sampling.state.STATE_VERSION": ["state_v{}.json"],
    "analysis.static_step.SCHEMA_VERSION": ["static_step_v{}.json"],
}


def written(pattern: str) -> list[Path]:
    found = sorted(GOLDEN.glob(pattern))
    assert found, f"no {pattern}"
    return found


def version_of(path: Path) -> int:
    return int(path.stem.rpartition("_v")[2])


def numbers_in_the_package() -> set[str]:
    """Every module-level name that ends in VERSION and is set to a number."""
    found = set()
    for path in PACKAGE.rglob("*.py"):
        module = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
                names = [target.id for target in node.targets if isinstance(target, ast.Name)]
                found |= {f"{module}.{name}" for name in names if name.endswith("VERSION")}
    return found


def test_every_kind_of_record_is_here():
    assert numbers_in_the_package() == set(VERSIONS)


@pytest.mark.parametrize("place", VERSIONS)
def test_every_version_up_to_the_newest_has_a_file(place):
    module, _, name = place.rpartition(".")
    newest = getattr(importlib.import_module(f"nodebudget.{module}"), name)
    for pattern in VERSIONS[place]:
        assert sorted(map(version_of, written(pattern.format("*")))) == list(range(1, newest + 1)), pattern


@pytest.mark.parametrize("path", written("static_step_v*"), ids=lambda path: path.name)
def test_static_steps(path):
    record = read_record(path, static_step.KIND, static_step.SCHEMA_VERSION)
    assert record["schema_version"] == version_of(path)
    assert record["graphs"] == 10
    assert dict(record["probes"]) == {record["graphs"]: record["peak"]}


@pytest.mark.parametrize("path", written("plan_v*"), ids=lambda path: path.name)
def test_plans(path):
    plan = read_plan(path)
    assert plan.metadata["schema_version"] == version_of(path)
    assert [plan.indices[a:b].tolist() for a, b in zip(plan.offsets, plan.offsets[1:], strict=False)] == BATCHES
    assert plan.loads(NODES).tolist() == [15, 16, 14, 15]
    assert (plan.metadata["seed"], plan.metadata["epoch"], plan.metadata["limits"]["caps"]) == (7, 2, {"nodes": 20})
    assert plan.metadata["data"] == SizeTable.load(GOLDEN / "sizes_v1.npz").fingerprint()


@pytest.mark.parametrize("path", written("run_v*"), ids=lambda path: path.name)
def test_runs(path):
    run = read_run(path)
    assert run.header["schema_version"] == version_of(path)
    assert [step["sizes"]["nodes"] for step in run.steps] == [15, 16, 14, 15]
    assert run.events[0]["batches"] == 4
    assert run.end is not None
    assert run.end["status"] == "done"
    assert run.damaged == 0


@pytest.mark.parametrize("path", written("sizes_*v*"), ids=lambda path: path.name)
def test_sizes(path):
    if path.suffix == ".parquet":
        pytest.importorskip("pyarrow")
    table = SizeTable.load(path, mmap="mapped" in path.name)
    assert list(table.columns) == ["nodes", "edges", "line_edges", "tokens"]
    assert table["nodes"].tolist() == NODES
    assert np.array_equal(table["line_edges"], 144 * np.array(NODES))
    assert np.array_equal(table["tokens"], np.array(NODES) + 0.5)
    assert table.ids is not None
    assert table.ids.tolist() == [f"JVASP-{i}" for i in range(12)]
    if path.suffix == ".npz":
        assert table.settings["graphs"]["neighbors"] == 12


@pytest.mark.parametrize(
    ("version", "words"),
    [([3], "its version is 3, this nodebudget reads 1 to 2"), ([0], "its version is 0"), ([[1]], "not a number")],
)
def test_sizes_of_a_version_to_come(version, words, tmp_path):
    with np.load(GOLDEN / "sizes_v2.npz") as arrays:
        np.savez(tmp_path / "s.npz", **{**arrays, "_version": np.array(version)})
    with pytest.raises(InputError, match=words):
        SizeTable.load(tmp_path / "s.npz")


@pytest.mark.parametrize("path", written("state_v*"), ids=lambda path: path.name)
def test_states_of_samplers(path):
    """The epoch goes on after its first batch, with the batches that were planned then."""
    state = json.loads(path.read_text())
    assert state["version"] == version_of(path)
    sampler = NodeBudgetSampler(SizeTable.load(GOLDEN / "sizes_v1.npz"), max_nodes=20, seed=7)
    sampler.load_state_dict(state)
    assert list(sampler) == BATCHES[1:]


@pytest.mark.parametrize("path", written("quickstart_v*"), ids=lambda path: path.name)
def test_quickstarts(path):
    pytest.importorskip("jinja2")
    page = make_page([str(path)])
    assert "NodeBudgetSampler" in page.html
    (record,) = read_inputs([str(path)])
    assert record.kind == "quickstart"
    assert record.value["schema_version"] == version_of(path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "is not JSON"),
        ("[]", "is not a file of kind 'thing'"),
        (json.dumps({"kind": "other", "schema_version": 1}), "its kind is 'other'"),
        (json.dumps({"kind": "thing", "schema_version": 3}), "reads 1 to 2"),
        (json.dumps({"kind": "thing", "schema_version": "2"}), "schema version '2'"),
        ("[" * 100_000, "is not JSON"),
    ],
)
def test_a_record_that_is_not_what_it_should_be(tmp_path, text, words):
    path = tmp_path / "r.json"
    path.write_text(text)
    with pytest.raises(RecordError, match=words):
        read_record(path, "thing", 2)


def test_a_record_comes_back(tmp_path):
    path = write_record(tmp_path / "r.json", "thing", 2, {"a": [1, 2.5]})
    assert read_record(path, "thing", 2) == {"kind": "thing", "schema_version": 2, "a": [1, 2.5]}
    with pytest.raises(RecordError, match="can't be read"):
        read_record(tmp_path / "missing.json", "thing", 2)
