"""Loaders that count for themselves, when the budget changes in the middle of an epoch."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from generated import NODES, SIZES, train

from nodebudget.integrations.advancing import AdvancingSampler
from nodebudget.sampling.sampler import NodeBudgetSampler


def test_a_sampler_that_advances_by_itself_goes_on_with_the_rest() -> None:
    sampler = AdvancingSampler(SIZES, max_nodes=1000)
    head = train([sampler], 5)
    sampler.set_budget(max_nodes=500, consumed=5)
    rest = list(sampler)
    assert sampler.epoch == 0
    assert sorted(graph for batch in head + rest for graph in batch) == list(range(1000))
    assert len(list(sampler)) == len(sampler)
    assert sampler.epoch == 1
    sampler.set_budget(max_nodes=1000)
    list(sampler)
    assert sampler.epoch == 2


@pytest.mark.filterwarnings("ignore:.set_vital. is deprecated:UserWarning")  # torchdata calls it
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("world", [1, 2])
def test_stateful_loader_goes_on_after_a_change(workers: int, world: int) -> None:
    stateful = pytest.importorskip("torchdata.stateful_dataloader")

    def make(rank: int, world: int) -> tuple[NodeBudgetSampler, Any]:
        sampler = NodeBudgetSampler(SIZES, max_nodes=1000, num_replicas=world, rank=rank)
        loader = stateful.StatefulDataLoader(range(1000), batch_sampler=sampler, num_workers=workers, collate_fn=list)
        return sampler, loader

    sampler, loader = make(0, 1)
    going = iter(loader)
    trained = [next(going) for _ in range(4)]
    del going
    sampler.set_budget(max_nodes=600, consumed=4)
    going = iter(loader)
    trained += [next(going) for _ in range(3)]
    state = pickle.loads(pickle.dumps(loader.state_dict()))
    del going
    for rank in range(world):
        _, other = make(rank, world)
        other.load_state_dict(state)
        rest = list(other)
        assert max(sum(NODES[batch]) for batch in rest) <= 600
        trained += rest
    assert sorted(graph for batch in trained for graph in batch) == list(range(1000))
