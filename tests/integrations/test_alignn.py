"""alignn's own training loop with budget batches, on DGL graphs and on its pure-PyTorch ones."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from crystals import entries

from nodebudget import SizeTable, measure
from nodebudget.errors import InputError, OversizedError
from nodebudget.integrations import budget_loaders, with_budget
from nodebudget.utils.optional_imports import require

# How alignn reads its own pydantic models, and how it compares the prediction for one graph with its target.
pytestmark = [
    pytest.mark.filterwarnings("ignore:The .dict. method is deprecated"),
    pytest.mark.filterwarnings("ignore:Using a target size:UserWarning"),
]

TINY = {
    "alignn_layers": 1,
    "gcn_layers": 1,
    "hidden_features": 8,
    "embedding_features": 8,
    "edge_input_features": 8,
    "triplet_input_features": 8,
    "atom_input_features": 92,
    "calculate_gradient": False,
    "graphwise_weight": 1.0,
    "gradwise_weight": 0.0,
}
KINDS = {False: "alignn_atomwise", True: "alignn_atomwise_pure"}
OUTPUTS = ("history_train.json", "history_val.json", "Test_results.json", "best_model.pt", "current_model.pt")
EPOCHS = 2


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Path:
    """A folder of its own, since alignn writes where it stands; and what it prints is swallowed."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def alignn_loaders(folder: Path, pure: bool, batch_size: int = 4) -> tuple[Any, ...]:
    return require("alignn.data").get_train_val_loaders(
        dataset_array=entries(most=6, count=40),
        target="target",
        n_train=28,
        n_val=7,
        n_test=5,
        batch_size=batch_size,
        output_dir=str(folder),
        filename=str(folder) + "/",
        use_pure_torch=pure,
        neighbor_strategy="pure_torch" if pure else "k-nearest",
        cutoff=5.0 if pure else 8.0,
        pin_memory=False,
    )


def config(folder: Path, pure: bool) -> Any:
    return require("alignn.config").TrainingConfig(
        epochs=EPOCHS,
        batch_size=4,
        output_dir=str(folder),
        random_seed=1,
        learning_rate=1e-3,
        neighbor_strategy="pure_torch" if pure else "k-nearest",
        model={"name": KINDS[pure], **TINY},
    )


def edges_in(graph: Any) -> int:
    return int(graph.num_edges if isinstance(graph.num_edges, int) else graph.num_edges())


def items(loader: Any) -> list[Any]:
    return [loader.dataset[index] for index in range(len(loader.dataset))]


@pytest.mark.parametrize("pure", [False, True], ids=["dgl", "pure"])
def test_a_run_of_train_dgl_ends_with_its_usual_outputs(folder: Path, pure: bool) -> None:
    made = alignn_loaders(folder, pure)
    sizes = measure(made[0].dataset)
    cap = int(sizes["line_edges"].max()) * 4
    loaders = with_budget(made, max_line_edges=cap)
    train, val, test, _ = loaders
    seen: list[int] = []

    def collate(samples: list[Any]) -> Any:
        batch = train.collate_fn(samples)
        seen.append(edges_in(batch[1]))
        return batch

    noting = budget_loaders(train.dataset, val.dataset, test.dataset, max_line_edges=cap, collate_fn=collate)
    assert len(noting[0]) == len(train) > 1
    require("alignn.train").train_dgl(config(folder, pure), train_val_test_loaders=noting)
    for name in OUTPUTS:
        assert (folder / name).exists(), name
    assert len(json.loads((folder / "history_train.json").read_text())) == EPOCHS
    assert np.isfinite(json.loads((folder / "history_val.json").read_text())).all()
    assert len(json.loads((folder / "Test_results.json").read_text())) == 5
    tested = [entry["id"] for entry in json.loads((folder / "Test_results.json").read_text())]
    assert tested == list(test.dataset.ids)
    # The schedule was stepped once a training batch, and its last step is the last of its cycle.
    state = torch.load(folder / "current_state.pt")["scheduler"]
    assert state["last_epoch"] == state["total_steps"] == EPOCHS * len(train)
    assert max(seen) <= cap
    predicted = (folder / "prediction_results_train_set.csv").read_text().splitlines()
    assert len(predicted) == 1 + 28


@pytest.mark.parametrize("pure", [False, True], ids=["dgl", "pure"])
def test_loaders_cover_all_crystals_and_keep_the_order_where_it_counts(folder: Path, pure: bool) -> None:
    made = alignn_loaders(folder, pure)
    train, val, test, prepare = with_budget(made, max_nodes=20, seed=3)
    assert prepare is made[3]
    targets = [[float(t) for batch in train for t in batch[-1]] for _ in range(2)]
    expected = [float(item[-1]) for item in items(made[0])]
    assert sorted(targets[0]) == sorted(targets[1]) == sorted(expected)
    assert targets[0] != targets[1]
    assert [float(t) for batch in val for t in batch[-1]] == [float(item[-1]) for item in items(made[1])]
    assert [batch[-1].tolist() for batch in test] == [[float(item[-1])] for item in items(made[2])]
    assert [loader.dataset.ids for loader in (train, val, test)] == [loader.dataset.ids for loader in made[:3]]
    assert train.batch_sampler.sizes.ids.tolist() == made[0].dataset.ids
    graphs = [item[0] for item in items(made[0])]
    nodes = [graph.num_nodes if pure else graph.num_nodes() for graph in graphs]
    sizes = train.batch_sampler.sizes
    assert sizes["nodes"].tolist() == nodes
    assert sizes["edges"].tolist() == [edges_in(graph) for graph in graphs]
    assert sizes["line_edges"].tolist() == [edges_in(item[1]) for item in items(made[0])]


def test_a_run_that_is_resumed_ends_where_an_uninterrupted_one_does(folder: Path) -> None:
    train_dgl = require("alignn.train").train_dgl
    network = require("alignn.models.alignn_atomwise_pure")

    def run(name: str, epochs: int, start: int = 0) -> dict[str, torch.Tensor]:
        torch.manual_seed(5)
        settings = network.ALIGNNAtomWisePureConfig(name="alignn_atomwise_pure", **TINY)
        model = network.ALIGNNAtomWisePure(settings)
        if start:
            model.load_state_dict(torch.load(folder / name / "current_model.pt"))
        # Made anew, since alignn closes its datasets after a run.
        loaders = with_budget(alignn_loaders(folder, pure=True), max_nodes=20)
        loaders[0].batch_sampler.set_epoch(start)
        one = config(folder / name, pure=True).model_copy(
            update={"epochs": epochs, "lr_total_epochs": EPOCHS, "resume_checkpoint": bool(start)}
        )
        train_dgl(one, model=model, train_val_test_loaders=loaders)
        return dict(torch.load(folder / name / "current_model.pt"))

    whole = run("whole", EPOCHS)
    run("parts", 1)
    parts = run("parts", EPOCHS, start=1)
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_ranks_share_training_and_validation_evenly_and_each_tests_all() -> None:
    data = [Stored([3, 4, 5, 6] * 8), Stored([3] * 7), Stored([3] * 3)]
    made = [budget_loaders(*data, max_nodes=18, num_replicas=2, rank=rank) for rank in (0, 1)]
    for place, dataset in enumerate(data[:2]):
        assert len(made[0][place]) == len(made[1][place])
        seen = [[value for batch in loaders[place] for value in batch] for loaders in made]
        assert sorted(seen[0] + seen[1]) == list(range(len(dataset)))
    assert [list(loaders[2]) for loaders in made] == [[[0.0], [1.0], [2.0]]] * 2


def test_worker_processes(folder: Path) -> None:
    made = alignn_loaders(folder, pure=True)
    train, val, test, _ = with_budget(made, max_nodes=20, num_workers=1)
    for _ in range(2):
        assert sum(len(batch[-1]) for batch in train) == 28
    assert sum(len(batch[-1]) for batch in val) == 7
    assert len(list(test)) == 5


class Stored:
    """A dataset like alignn's, of DGL graphs without line graphs, in memory."""

    line_graph = False

    def __init__(self, sizes: list[int]) -> None:
        self.sizes, self.ids = sizes, [f"crystal-{place}" for place in range(len(sizes))]

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, index: int) -> Any:
        ends = torch.arange(self.sizes[index])
        graph = SimpleNamespace(num_nodes=self.sizes[index], num_edges=self.sizes[index], src=ends, dst=ends)
        return graph, torch.eye(3), torch.tensor(float(index))

    @staticmethod
    def collate(samples: list[Any]) -> list[float]:
        return [float(sample[-1]) for sample in samples]


def test_a_dataset_without_line_graphs_and_without_a_test() -> None:
    train, val, test, prepare = budget_loaders(Stored([3] * 20), Stored([3] * 5), max_nodes=9)
    assert test is None
    assert sorted(value for batch in train for value in batch) == list(range(20))
    assert list(val) == [[0, 1, 2], [3, 4]]
    assert prepare([1], device="cpu") == [1]
    assert set(train.batch_sampler.sizes["edges"].tolist()) == {3}


def test_what_train_dgl_would_fail_on_is_refused_before_it(caplog: pytest.LogCaptureFixture) -> None:
    good, no_ids = Stored([3] * 4), Stored([3] * 4)
    no_ids.ids = []
    with pytest.raises(InputError, match=r"val dataset has 0 ids .*one id per graph"):
        budget_loaders(good, no_ids, max_nodes=9)
    with pytest.raises(InputError, match="the test dataset has no ids"):
        budget_loaders(good, good, [1], max_nodes=9)
    with pytest.raises(InputError, match="not alignn's loaders"):
        with_budget([good, good], max_nodes=9)
    with pytest.raises(InputError, match="train_sizes has 1 rows"):
        budget_loaders(good, good, max_nodes=9, train_sizes=SizeTable.from_counts([3]))
    with pytest.raises(InputError, match="no method collate_line_graph"):
        budget_loaders(SimpleDataset(), SimpleDataset(), max_nodes=9)
    with pytest.raises(InputError, match="no budget"):
        budget_loaders(good, good)
    with pytest.raises(OversizedError, match="crystal-1"):
        budget_loaders(Stored([3, 10]), good, max_nodes=9)
    with caplog.at_level(logging.WARNING, "nodebudget"):
        budget_loaders(Stored([3, 3, 8]), good, max_nodes=9)
    assert "1 of 2 training batches have a single graph" in caplog.text


class SimpleDataset:
    """Graphs and ids, and nothing else of what alignn's datasets have."""

    ids = ("a",)

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> Any:
        return Stored([3])[index]
