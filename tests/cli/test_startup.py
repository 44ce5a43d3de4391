"""Commands that only plan or read records start without torch, DGL and the slow parts of scipy."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from ctypes.util import find_library
from pathlib import Path

import pytest
from paths import GOLDEN, ROOT

from nodebudget import SizeTable

#: Runs the commands one after the other; prints after each what it has imported of the modules that are watched.
_CODE = """
import contextlib, io, json, sys
from nodebudget.cli import main

loaded = []
for line in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            main(line.split())
        except SystemExit as end:
            assert not end.code, line
    loaded.append(sorted({"torch", "dgl", "scipy", "scipy.signal", "rich.table"} & set(sys.modules)))
print(json.dumps(loaded))
"""

PLANNING = [
    "suggest --reference 35 --batch-size 64 --target 20",
    "suggest --reference a.npz --batch-size 64 --target b.csv --calibration cal.json",
    "plan a.npz --max-nodes 1000 -o plan.npz",
    "plan b.csv --max-nodes 1000 --calibration cal.json --memory 100kB",
    "compare a.npz b.csv --batch-size 4 --calibration cal.json --json",
    "monitor run.jsonl",
    "report run.jsonl cal.json a.npz plan.npz -o page.html",
]
#: With the calibration of a GPU: where there is a GPU, torch is asked whether it is the same one.
OF_A_GPU = [] if find_library("cuda") else ["plan a.npz --calibration gpu.json --memory 100kB"]
SIMULATING = ["suggest --reference a.npz --batch-size 8 --target b.csv --calibration cal.json --memory 100kB"]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    folder: Path = tmp_path_factory.mktemp("startup")
    nodes = range(5, 55)
    for name, factor in (("a.npz", 1), ("b.csv", 2)):
        counts = [[factor * times * count for count in nodes] for times in (1, 12, 150)]
        SizeTable.from_counts(*counts).save(folder / name)
    shutil.copy(GOLDEN / "calibration_v2.json", folder / "cal.json")
    record = {**json.loads((folder / "cal.json").read_text()), "device": {"device": "cuda:0", "name": "a GPU"}}
    (folder / "gpu.json").write_text(json.dumps(record))
    shutil.copy(GOLDEN / "run_v1.jsonl", folder / "run.jsonl")
    done = subprocess.run(
        [sys.executable, "-c", _CODE, json.dumps([*PLANNING, *OF_A_GPU, *SIMULATING])],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    modules = json.loads(done.stdout.splitlines()[-1])
    return {line: set(names) for line, names in zip([*PLANNING, *OF_A_GPU, *SIMULATING], modules, strict=True)}


@pytest.mark.parametrize("line", [*PLANNING, *OF_A_GPU])
def test_planning_and_reading_records_imports_no_framework(line: str, loaded: dict[str, set[str]]) -> None:
    assert loaded[line] == set()


@pytest.mark.parametrize("line", SIMULATING)
def test_simulating_epochs_imports_special_functions_only(line: str, loaded: dict[str, set[str]]) -> None:
    assert loaded[line] <= {"scipy"}
