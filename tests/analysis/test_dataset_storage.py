"""What graphs take on disk and in memory: against real files of DGL, alignn and PyG."""

import json
import runpy

import pytest
from click.testing import CliRunner
from crystals import entries
from paths import ROOT

from nodebudget import SizeTable
from nodebudget.analysis.dataset_storage import dataset_storage
from nodebudget.cli import main
from nodebudget.report.sizes import storage_report
from nodebudget.utils.optional_imports import load_dgl, require

#: Of the packages that write the files.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

SIZES = SizeTable.from_counts([10, 20, 30], [120, 250, 380], [1400, 3000, 4800])


@pytest.fixture(scope="module")
def files():
    for package in ("lmdb", "torch_geometric"):
        pytest.importorskip(package)
    return runpy.run_path(str(ROOT / "scripts" / "benchmarks" / "host_memory.py"))


@pytest.fixture(scope="module")
def pairs(files):
    return files["built"](entries()) * 8


@pytest.fixture(scope="module")
def storage(pairs):
    counts = [(graph.num_nodes(), graph.num_edges(), line.num_edges()) for graph, line in pairs]
    return dataset_storage(SizeTable.from_counts(*zip(*counts, strict=True)))


def test_the_file_of_dgl(files, pairs, storage, tmp_path):
    written = files["write_dgl"](pairs, tmp_path).stat().st_size
    assert storage["dgl"].disk == pytest.approx(written, rel=0.001)


def test_the_cache_of_alignn(files, storage, tmp_path):
    written = files["write_lmdb"](entries() * 8, tmp_path).stat().st_size
    assert storage["alignn_lmdb"].disk == pytest.approx(written, rel=0.02)


def test_the_file_and_the_tensors_of_pyg(files, pairs, storage, tmp_path):
    path = files["write_pyg"](pairs, tmp_path)
    assert storage["pyg"].disk == pytest.approx(path.stat().st_size, rel=0.01)
    data, slices, _ = require("torch").load(path, weights_only=False)
    tensors = [value for value in (*data.values(), *slices.values()) if hasattr(value, "nbytes")]
    assert storage["pyg"].process == sum(tensor.nbytes for tensor in tensors)


def test_graphs_without_line_graphs(pairs, tmp_path):
    graphs = [graph for graph, _ in pairs]
    load_dgl().save_graphs(str(tmp_path / "g.bin"), graphs)
    sizes = SizeTable.from_counts([g.num_nodes() for g in graphs], [g.num_edges() for g in graphs])
    assert dataset_storage(sizes)["dgl"].disk == pytest.approx((tmp_path / "g.bin").stat().st_size, rel=0.001)


@pytest.mark.parametrize("command", [["measure", "--no-cache"], ["plan", "--max-nodes", "40"]])
def test_commands_say_it(command, tmp_path):
    SIZES.save(tmp_path / "sizes.npz")
    name, *further = command
    printed = CliRunner().invoke(main, [name, str(tmp_path / "sizes.npz"), *further, "--json"])
    stored = dataset_storage(SIZES)["pyg"]
    assert json.loads(printed.stdout)["storage"]["pyg"] == {
        "disk": stored.disk,
        "process": stored.process,
        "worker": stored.worker,
    }
    assert "alignn's LMDB" in CliRunner().invoke(main, [name, str(tmp_path / "sizes.npz"), *further]).stdout


def test_the_doctor_compares_it_with_free_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("nodebudget.analysis.environment._PACKAGES", ())
    SIZES.save(tmp_path / "sizes.npz")
    printed = CliRunner().invoke(main, ["doctor", str(tmp_path / "sizes.npz"), "--json"])
    assert json.loads(printed.stdout)["storage"].keys() == dataset_storage(SIZES).keys()
    absent = CliRunner().invoke(main, ["doctor", str(tmp_path / "absent.npz")])
    assert (absent.exit_code, absent.stdout) == (2, "")


def test_what_does_not_fit_is_named():
    (advice,) = storage_report(SIZES, free=100).advice
    assert "100 B of host memory are free: too little for dgl.save_graphs, PyG's InMemoryDataset." in advice.text
    assert storage_report(SIZES, free=2**40).advice == []


def test_nothing_is_computed_for_samples_that_are_no_graphs():
    sizes = SizeTable.from_counts([10, 20])
    assert dataset_storage(sizes) == {}
    assert storage_report(sizes).tables == ()


def test_sizes_of_no_graphs_and_of_more_than_int64_has_bytes_for():
    assert dataset_storage(SizeTable.from_counts([], [], []))["pyg"].worker == 0
    huge = dataset_storage(SizeTable.from_counts([2**61], [2**61], [2**61]))
    assert huge["alignn_lmdb"].disk == pytest.approx(2**61 * (384 + 40 + 20))
