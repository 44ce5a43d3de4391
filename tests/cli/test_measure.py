"""`nodebudget measure` as users call it, wrong input included."""

from __future__ import annotations

import csv
import json
import math
import os
import subprocess
import sys
import zipfile

import pytest
from click.testing import CliRunner
from crystals import entries
from paths import ROOT

from nodebudget import SizeTable
from nodebudget.cli import main
from nodebudget.datasets.graph_settings import GraphSettings
from nodebudget.datasets.measure import measure


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "crystals.json"
    path.write_text(json.dumps(entries()))
    return path


@pytest.fixture
def broken(tmp_path):
    crystals = entries()
    crystals[3]["atoms"]["coords"][0][0] = math.nan
    path = tmp_path / "broken.json"
    path.write_text(json.dumps(crystals))
    return path


def call(*arguments):
    return CliRunner().invoke(main, ["measure", *map(str, arguments)])


def refused(result, *words, code=2):
    """One sentence on stderr, the right exit code, nothing on stdout, no traceback."""
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    lines = [line for line in result.stderr.splitlines() if not line.startswith(("measuring", "skipped"))]
    assert len(lines) == 1
    for word in words:
        assert word in lines[0]


def test_json_and_file(data, tmp_path):
    result = call(data, "-o", tmp_path / "sizes.npz", "--json")
    assert result.exit_code == 0
    table = measure(entries())
    printed = json.loads(result.stdout)
    assert {name: printed[name] for name in ("graphs", "nodes", "edges", "line_edges")} == table.statistics()
    assert set(printed["edges"]) == {"mean", "median", "min", "max", "std", "total"}
    assert (printed["skipped"], printed["settings"]["graphs"]) == ([], GraphSettings().to_dict())
    assert SizeTable.load(tmp_path / "sizes.npz").fingerprint() == table.fingerprint()


def test_the_table_for_people(data):
    result = call(data)
    assert result.exit_code == 0
    for word in ("12 graphs", "mean", "total", "line-graph edges"):
        assert word in result.stdout
    assert call(data, "-q").stderr == ""


def test_options_reach_the_graphs(data, tmp_path):
    options = ["--neighbors", "4", "--cutoff", "5", "--no-canonize", "--strategy", "k-nearest"]
    result = call(data, *options, "--workers", "0", "--json")
    graphs = GraphSettings(neighbors=4, cutoff=5.0, canonize=False)
    assert json.loads(result.stdout)["edges"]["total"] == measure(entries(), graphs=graphs)["edges"].sum()
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"max_neighbors": 4, "cutoff": 5.0, "use_canonize": False}))
    again = call(data, "--alignn-config", config, "--json")
    assert json.loads(again.stdout)["edges"] == json.loads(result.stdout)["edges"]
    refused(call(data, "--alignn-config", config, "--neighbors", "4"), "--alignn-config", "--neighbors")


def test_sizes_are_converted(data, tmp_path):
    assert call(data, "-o", tmp_path / "sizes.npz").exit_code == 0
    assert call(tmp_path / "sizes.npz", "-o", tmp_path / "sizes.csv").exit_code == 0
    with (tmp_path / "sizes.csv").open() as text:
        rows = list(csv.DictReader(text))
    assert list(rows[0]) == ["id", "nodes", "edges", "line_edges"]
    assert len(rows) == 12
    refused(call(tmp_path / "sizes.npz", "--neighbors", "9"), "sizes", "do not apply")


def test_a_broken_crystal_is_named_and_may_be_skipped(broken, tmp_path):
    refused(call(broken, "-o", tmp_path / "s.npz"), "crystal 3 (AFLOW-3)", "finite", "--on-error skip")
    assert not (tmp_path / "s.npz").exists()
    result = call(broken, "--on-error", "skip", "--json", "-q", "-o", tmp_path / "s.npz")
    assert result.exit_code == 0
    assert "crystal 3 (AFLOW-3)" in result.stderr
    printed = json.loads(result.stdout)
    assert (printed["graphs"], [entry["index"] for entry in printed["skipped"]]) == (11, [3])
    assert SizeTable.load(tmp_path / "s.npz").settings["skipped"] == printed["skipped"]


def _empty_zip(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "nothing")


WRONG_FILES = {
    "list.json": (lambda path: path.write_text("[]"), "is empty"),
    "dict.json": (lambda path: path.write_text("{}"), "holds a dict"),
    "numbers.json": (lambda path: path.write_text("[1, 2]"), "'atoms'"),
    "cut.json": (lambda path: path.write_text('[{"atoms": '), "can't be read as JSON"),
    "bytes.json": (lambda path: path.write_bytes(b"\xff\xfe\x00\x01"), "can't be read as JSON"),
    "deep.json": (lambda path: path.write_text("[" * 10**6), "can't be read as JSON"),
    "plain.json.gz": (lambda path: path.write_text("[]"), "can't be read as JSON"),
    "plain.json.zip": (lambda path: path.write_text("[]"), "can't be read as JSON"),
    "other.json.zip": (_empty_zip, "0 .json files"),
    "model.pt": (lambda path: path.write_bytes(b"x"), "unsupported dataset format"),
    "sizes.npz": (lambda path: path.write_bytes(b"x"), "not a size table"),
    "folder": (lambda path: path.mkdir(), "no id_prop.csv"),
}


@pytest.mark.parametrize("name", WRONG_FILES)
def test_files_of_the_wrong_kind(name, tmp_path):
    make, word = WRONG_FILES[name]
    make(tmp_path / name)
    refused(call(tmp_path / name), word, name)


def test_a_folder_with_an_empty_list(tmp_path):
    (tmp_path / "id_prop.csv").write_text("\n")
    refused(call(tmp_path), "is empty")


def test_unknown_path(tmp_path):
    refused(call(tmp_path / "nowhere.json"), "nowhere.json", "check the path")


def test_outputs_that_cannot_be(data, tmp_path):
    there = tmp_path / "there.npz"
    there.write_text("precious")
    refused(call(data, "-o", there), "exists", "--force")
    assert there.read_text() == "precious"
    assert call(data, "-o", there, "--force").exit_code == 0
    refused(call(data, "-o", tmp_path / "missing" / "s.npz"), "no folder")
    refused(call(data, "-o", tmp_path / "s.json"), ".npz, .csv, .parquet")


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--neighbors", "0"], "neighbors is 0"),
        (["--cutoff", "-1"], "cutoff is -1.0"),
        (["--cutoff", "nan"], "cutoff is nan"),
        (["--workers", "-2"], "workers is -2"),
        (["--alignn-config", "nowhere.json"], "nowhere.json"),
    ],
)
def test_absurd_options(data, options, word):
    refused(call(data, *options), word)


def test_usage_errors_are_clicks(data):
    assert call(data, "--strategy", "voronoi").exit_code == 2
    assert call().exit_code == 2


def test_a_real_process(broken):
    command = [sys.executable, "-m", "nodebudget", "measure", broken]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("nodebudget: crystal 3 (AFLOW-3) can't be read: ")
    assert len(done.stderr.splitlines()) == 1
