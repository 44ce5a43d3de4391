"""torchdata's StatefulDataLoader: stopped anywhere and resumed, it gives the batches of the uninterrupted run."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch

from nodebudget import NodeBudgetSampler, RecordError, SizeTable
from nodebudget.integrations import AdvancingSampler

stateful = pytest.importorskip("torchdata.stateful_dataloader")
pytestmark = pytest.mark.filterwarnings("ignore:.set_vital. is deprecated:UserWarning")  # torchdata calls it

SIZES = SizeTable.from_counts(np.random.default_rng(0).integers(5, 30, 59))
EPOCHS = 4


def make(kind: type[NodeBudgetSampler], workers: int = 0, **options: Any) -> tuple[NodeBudgetSampler, Any]:
    sampler = kind(SIZES, max_nodes=150, seed=2)
    options = {"num_workers": workers, "collate_fn": list, **options}
    return sampler, stateful.StatefulDataLoader(range(len(SIZES)), batch_sampler=sampler, **options)


def batches_of(kind: type[NodeBudgetSampler], set_epoch: bool) -> list[list[list[int]]]:
    """Return what an uninterrupted run sees, epoch by epoch."""
    sampler = kind(SIZES, max_nodes=150, seed=2)
    epochs = []
    for epoch in range(EPOCHS):
        if set_epoch:
            sampler.set_epoch(epoch)
        epochs.append(list(sampler))
    return epochs


def stop_in(
    loader: Any, sampler: NodeBudgetSampler, epoch: int, stop: str, set_epoch: bool
) -> tuple[list[Any], dict[str, Any]]:
    """Train to a place in an epoch; return the batches of that epoch until there, and the state, saved and loaded."""
    for number in range(epoch + 1):
        if set_epoch:
            sampler.set_epoch(number)
        if number < epoch:
            assert len(list(loader)) == len(sampler)
    going = iter(loader)
    count = {"before": 0, "inside": 4, "at the last": len(sampler), "after": len(sampler)}[stop]
    head = [next(going) for _ in range(count)]
    if stop == "after":
        assert next(going, None) is None
    file = io.BytesIO()
    torch.save(loader.state_dict(), file)
    file.seek(0)
    return head, torch.load(file)


@pytest.mark.parametrize("stop", ["before", "inside", "at the last", "after"])
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", [NodeBudgetSampler, AdvancingSampler])
@pytest.mark.parametrize("epochs", ["set", "not set", "asked of the sampler"])
def test_a_run_goes_on_as_if_it_had_not_stopped(
    stop: str, workers: int, kind: type[NodeBudgetSampler], epochs: str
) -> None:
    set_epoch = epochs != "not set"
    whole = batches_of(kind, set_epoch)
    sampler, loader = make(kind, workers)
    head, state = stop_in(loader, sampler, 1, stop, set_epoch)
    assert head == whole[1][: len(head)]

    sampler, loader = make(kind, workers)
    loader.load_state_dict(state)
    start = sampler.epoch if epochs == "asked of the sampler" else 2 if stop == "after" else 1
    rest = []
    for epoch in range(start, EPOCHS):
        if set_epoch:
            sampler.set_epoch(epoch)
        rest += list(loader)
    assert head + rest == [batch for batches in whole[1:] for batch in batches]


@pytest.mark.parametrize("again", ["before", "inside", "at the last", "after"])
@pytest.mark.parametrize("kind", [NodeBudgetSampler, AdvancingSampler])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_run_can_be_stopped_as_well(again: str, kind: type[NodeBudgetSampler], workers: int) -> None:
    whole = batches_of(kind, True)
    for stop in ("inside", "after"):
        sampler, loader = make(kind, workers)
        head, state = stop_in(loader, sampler, 0, stop, True)
        sampler, loader = make(kind, workers)
        loader.load_state_dict(state)
        epoch = 1 if stop == "after" else 0
        sampler.set_epoch(epoch)
        going = iter(loader)
        left = len(sampler) - (0 if stop == "after" else len(head))
        count = {"before": 0, "inside": 3, "at the last": left, "after": left}[again]
        seen = head + [next(going) for _ in range(count)]
        if again == "after":
            assert next(going, None) is None
        state = loader.state_dict()
        sampler, loader = make(kind, workers)
        loader.load_state_dict(state)
        for number in range(sampler.epoch, 3):
            sampler.set_epoch(number)
            seen += list(loader)
        assert seen == [batch for batches in whole[:3] for batch in batches]


@pytest.mark.parametrize("stop", ["before", "inside", "at the last", "after"])
@pytest.mark.parametrize("kind", [NodeBudgetSampler, AdvancingSampler])
def test_snapshots_of_every_third_batch(stop: str, kind: type[NodeBudgetSampler]) -> None:
    options = {"workers": 2, "snapshot_every_n_steps": 3}
    whole = batches_of(kind, True)
    sampler, loader = make(kind, **options)
    head, state = stop_in(loader, sampler, 1, stop, True)
    sampler, loader = make(kind, **options)
    loader.load_state_dict(state)
    for epoch in range(2 if stop == "after" else 1, EPOCHS):
        sampler.set_epoch(epoch)
        head += list(loader)
    assert head == [batch for batches in whole[1:] for batch in batches]


@pytest.mark.parametrize("workers", [0, 2])
def test_the_epoch_that_the_loop_sets_after_loading_counts(workers: int) -> None:
    whole = batches_of(NodeBudgetSampler, True)
    sampler, loader = make(NodeBudgetSampler, workers)
    _, state = stop_in(loader, sampler, 0, "inside", True)
    sampler, loader = make(NodeBudgetSampler, workers)
    loader.load_state_dict(state)
    sampler.set_epoch(2)  # what is left of epoch 0 is given up
    assert list(loader) == whole[2]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_state_asked_for_before_the_first_epoch_does_not_fix_the_epoch(workers: int) -> None:
    sampler, loader = make(NodeBudgetSampler, workers)
    assert loader.state_dict()
    sampler.set_epoch(2)
    assert list(loader) == batches_of(NodeBudgetSampler, True)[2]


def test_a_state_of_another_dataset_is_refused_at_once() -> None:
    sampler, loader = make(NodeBudgetSampler)
    _, state = stop_in(loader, sampler, 0, "inside", True)
    other = NodeBudgetSampler(SizeTable.from_counts(np.arange(5, 64)), max_nodes=150, seed=2)
    loader = stateful.StatefulDataLoader(range(59), batch_sampler=other, collate_fn=list)
    with pytest.raises(RecordError, match="another dataset"):
        loader.load_state_dict(state)


class Counted(torch.utils.data.Dataset[int]):
    """A dataset with a state of its own."""

    def __init__(self) -> None:
        self.taken = 0

    def __len__(self) -> int:
        return len(SIZES)

    def __getitem__(self, index: int) -> int:
        self.taken += 1
        return index

    def state_dict(self) -> dict[str, int]:
        return {"taken": self.taken}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.taken = state["taken"]


@pytest.mark.parametrize("stop", ["inside", "after"])
def test_the_state_of_a_dataset_is_loaded_too(stop: str) -> None:
    def make_counted() -> tuple[NodeBudgetSampler, Counted, Any]:
        sampler, data = NodeBudgetSampler(SIZES, max_nodes=150, seed=2), Counted()
        return sampler, data, stateful.StatefulDataLoader(data, batch_sampler=sampler, collate_fn=list)

    sampler, _, loader = make_counted()
    head, state = stop_in(loader, sampler, 0, stop, True)
    sampler, data, loader = make_counted()
    loader.load_state_dict(state)
    sampler.set_epoch(0)
    rest = list(loader)
    assert sorted(graph for batch in head + rest for graph in batch) == list(range(len(SIZES)))
    assert data.taken == len(SIZES)


def test_samplers_of_others_are_left_alone() -> None:
    loader = stateful.StatefulDataLoader(range(10), batch_size=2, collate_fn=list)
    going = iter(loader)
    head = [next(going), next(going)]
    other = stateful.StatefulDataLoader(range(10), batch_size=2, collate_fn=list)
    other.load_state_dict(loader.state_dict())
    assert head + list(other) == list(stateful.StatefulDataLoader(range(10), batch_size=2, collate_fn=list))
