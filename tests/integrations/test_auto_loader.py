"""A calibrated budget in one line, in a plain loop."""

from __future__ import annotations

import logging
import random
from copy import deepcopy
from itertools import chain
from typing import Any

import numpy as np
import pytest
import torch
from atom_net import GRAPHS, Training, dgl_graphs, join, pyg_graphs
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler, SubsetRandomSampler

from nodebudget import AutoOptions, DoesNotFitError, InputError, SizeTable, WorkloadError, auto_loader
from nodebudget.profiling.cpu import CpuProbe
from nodebudget.utils.optional_imports import require

PygLoader = require("torch_geometric.loader").DataLoader
DglLoader = require("dgl.dataloading").GraphDataLoader

MEMORY = "1MiB"


def loader_of(kind: str, **options: Any) -> DataLoader[Any]:
    options = {"batch_size": 8, "shuffle": True, **options}
    if kind == "torch":
        return DataLoader(dgl_graphs(), collate_fn=join, **options)
    if kind == "DGL":
        return DglLoader(dgl_graphs(), **options)
    return PygLoader(pyg_graphs(), **options)


def with_budget(training: Training, loader: Any, **options: Any) -> Any:
    options = {"memory": MEMORY, "cache": None, "restore": [training.scheduler], **options}
    return auto_loader(loader, training.step, model=training.model, optimizer=training.optimizer, **options)


def train(training: Training, loader: Any) -> list[list[int]]:
    """Train for an epoch; return the graphs of each batch."""
    training.trained_on.clear()
    for batch in loader:
        training.step(batch)
    return [*training.trained_on]


@pytest.mark.parametrize("kind", ["torch", "DGL", "PyG"])
def test_a_loader_of_the_same_kind_whose_batches_fill_the_memory(kind):
    training, plain = Training(), loader_of(kind)
    loader = with_budget(training, plain)
    assert type(loader) is type(plain)
    assert loader.dataset is plain.dataset
    assert loader.collate_fn is plain.collate_fn
    assert plain.batch_size == 8  # the user's loader does not change
    assert loader.batch_sampler.calibration.holdout.mape < 0.02
    epochs = [train(training, loader) for _ in range(2)]
    for batches in epochs:
        assert sorted(graph for batch in batches for graph in batch) == list(range(GRAPHS))
        assert len(batches) == len(loader) > 2
    assert epochs[0] != epochs[1]
    resident = sum(t.nbytes for t in [*training.model.parameters(), *training.model.buffers()])
    resident += sum(p.grad.nbytes for p in training.model.parameters())
    resident += sum(t.nbytes for state in training.optimizer.state.values() for t in state.values())
    batches = [*loader]
    peaks = [
        resident
        + CpuProbe()
        .measure(lambda place=place: training.step(loader.collate_fn([loader.dataset[i] for i in place])))
        .requested
        for place in loader.batch_sampler
    ]
    assert len(batches) == len(peaks)
    assert max(peaks) <= 2**20
    assert np.mean(peaks) > 0.9 * 2**20 * len(peaks) / (len(peaks) + 1)


def test_the_loader_keeps_workers_pinning_and_all_else():
    def seed(worker: int) -> None: ...

    generator = torch.Generator()
    options = {
        **{"num_workers": 2, "worker_init_fn": seed, "generator": generator, "timeout": 60, "prefetch_factor": 3},
        **{"persistent_workers": True, "multiprocessing_context": "fork", "pin_memory": False},
    }
    training, plain = Training(), loader_of("torch", **options)
    state = generator.get_state()
    loader = with_budget(training, plain)
    assert torch.equal(generator.get_state(), state)
    for name in options:
        assert getattr(loader, name) is getattr(plain, name), name
    for _ in range(2):
        assert sorted(chain(*train(training, loader))) == list(range(GRAPHS))


def state_of(training: Training, average: torch.nn.Module) -> dict[str, Any]:
    return deepcopy(
        {
            "model": training.model.state_dict(),
            "gradients": [parameter.grad for parameter in training.model.parameters()],
            "modes": [module.training for module in training.model.modules()],
            "optimizer": training.optimizer.state_dict(),
            "scheduler": training.scheduler.state_dict(),
            "average": average.state_dict(),
            "python": random.getstate(),
            "numpy": np.random.get_state(),
            "torch": torch.get_rng_state(),
        }
    )


def assert_equal(first: Any, second: Any) -> None:
    torch.testing.assert_close(first, second, rtol=0, atol=0, equal_nan=True) if isinstance(
        first, torch.Tensor
    ) else None
    assert type(first) is type(second)
    if isinstance(first, dict):
        assert first.keys() == second.keys()
        for key in first:
            assert_equal(first[key], second[key])
    elif isinstance(first, (list, tuple)):
        assert len(first) == len(second)
        for one, other in zip(first, second, strict=True):
            assert_equal(one, other)
    elif isinstance(first, np.ndarray):
        assert np.array_equal(first, second)
    elif not isinstance(first, torch.Tensor):
        assert first == second


@pytest.mark.parametrize("warm", [False, True])
def test_what_calibrating_changes_is_put_back(warm):
    training = Training()
    average = torch.optim.swa_utils.AveragedModel(training.model)
    plain = loader_of("torch")

    def step(batch: Any) -> None:
        random.random(), np.random.rand()
        training.model.train()
        training.step(batch)
        average.update_parameters(training.model)

    if warm:  # in the middle of a run
        for _, batch in zip(range(3), plain, strict=False):
            step(batch)
    tensors = {name: tensor.data_ptr() for name, tensor in training.model.state_dict().items()}
    before = state_of(training, average)
    states = {id(entry): value for entry, value in training.optimizer.state.items()}
    auto_loader(
        plain,
        step,
        model=training.model,
        optimizer=training.optimizer,
        memory=MEMORY,
        cache=None,
        restore=[training.scheduler, average],
    )
    assert training.steps > 10
    assert_equal(state_of(training, average), before)
    assert {name: tensor.data_ptr() for name, tensor in training.model.state_dict().items()} == tensors
    assert {id(entry): value for entry, value in training.optimizer.state.items()} == states


def test_what_calibrating_changes_is_put_back_where_the_step_fails():
    training, calls = Training(), []

    def fails_later(batch: Any) -> None:
        training.step(batch)
        calls.append(1)
        if len(calls) > 6:
            raise KeyError("no such thing")

    before = deepcopy(training.model.state_dict())
    with pytest.raises(WorkloadError, match="KeyError"):
        auto_loader(
            loader_of("torch"),
            fails_later,
            model=training.model,
            optimizer=training.optimizer,
            memory=MEMORY,
            cache=None,
        )
    assert_equal(training.model.state_dict(), before)
    assert not training.optimizer.state


def test_a_second_start_measures_nothing_and_another_setting_is_named(tmp_path, caplog):
    caplog.set_level(logging.INFO, "nodebudget")
    cache = str(tmp_path / "kept")
    first = with_budget(Training(), loader_of("torch"), cache=cache)
    assert "has no calibration yet" in caplog.messages[0]
    assert len(caplog.messages) <= 3
    caplog.clear()
    training = Training()
    second = with_budget(training, loader_of("torch"), cache=cache)
    assert training.steps == 0
    assert "calibration from" in caplog.messages[0]
    assert [*second.batch_sampler] == [*first.batch_sampler]
    for changed, words in (
        (
            lambda: with_budget(Training(optimizer="SGD"), loader_of("torch"), cache=cache),
            "optimizer was AdamW, is SGD",
        ),
        (lambda: with_budget(Training(width=20), loader_of("torch"), cache=cache), "number of parameters was"),
    ):
        caplog.clear()
        changed()
        assert words in caplog.messages[0]


def test_a_state_resumes_in_the_middle_of_an_epoch():
    training = Training()
    whole = with_budget(training, loader_of("torch"))
    expected = [train(training, whole) for _ in range(3)]
    again = with_budget(training, loader_of("torch"))
    train(training, again)
    training.trained_on.clear()
    for _, batch in zip(range(2), again, strict=False):
        training.step(batch)
    assert training.trained_on == expected[1][:2]
    state = again.batch_sampler.state_dict(consumed=2)
    resumed = with_budget(training, loader_of("torch"))
    resumed.batch_sampler.load_state_dict(state)
    assert train(training, resumed) == expected[1][2:]
    assert train(training, resumed) == expected[2]


def test_a_subset_that_the_loader_draws_stays_the_subset():
    chosen = [*range(0, GRAPHS, 2)]
    training = Training()
    loader = with_budget(training, loader_of("torch", shuffle=None, sampler=SubsetRandomSampler(chosen)))
    assert sorted(chain(*train(training, loader))) == chosen


def test_a_loader_that_does_not_shuffle_keeps_the_order_of_its_dataset():
    training = Training()
    loader = with_budget(training, loader_of("torch", shuffle=False))
    assert [*chain(*loader.batch_sampler)] == [*range(GRAPHS)]


@pytest.mark.parametrize("pack", [None, "dense"])
def test_a_step_that_only_predicts(pack):
    training, plain = Training(), loader_of("PyG", shuffle=False)
    before = deepcopy(training.model.state_dict())
    loader = auto_loader(
        plain, training.predict, model=training.model, memory="400KiB", cache=None, options=AutoOptions(pack=pack)
    )
    assert_equal(training.model.state_dict(), before)
    assert training.model.training
    rows = [*loader.batch_sampler]
    assert sorted(chain(*rows)) == [*range(GRAPHS)]
    in_order = [*chain(*rows)] == [*range(GRAPHS)]
    assert in_order is (pack is None)
    predicted = {
        index: value
        for batch in rows
        for index, value in zip(
            batch, training.predict(plain.collate_fn([plain.dataset[i] for i in batch])), strict=True
        )
    }
    alone = [training.predict(plain.collate_fn([plain.dataset[i]]))[0] for i in range(GRAPHS)]
    assert [predicted[index] for index in range(GRAPHS)] == pytest.approx(alone, rel=1e-4)


def test_a_step_that_trains_without_an_optimizer_given_is_refused():
    training = Training()
    before = deepcopy(training.model.state_dict())
    with pytest.raises(InputError, match="no optimizer was given"):
        auto_loader(loader_of("torch"), training.step, model=training.model, memory=MEMORY, cache=None)
    assert_equal(training.model.state_dict(), before)


@pytest.mark.parametrize("kind", ["DGL", "PyG"])
def test_a_dataset_in_place_of_a_loader(kind):
    training = Training()
    loader = with_budget(training, dgl_graphs() if kind == "DGL" else pyg_graphs())
    assert isinstance(loader, DglLoader if kind == "DGL" else PygLoader)
    assert sorted(chain(*train(training, loader))) == list(range(GRAPHS))
    if kind == "DGL":
        loader = with_budget(training, dgl_graphs(), collate_fn=join)
        assert type(loader) is DataLoader
        assert sorted(chain(*train(training, loader))) == list(range(GRAPHS))


class Clouds(Dataset[Any]):
    """Samples that are not graphs."""

    def __len__(self) -> int:
        return 60

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.ones(5 + 7 * index % 23, 3)


def test_samples_that_are_not_graphs_are_counted_by_a_function_or_come_with_sizes():
    model = torch.nn.Linear(3, 32)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def step(batch: torch.Tensor) -> None:
        optimizer.zero_grad()
        model(batch).square().mean().backward()
        optimizer.step()

    table = SizeTable.from_counts(nodes=[len(sample) for sample in (Clouds()[i] for i in range(60))])
    plans = []
    for sizes in (lambda sample: {"nodes": len(sample)}, table):
        loader = auto_loader(
            *(Clouds(), step),
            **{"model": model, "optimizer": optimizer, "memory": "64KiB", "cache": None, "collate_fn": torch.cat},
            options=AutoOptions(sizes=sizes),
        )
        plans.append([*loader.batch_sampler])
    assert plans[0] == plans[1]
    assert len(plans[0]) > 2
    with pytest.raises(InputError, match="AutoOptions"):
        auto_loader(Clouds(), step, model=model, optimizer=optimizer, cache=None, collate_fn=torch.cat)


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter(dgl_graphs())


@pytest.mark.parametrize(
    ("loader", "words"),
    [
        (lambda: DataLoader(Stream(), collate_fn=join), "no length"),
        (lambda: DataLoader(dgl_graphs(), batch_size=None), "batch_size=None"),
        (lambda: loader_of("torch", shuffle=None, sampler=RandomSampler(range(80), replacement=True)), "drawn by"),
        (lambda: DataLoader(dgl_graphs(), batch_sampler=[[1, 2], [3]], collate_fn=join), "come from a list"),
        (lambda: 7, "neither a loader nor a dataset"),
        (lambda: [], "empty"),
    ],
)
def test_what_does_not_draw_each_sample_once_is_refused_before_anything_runs(loader, words):
    training = Training()
    with pytest.raises(InputError, match=words):
        with_budget(training, loader())
    assert training.steps == 0


@pytest.mark.parametrize("options", [{"memory": "110%"}, {"memory": "much"}, {"graphs_per_step": 0}, {"restore": [7]}])
def test_wrong_arguments_are_refused_before_anything_runs(options):
    training = Training()
    with pytest.raises(InputError):
        with_budget(training, loader_of("torch"), **options)
    with pytest.raises(InputError, match="model"):
        auto_loader(loader_of("torch"), training.step, optimizer=training.optimizer)
    assert training.steps == 0


def test_memory_that_no_step_fits_is_refused():
    with pytest.raises(DoesNotFitError):
        with_budget(Training(), loader_of("torch"), memory="30KiB")


def test_a_second_start_has_the_plan_of_the_first_though_other_memory_is_free(tmp_path, monkeypatch):
    plans = []
    for free in (2**21, 2**21 - 300_000):
        monkeypatch.setattr(CpuProbe, "free_bytes", lambda self, free=free: free)
        loader = with_budget(Training(), loader_of("torch"), memory="auto", cache=str(tmp_path))
        plans.append((loader.batch_sampler.budget.memory, [*loader.batch_sampler]))
    assert plans[0] == plans[1]
    monkeypatch.setattr(CpuProbe, "free_bytes", lambda self: 2**20)
    loader = with_budget(Training(), loader_of("torch"), memory="auto", cache=str(tmp_path))
    assert loader.batch_sampler.budget.memory < 2**20


def test_an_effective_batch_size_is_made_of_micro_batches_where_it_does_not_fit():
    training = Training()
    whole = with_budget(training, loader_of("torch"), graphs_per_step=10, memory="2MiB")
    assert (len(whole), whole.batch_sampler.accumulate) == (8, 1)
    assert [len(batch) for batch in whole.batch_sampler] == [10] * 8
    split = with_budget(training, loader_of("torch"), graphs_per_step=40)
    assert split.batch_sampler.accumulate > 1
    assert len(split) == 2 * split.batch_sampler.accumulate
    sizes = [len(batch) for batch in split.batch_sampler]
    assert sum(sizes[: split.batch_sampler.accumulate]) == 40
