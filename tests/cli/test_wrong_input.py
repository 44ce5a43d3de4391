"""Wrong input from the command line: one sentence with the value and the next step, the exit code, nothing written."""

from __future__ import annotations

import json

import pytest
import torch
from click.testing import CliRunner
from crystals import entries

from nodebudget import Calibration, SizeTable
from nodebudget.calibration.memory_model import ErrorSummary
from nodebudget.cli import main

#: Command line (files by their name in the folder below), exit code, the value, and the next step.
CASES = {
    "unknown path": ("measure nowhere.json -o out.npz", 2, "'nowhere.json'", "check the path"),
    "empty dataset": ("measure empty.json -o out.npz", 2, "'empty.json' is empty", "check the path"),
    "empty file": (
        "measure nothing.json -o out.npz",
        2,
        "'nothing.json' can't be read as JSON",
        "check that the file is complete",
    ),
    "wrong kind": ("measure notes.txt -o out.npz", 2, "unsupported dataset format: 'notes.txt'", "convert it"),
    "not crystals": ("measure object.json -o out.npz", 2, "holds a dict", "make it such a list"),
    "one broken crystal": ("measure broken.json -o out.npz", 2, "crystal 3 (bad)", "--on-error skip"),
    "negative size": ("plan negative.csv --max-nodes 100 -o out.json", 2, "row 1: -4", "measure the dataset again"),
    "negative maximum": (
        "plan sizes.npz --max-nodes -3 -o out.json",
        2,
        "--max-nodes is -3",
        "the maximum per batch",
    ),
    "zero maximum": ("plan sizes.npz --max-edges 0 -o out.json", 2, "--max-edges is 0", "the maximum per batch"),
    "absurd maximum": (
        "plan sizes.npz --max-edges 1e40 -o out.json",
        2,
        "--max-edges is 1",
        "the maximum per batch",
    ),
    "a maximum in words": (
        "plan sizes.npz --max-edges many -o out.json",
        2,
        "'many'",
        "see 'nodebudget plan",
    ),
    "no budget": ("plan sizes.npz -o out.json", 2, "no budget", "give --max-nodes"),
    "absurd memory": (
        "plan sizes.npz --calibration cal.json --memory 3_potatoes -o out.json",
        2,
        "'3 potatoes'",
        "GiB",
    ),
    "memory alone": ("plan sizes.npz --memory 4GiB -o out.json", 2, "a calibration", "nodebudget calibrate"),
    "a graph over the budget": ("plan sizes.npz --max-nodes 5 -o out.json", 1, "nodes", "--oversized skip"),
    "another schema version": (
        "plan sizes.npz --calibration newer.json --memory 4GiB -o out.json",
        2,
        "schema version 99",
        "make the record again",
    ),
    "a record of another kind": (
        "plan sizes.npz --calibration object.json --memory 4GiB -o out.json",
        2,
        "is not a file of kind 'nodebudget.calibration'",
        "check that it is the right file",
    ),
    "a missing calibration": (
        "suggest --reference 35 --batch-size 64 --target 20 --calibration no.json",
        2,
        "'no.json'",
        "check the path",
    ),
    "batch size of zero": (
        "suggest --reference 35 --batch-size 0 --target 20",
        2,
        "--batch-size is 0",
        "choose a number in this range",
    ),
    "no neighbours": (
        "measure good.json --neighbors 0 -o out.npz",
        2,
        "neighbors is 0",
        "choose a number in this range",
    ),
    "a device that is not there": (
        "calibrate --device banana --data good.json -o out.json",
        2,
        "'banana'",
        "give --device cpu or --gpu 0",
    ),
    "no device": ("calibrate --data good.json -o out.json", 2, "no device", "give --gpu 0, or --device cpu"),
    "a GPU without CUDA": ("calibrate --gpu 0 --data good.json -o out.json", 3, "--gpu 0", "--device cpu"),
    "a workload that raises": (
        "calibrate --device cpu --workload workloads:raising --data good.json -o out.json",
        2,
        "raised ValueError",
        "run it by itself",
    ),
    "no such workload": (
        "calibrate --device cpu --workload workloads:Nothing --data good.json -o out.json",
        2,
        "'Nothing'",
        "name it as module:attribute",
    ),
    "sizes where crystals are needed": (
        "calibrate --device cpu --data sizes.npz -o out.json",
        2,
        "'sizes.npz' holds sizes",
        "give the crystals",
    ),
    "a folder as output": ("measure good.json -o folder.npz", 2, "'folder.npz' is a folder", "name a file in it"),
    "no folder for the output": ("measure good.json -o no/out.npz", 2, "no folder 'no'", "make it"),
    "an unknown command": ("weigh good.json", 2, "'weigh'", "see 'nodebudget --help'"),
    "an unknown option": ("measure good.json --fast", 2, "'--fast'", "see 'nodebudget measure --help'"),
    "an unknown option of the whole": ("--fast measure good.json", 2, "'--fast'", "see 'nodebudget --help'"),
    "nothing to measure": ("measure", 2, "'DATA'", "see 'nodebudget measure --help'"),
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    good = entries(most=8, count=6)
    record = {"kind": "nodebudget.calibration", "schema_version": 99}
    files = {
        "good.json": good,
        "broken.json": [*good[:3], {"jid": "bad", "atoms": {"elements": ["Xx"]}}, *good[3:]],
        "empty.json": [],
        "object.json": {"a": 1},
        "newer.json": record,
    }
    for name, value in files.items():
        (tmp_path / name).write_text(json.dumps(value))
    none = ErrorSummary(0.0, 0.0, 0)
    Calibration({"fixed": 1e6, "per_node": 1e3}, ("nodes",), 0.0, 1e6, none, none).save(tmp_path / "cal.json")
    (tmp_path / "nothing.json").write_text("")
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "negative.csv").write_text("id,nodes,edges,line_edges\na,2,24,288\nb,-4,24,288\n")
    (tmp_path / "folder.npz").mkdir()
    SizeTable.from_counts([4, 9, 12], [48, 100, 140], [500, 1000, 1500]).save(tmp_path / "sizes.npz")
    return tmp_path


@pytest.mark.parametrize("case", CASES)
def test_one_sentence_with_the_value_and_the_next_step(case, folder):
    line, code, value, step = CASES[case]
    if "--gpu 0" in line and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    before = {path.name for path in folder.iterdir()}
    arguments = [word.replace("_potatoes", " potatoes") for word in line.split()]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    said = [row for row in result.stderr.splitlines() if row.startswith("nodebudget: ")]
    assert len(said) == 1, result.stderr
    assert result.stderr.splitlines()[-1] == said[0]
    what, semicolon, hint = said[0].rpartition("; ")
    assert semicolon
    assert value in what, said
    assert step in hint, said
    assert "Traceback" not in result.stderr
    # Sizes that were measured on the way are kept beside the data, for the next try.
    assert {path.name for path in folder.iterdir()} - {".nodebudget"} == before
