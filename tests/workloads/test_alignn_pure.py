"""ALIGNN in plain PyTorch as a workload, which needs no DGL."""

import importlib
import subprocess
import sys

import pytest
import torch
from crystals import alignn_counts, entries
from paths import FIXTURES, ROOT

from nodebudget.calibration.calibrate import CalibrationConfig, calibrate
from nodebudget.datasets.graph_settings import GraphSettings
from nodebudget.datasets.measure import measure
from nodebudget.errors import InputError
from nodebudget.profiling.open import open_probe
from nodebudget.utils.optional_imports import require
from nodebudget.workloads.edge_subsampling import variants_of
from nodebudget.workloads.protocol import collate, to_sample
from nodebudget.workloads.registry import load_workload

pytest.importorskip("alignn")

SMALL = {"hidden_features": 16, "alignn_layers": 1, "gcn_layers": 1, "embedding_features": 8}

CONFIG = ROOT / "configs" / "alignn_pure.toml"

WITHOUT_DGL = """
import sys

class NoDgl:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "dgl":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, NoDgl())
"""


@pytest.fixture(scope="module")
def crystals():
    return entries(most=10, count=40)


def small(**more):
    return load_workload("alignn-pure", **{**SMALL, **more})


def test_the_shipped_file_is_the_built_in_workload():
    shipped, built_in = load_workload(str(CONFIG)), load_workload("alignn-pure")
    assert shipped.config == built_in.config
    assert shipped.graphs == built_in.graphs
    assert built_in.config["hidden_features"] == 256


def test_its_graphs_are_those_that_alignn_builds_for_dgl_and_what_is_measured(crystals):
    pytest.importorskip("dgl")
    workload = small()
    assert workload.graphs == GraphSettings(strategy="pure_torch", cutoff=5.0, three_body_cutoff=3.5)
    sizes = measure(crystals, graphs=workload.graphs)
    for place, crystal in enumerate(crystals[:5]):
        graph, line_graph, lattice, _ = to_sample(workload, crystal)
        atoms = require("jarvis.core.atoms").Atoms.from_dict(crystal["atoms"])
        how = {"neighbor_strategy": "pure_torch", "cutoff": 5.0, "three_body_cutoff": 3.5}
        counts = (graph.num_nodes, graph.num_edges, line_graph.num_edges)
        assert counts == alignn_counts(atoms, **how) == tuple(sizes[name][place] for name in sizes.columns)
        assert lattice.shape == (3, 3)


def test_it_computes_what_alignn_computes(crystals):
    workload = small()
    samples = [to_sample(workload, crystal) for crystal in crystals[:6]]
    dataset = importlib.import_module("alignn.pure_lmdb_dataset").PureTorchLMDBDataset
    theirs = dataset.collate_line_graph(samples)
    ours = workload.batch(samples)
    workload.model.eval()
    with torch.no_grad():
        expected, output = (workload.model(tuple(batch[:3]))["out"] for batch in (theirs, ours))
    assert torch.equal(expected, output)
    assert torch.equal(theirs[3], ours[3])


@pytest.mark.parametrize("calculate_gradient", [False, True], ids=["property", "forces"])
def test_a_step_trains(crystals, calculate_gradient):
    torch.manual_seed(0)
    workload = small(calculate_gradient=calculate_gradient, learning_rate=0.01)
    batch = collate(workload, [{**crystal, "target": 1.0} for crystal in crystals[:8]])

    def loss():
        output = workload.model(batch[:3])["out"].detach()
        return torch.nn.functional.mse_loss(output, batch[3]).item()

    before = loss()
    for _ in range(30):
        workload.step(batch)
    assert loss() < before


def test_forces_take_more_memory(crystals):
    probe, peaks = open_probe("cpu"), []
    for calculate_gradient in (False, True):
        workload = small(calculate_gradient=calculate_gradient)
        samples = [to_sample(workload, crystal) for crystal in crystals[:8]]
        workload.step(workload.batch(samples))
        peaks.append(probe.measure(lambda: workload.step(workload.batch(samples))).requested)  # noqa: B023
    assert peaks[1] > 1.5 * peaks[0]


def test_variants_have_other_ratios_of_sizes(crystals):
    workload = small()
    some = crystals[:10]
    ratios = set()
    for variant in variants_of(workload, some):
        sizes = variant.sizes(some)
        graph, line_graph, *_ = variant.sample(some[0])
        assert (graph.num_edges, line_graph.num_edges) == (sizes["edges"][0], sizes["line_edges"][0])
        ratios.add((int(sizes["edges"].sum()), int(sizes["line_edges"].sum())))
    assert len(ratios) == 3


def test_a_calibration_predicts_what_it_has_not_seen(crystals):
    workload = small(hidden_features=32)
    sizes = measure(crystals, graphs=workload.graphs)
    calibration = calibrate(
        workload, crystals, sizes, open_probe("cpu"), config=CalibrationConfig(probes=15, max_graphs=10)
    )
    held_out = [entry for entry in calibration.observations if entry.role == "holdout"]
    assert held_out
    for entry in held_out:
        assert calibration.predict_bytes(**entry.sizes) == pytest.approx(entry.peak, rel=0.03)
    assert calibration.context["data"]["settings"]["graphs"] == workload.graphs.to_dict()


@pytest.mark.slow
def test_measuring_and_training_need_no_dgl(crystals, tmp_path):
    script = tmp_path / "run.py"
    script.write_text(
        WITHOUT_DGL
        + f"""
sys.path.insert(0, {str(FIXTURES)!r})
from crystals import entries
from nodebudget.datasets.measure import measure
from nodebudget.workloads.protocol import collate
from nodebudget.workloads.registry import load_workload

workload = load_workload("alignn-pure", **{SMALL!r})
crystals = entries(most=4, count=4)
workload.step(collate(workload, crystals))
print(measure(crystals, graphs=workload.graphs)["line_edges"].sum(), "dgl" in sys.modules)
"""
    )
    done = subprocess.run([sys.executable, "-W", "ignore", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    line_edges, loaded = done.stdout.split()
    expected = measure(entries(most=4, count=4), graphs=small().graphs)["line_edges"].sum()
    assert (int(line_edges), loaded) == (expected, "False")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"atom_features": "basic"}, "atom_features is 'basic'"),
        ({"graphs": {"strategy": "k-nearest"}}, "strategy of the graphs is 'k-nearest'"),
    ],
)
def test_settings_that_the_network_is_not_trained_with(arguments, words):
    with pytest.raises(InputError, match=words):
        small(**arguments)


def test_samples_that_are_none():
    workload = small()
    with pytest.raises(InputError, match="a sample of type int"):
        to_sample(workload, 3)
    with pytest.raises(InputError, match="a batch of no samples"):
        workload.batch([])
