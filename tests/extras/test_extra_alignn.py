"""The extra `alignn`: the built-in workload trains and is calibrated; its caches are read."""

from __future__ import annotations

import json
import pickle
import warnings

import pytest
from apart import call, need, some_crystals, write_crystals

from nodebudget import Calibration, SizeTable, measure
from nodebudget.profiling.open import open_probe
from nodebudget.utils.optional_imports import require
from nodebudget.workloads.registry import load_workload

need("alignn", "alignn", "dgl", "jarvis", "lmdb", "matscipy", "psutil")

# Ways in which alignn makes tensors are not ours to mend.
pytestmark = pytest.mark.filterwarnings("ignore")

SMALL = {"hidden_features": 16, "alignn_layers": 1, "gcn_layers": 1}


def test_a_step_is_measured():
    workload = load_workload("alignn", "cpu", **SMALL)
    batch = [workload.sample(entry) for entry in some_crystals()]
    assert open_probe("cpu").measure(lambda: workload.step(workload.batch(batch))).requested > 10_000


def test_a_calibration(tmp_path):
    (tmp_path / "small.toml").write_text(
        'workload = "alignn"\n[arguments]\n' + "".join(f"{name} = {value}\n" for name, value in SMALL.items())
    )
    data, workload = write_crystals(tmp_path, 24), tmp_path / "small.toml"
    command = ["calibrate", "--device", "cpu", "--workload", workload, "--data", data, "--probes", 12, "-q"]
    assert call(*command, "-o", tmp_path / "cal.json") == 0
    assert Calibration.load(tmp_path / "cal.json").coefficients["per_line_edge"] >= 0


@pytest.mark.parametrize("strategy", ["pure_torch", "fast_graph"])
def test_graphs_that_only_alignn_builds(strategy, tmp_path, capsys):
    data = write_crystals(tmp_path)
    assert call("measure", data, "--strategy", strategy, "--json", "-q", "--no-cache") == 0
    assert json.loads(capsys.readouterr().out)["nodes"]["total"] == 12


def test_an_lmdb_is_read_where_pickles_are_allowed(tmp_path):
    workload = load_workload("alignn", "cpu", **SMALL)
    with warnings.catch_warnings(), require("lmdb").open(str(tmp_path / "cache"), map_size=2**24) as cache:
        warnings.simplefilter("ignore")
        with cache.begin(write=True) as transaction:
            for number, entry in enumerate(some_crystals()):
                record = pickle.dumps(workload.sample(entry))
                transaction.put(f"{number}".encode(), record)
    assert call("measure", tmp_path / "cache", "-q") == 2
    assert call("measure", tmp_path / "cache", "--allow-pickle", "-o", tmp_path / "out.npz", "-q", "--no-cache") == 0
    found = SizeTable.load(tmp_path / "out.npz")
    assert found["line_edges"].tolist() == measure(some_crystals())["line_edges"].tolist()


def test_doctor_finds_nothing_missing_for_calibrating(capsys):
    assert call("doctor", "-q") in (0, 3)
    assert "is missing" not in capsys.readouterr().err
