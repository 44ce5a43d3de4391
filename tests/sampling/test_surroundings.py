"""What surrounds a sampler: random states, other iterators, other processes, and datasets of datasets."""

from __future__ import annotations

import os
import pickle
import random
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from generated import SIZES
from paths import FIXTURES, ROOT
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset

from nodebudget import NodeBudgetSampler, SizeTable


def states() -> list[Any]:
    return [random.getstate(), pickle.dumps(np.random.get_state()), torch.random.get_rng_state().tolist()]


def test_random_states_of_the_process_stay_untouched() -> None:
    before = states()
    for options in ({}, {"pack": "dense"}, {"num_replicas": 3, "rank": 1}):
        sampler = NodeBudgetSampler(SIZES, max_nodes=1000, **options)
        first = list(sampler)
        sampler.set_budget(max_nodes=700, consumed=len(first))
        sampler.load_state_dict(sampler.state_dict(consumed=0))
        list(sampler)
    assert states() == before
    random.seed(7)
    np.random.seed(7)
    torch.manual_seed(7)
    assert list(NodeBudgetSampler(SIZES, max_nodes=1000)) == list(NodeBudgetSampler(SIZES, max_nodes=1000))
    again = NodeBudgetSampler(SIZES, max_nodes=1000, num_replicas=3, rank=1)
    assert list(again) == first


def test_two_iterators_taken_in_turns_give_the_same() -> None:
    sampler = NodeBudgetSampler(SIZES, max_nodes=1000)
    whole = list(sampler)
    pairs = list(zip(sampler, sampler, strict=True))
    assert pairs == [(batch, batch) for batch in whole]


@pytest.mark.parametrize("seed", ["1", "77"])
def test_another_process_with_another_hash_seed_plans_the_same(seed: str) -> None:
    code = (
        "from generated import SIZES\nfrom nodebudget import NodeBudgetSampler\n"
        "s = NodeBudgetSampler(SIZES, max_nodes=1000, max_edges=11_000, seed=3)\n"
        "print(s.plan.fingerprint(), sorted(s.state_dict().items()))"
    )
    paths = os.pathsep.join([str(ROOT), str(FIXTURES)])
    environment = {**os.environ, "PYTHONPATH": paths, "PYTHONHASHSEED": seed}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    sampler = NodeBudgetSampler(SIZES, max_nodes=1000, max_edges=11_000, seed=3)
    assert done.stdout.strip() == f"{sampler.plan.fingerprint()} {sorted(sampler.state_dict().items())}"


@pytest.mark.filterwarnings("ignore:.set_vital. is deprecated:UserWarning")  # torchdata calls it
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(("every", "stop"), [(3, 7), (5, 5), (4, 2)])
def test_a_stateful_loader_that_takes_snapshots_now_and_then(workers: int, every: int, stop: int) -> None:
    stateful = pytest.importorskip("torchdata.stateful_dataloader")

    def make() -> Any:
        return stateful.StatefulDataLoader(
            range(1000),
            batch_sampler=NodeBudgetSampler(SIZES, max_nodes=1000, seed=1),
            num_workers=workers,
            collate_fn=list,
            snapshot_every_n_steps=every,
        )

    whole = list(make())
    loader = make()
    going = iter(loader)
    head = [next(going) for _ in range(stop)]
    state = pickle.loads(pickle.dumps(loader.state_dict()))
    del going
    other = make()
    other.load_state_dict(state)
    assert head + list(other) == whole


class Numbers(Dataset[int]):
    """A dataset whose samples are their own index, read a batch at a time."""

    def __init__(self, first: int, count: int) -> None:
        self.first, self.count, self.calls = first, count, 0

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> int:
        return self.first + range(self.count)[index]

    def __getitems__(self, indices: list[int]) -> list[int]:
        self.calls += 1
        return [self[index] for index in indices]


def test_datasets_that_read_a_batch_at_a_time_subsets_and_concatenations() -> None:
    numbers = Numbers(0, 1000)
    sampler = NodeBudgetSampler(SIZES, max_nodes=1000)
    assert list(DataLoader(numbers, batch_sampler=sampler, collate_fn=list)) == list(sampler)
    assert numbers.calls == len(sampler)
    rows = np.arange(5, 400, 3)
    subset = Subset(numbers, rows.tolist())
    part = NodeBudgetSampler(SIZES.take(rows), max_nodes=1000)
    seen = [number for batch in DataLoader(subset, batch_sampler=part, collate_fn=list) for number in batch]
    assert sorted(seen) == rows.tolist()
    both = ConcatDataset([Numbers(0, 600), Numbers(600, 400)])
    joined = NodeBudgetSampler(SizeTable.from_counts(SIZES["nodes"]), max_nodes=1000)
    assert list(DataLoader(both, batch_sampler=joined, collate_fn=list)) == list(joined)
