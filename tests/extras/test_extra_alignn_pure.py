"""The extra `alignn-pure`: ALIGNN without DGL is trained and calibrated, its graphs and caches are measured."""

from __future__ import annotations

import json
import pickle
import warnings

import pytest
from apart import call, need, some_crystals, write_crystals

from nodebudget import Calibration, SizeTable
from nodebudget.datasets.measure import measure
from nodebudget.profiling.open import open_probe
from nodebudget.utils.optional_imports import require
from nodebudget.workloads.registry import load_workload

need("alignn-pure", "alignn", "jarvis", "lmdb", "matscipy", "psutil")

# Ways in which alignn makes tensors are not ours to mend.
pytestmark = pytest.mark.filterwarnings("ignore")

SMALL = {"hidden_features": 16, "alignn_layers": 1, "gcn_layers": 1}


def test_a_step_is_measured():
    workload = load_workload("alignn-pure", "cpu", **SMALL)
    batch = [workload.sample(entry) for entry in some_crystals()]
    assert open_probe("cpu").measure(lambda: workload.step(workload.batch(batch))).requested > 10_000


def test_a_calibration_and_a_plan_for_a_gpu(tmp_path):
    (tmp_path / "small.toml").write_text(
        'workload = "alignn-pure"\n[arguments]\n' + "".join(f"{name} = {value}\n" for name, value in SMALL.items())
    )
    data, workload = write_crystals(tmp_path, 24), tmp_path / "small.toml"
    command = ["calibrate", "--device", "cpu", "--workload", workload, "--data", data, "--probes", 12, "-q"]
    assert call(*command, "--predict-gpu", "8GiB", "-o", tmp_path / "cal.json") == 0
    assert Calibration.load(tmp_path / "cal.json").coefficients["per_line_edge"] >= 0
    sizes = tmp_path / "sizes.npz"
    assert call("measure", data, "--strategy", "pure_torch", "--cutoff", 5, "-o", sizes, "-q", "--no-cache") == 0
    assert call("plan", sizes, "--calibration", tmp_path / "cal.json", "--capacity", "8GiB", "-q") == 0


def test_graphs_are_counted_by_building_them(tmp_path, capsys):
    data = write_crystals(tmp_path)
    assert call("measure", data, "--strategy", "pure_torch", "--json", "-q", "--no-cache") == 0
    assert json.loads(capsys.readouterr().out)["nodes"]["total"] == 12


def test_an_lmdb_of_such_graphs_is_read_where_pickles_are_allowed(tmp_path):
    workload = load_workload("alignn-pure", "cpu", **SMALL)
    with warnings.catch_warnings(), require("lmdb").open(str(tmp_path / "cache"), map_size=2**24) as cache:
        warnings.simplefilter("ignore")
        with cache.begin(write=True) as transaction:
            for number, entry in enumerate(some_crystals()):
                transaction.put(f"{number}".encode(), pickle.dumps(workload.sample(entry)))
    assert call("measure", tmp_path / "cache", "-q") == 2
    assert call("measure", tmp_path / "cache", "--allow-pickle", "-o", tmp_path / "out.npz", "-q", "--no-cache") == 0
    expected = measure(some_crystals(), graphs=workload.graphs)
    assert SizeTable.load(tmp_path / "out.npz")["line_edges"].tolist() == expected["line_edges"].tolist()
