"""A sampler that goes to the next epoch by itself."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest

from nodebudget import SizeTable
from nodebudget.integrations import AdvancingSampler


def make_advancing() -> AdvancingSampler:
    return AdvancingSampler(SizeTable.from_counts(np.arange(1, 60)), max_nodes=100, seed=2)


def epoch_batches(epoch: int) -> list[list[int]]:
    sampler = make_advancing()
    sampler.set_epoch(epoch)
    return list(sampler)


def test_each_iteration_is_the_next_epoch() -> None:
    sampler = make_advancing()
    assert [list(sampler) for _ in range(3)] == [epoch_batches(epoch) for epoch in range(3)]
    sampler.set_epoch(1)
    assert list(sampler) == epoch_batches(1)
    assert list(sampler) == epoch_batches(2)
    next(iter(sampler))  # left in the middle
    assert list(sampler) == epoch_batches(4)


@pytest.mark.parametrize("stop", [0, 3, None])
def test_a_resumed_run_sees_what_an_uninterrupted_one_would(stop: int | None) -> None:
    whole = [batch for epoch in range(3) for batch in epoch_batches(epoch)]
    first = make_advancing()
    seen = list(first)
    going = iter(first)
    seen += [next(going) for _ in range(len(first) if stop is None else stop)]
    state = pickle.loads(pickle.dumps(first.state_dict()))
    again = make_advancing()
    again.load_state_dict(state)
    seen += list(again)
    assert seen == whole[: len(seen)]
    assert len(seen) == len(whole) if stop is None else 2 * len(first)
    assert pickle.loads(pickle.dumps(again)).epoch == again.epoch


@pytest.mark.filterwarnings("ignore:.set_vital. is deprecated:UserWarning")  # torchdata calls it
@pytest.mark.parametrize("workers", [0, 1])
def test_stateful_loader_resumes_in_the_middle(workers: int) -> None:
    stateful = pytest.importorskip("torchdata.stateful_dataloader")

    def make() -> Any:
        return stateful.StatefulDataLoader(
            range(59), batch_sampler=make_advancing(), num_workers=workers, collate_fn=list
        )

    loader = make()
    assert list(loader) == epoch_batches(0)
    going = iter(loader)
    head = [next(going) for _ in range(2)]
    state = loader.state_dict()
    del going
    other = make()
    other.load_state_dict(state)
    assert head + list(other) == epoch_batches(1)
    assert list(other) == epoch_batches(2)
