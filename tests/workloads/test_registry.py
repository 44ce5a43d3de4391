"""Finding workloads, and real ALIGNN as one."""

import pytest
import tomllib
import torch
from crystals import alignn_graphs, entries, small_prototypes
from paths import FIXTURES, ROOT

from nodebudget.datasets.graph_settings import GraphSettings
from nodebudget.datasets.measure import measure
from nodebudget.errors import InputError, WorkloadError
from nodebudget.workloads.protocol import collate, dtype_of, parameter_count, resident_bytes, to_sample
from nodebudget.workloads.registry import load_workload

CONFIG = ROOT / "configs" / "alignn.toml"
SMALL = {"hidden_features": 16, "alignn_layers": 1, "gcn_layers": 1, "embedding_features": 8}


@pytest.fixture(autouse=True)
def _in_tests(monkeypatch):
    monkeypatch.chdir(FIXTURES)


def test_the_shipped_file_is_the_built_in_workload():
    shipped, built_in = load_workload(str(CONFIG)), load_workload("alignn")
    assert shipped.config == built_in.config
    assert shipped.graphs == built_in.graphs == GraphSettings()
    assert built_in.config["hidden_features"] == 256
    assert tomllib.loads(CONFIG.read_text())["arguments"].keys() >= {"hidden_features", "graphs"}


def test_alignn_makes_the_graphs_that_alignn_makes():
    workload = load_workload("alignn", **SMALL)
    atoms = small_prototypes(4)[0]
    graph, line_graph, lattice, target = to_sample(workload, {"atoms": atoms.to_dict(), "target": 2.5})
    theirs, their_lines = alignn_graphs(atoms)
    assert (graph.num_nodes(), graph.num_edges()) == (theirs.num_nodes(), theirs.num_edges())
    assert line_graph.num_edges() == their_lines.num_edges()
    assert torch.allclose(graph.edata["r"], theirs.edata["r"])
    assert lattice.shape == (3, 3)
    assert target.item() == 2.5


def test_a_step_of_alignn_trains():
    torch.manual_seed(0)
    workload = load_workload("alignn", learning_rate=0.01, **SMALL)
    batch = collate(workload, entries(most=4, count=8))
    losses = []
    for _ in range(30):
        with torch.no_grad():
            predicted = workload.model(batch[:3]).reshape(-1)
            losses.append(torch.nn.functional.mse_loss(predicted, batch[3]).item())
        workload.step(batch)
    assert losses[-1] < 0.5 * losses[0]


def test_alignn_takes_graphs_as_well_as_crystals():
    workload = load_workload("alignn", **SMALL)
    graph, line_graph = alignn_graphs(small_prototypes(4)[0], atom_features="cgcnn")
    for item in (graph, (graph, line_graph), (graph, line_graph, torch.tensor(1.0))):
        workload.step(collate(workload, [item, item]))
    counts = [measure([to_sample(workload, item)]).statistics() for item in (graph, (graph, line_graph))]
    assert counts[0] == counts[1]


def test_what_can_be_counted_of_a_workload():
    workload = load_workload("workloads:Linear", width=100)
    assert parameter_count(workload) == 200
    assert dtype_of(workload) == "float32"
    assert resident_bytes(workload) == 800
    workload.step(workload.batch([torch.ones(3, 1)]))
    assert resident_bytes(workload) == 1600  # and the gradients


def test_adamw_keeps_two_more_copies_of_the_parameters():
    workload = load_workload("alignn", **SMALL)
    workload.step(collate(workload, entries(most=4, count=4)))
    parameters = 4 * parameter_count(workload)
    assert resident_bytes(workload) == pytest.approx(4 * parameters, rel=0.05)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("nonsense", "is not a workload"),
        ("no_such_module:Thing", "does not import"),
        ("workloads:Nothing", "has no callable 'Nothing'"),
        ("workloads:NOT_CALLABLE", "has no callable"),
        ("workloads:not_one", "it has no model, optimizer, batch, step"),
        ("missing.toml", "the workload file"),
    ],
)
def test_what_is_no_workload_is_refused(spec, words):
    with pytest.raises(InputError, match=words):
        load_workload(spec)


def test_a_workload_that_raises_while_it_is_made():
    with pytest.raises(WorkloadError, match="RuntimeError: no weights"):
        load_workload("workloads:broken")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("workload = ", "is not TOML"),
        ("other = 1", "names no workload"),
        ('workload = "a:b"\narguments = 3', "names no workload"),
    ],
)
def test_a_file_that_names_no_workload(tmp_path, text, words):
    path = tmp_path / "w.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=words):
        load_workload(str(path))
