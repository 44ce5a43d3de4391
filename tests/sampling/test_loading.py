"""What users' loaders do: threads, datasets that raise now and then, batches of every kind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from crystals import entries
from torch.utils.data import DataLoader, Dataset

from nodebudget import MemoryMonitor, NodeBudgetSampler, SizeTable
from nodebudget.datasets.measure import measure
from nodebudget.monitor.batch_sizes import sizes_of
from nodebudget.monitor.log_reader import read_run
from nodebudget.utils.optional_imports import load_dgl
from nodebudget.workloads.alignn import AlignnWorkload

NODES = np.random.default_rng(0).integers(5, 30, 200)
SIZES = SizeTable.from_counts(NODES, NODES * 4)


def test_threads_that_iterate_one_sampler_see_the_same() -> None:
    sampler = NodeBudgetSampler(SIZES, max_nodes=150)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(list, [sampler] * 32))
    assert all(batches == found[0] for batches in found)
    assert found[0] == list(NodeBudgetSampler(SIZES, max_nodes=150))


def test_threads_plan_by_themselves() -> None:
    def epoch(number: int) -> list[list[int]]:
        sampler = NodeBudgetSampler(SIZES, max_nodes=150, seed=number)
        sampler.set_epoch(number)
        return list(sampler)

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(epoch, range(16)))
    assert found == [epoch(number) for number in range(16)]


class Failing(Dataset[int]):
    """Raises for some indices, as a file system does now and then."""

    def __init__(self, bad: set[int]) -> None:
        self.bad = bad

    def __getitem__(self, index: int) -> int:
        if index in self.bad:
            raise OSError(5, "Input/output error")
        return index

    def __len__(self) -> int:
        return len(NODES)


def plain(samples: list[int]) -> list[int]:
    return samples


def take(loader: DataLoader[int]) -> Iterator[list[int] | None]:
    """Iterate on where a sample could not be read: None for its batch."""
    going = iter(loader)
    while True:
        try:
            yield next(going)
        except StopIteration:
            return
        except OSError:
            yield None


@pytest.mark.parametrize("workers", [0, 2])
def test_a_batch_that_cannot_be_read_costs_that_batch_alone(workers: int) -> None:
    sampler = NodeBudgetSampler(SIZES, max_nodes=150)
    whole = list(sampler)
    loader = DataLoader(Failing({3, 77}), batch_sampler=sampler, num_workers=workers, collate_fn=plain)
    assert list(take(loader)) == [None if {3, 77} & set(batch) else batch for batch in whole]
    assert None in list(take(loader))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_that_failed_on_a_sample_goes_on_with_its_batch(workers: int, tmp_path: Any) -> None:
    sampler = NodeBudgetSampler(SIZES, max_nodes=150)
    whole = list(sampler)
    data = Failing({77})
    trained: list[list[int]] = []

    def train() -> None:
        loader = DataLoader(data, batch_sampler=sampler, num_workers=workers, collate_fn=plain)
        monitor = MemoryMonitor(tmp_path / "run.jsonl", existing="append")
        with monitor:
            for batch in monitor.watch(loader):
                trained.append(batch)

    with pytest.raises(OSError, match="Input/output error"):
        train()
    assert 77 in whole[len(trained)]
    sampler.load_state_dict(sampler.state_dict(consumed=len(trained)))
    data.bad.clear()
    train()
    assert trained == whole
    run = read_run(tmp_path / "run.jsonl")
    assert (run.parts, len(run.steps)) == (2, len(whole))


class Named(NamedTuple):
    graph: Any
    line_graph: Any
    target: torch.Tensor


@dataclass(slots=True)
class Slotted:
    graph: Any
    line_graph: Any
    target: torch.Tensor


class Own:
    """A batch as users write one."""

    def __init__(self, graph: Any, line_graph: Any, target: torch.Tensor) -> None:
        self.graphs, self.target, self.device = (graph, line_graph), target, "nowhere"

    def to(self, device: str) -> Own:
        moved = Own(*(part.to(device) for part in (*self.graphs, self.target)))
        moved.device = device
        return moved


KINDS: dict[str, Callable[[Any, Any, torch.Tensor], Any]] = {
    "tuple": lambda *parts: parts,
    "dict": lambda graph, line_graph, target: {"graph": graph, "line": line_graph, "target": target},
    "nested": lambda graph, line_graph, target: {"graphs": (graph, line_graph), "target": target},
    "named": Named,
    "dataclass": Slotted,
    "own": Own,
}


class Collate:
    """Joins samples into a batch of some kind."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __call__(self, samples: list[Any]) -> Any:
        graphs, line_graphs, _, targets = zip(*samples, strict=True)
        dgl = load_dgl()
        return KINDS[self.kind](dgl.batch(graphs), dgl.batch(line_graphs), torch.stack(targets))


@pytest.fixture(scope="module")
def samples() -> list[Any]:
    work = AlignnWorkload(alignn_layers=1, gcn_layers=1, hidden_features=8)
    return [work.sample(entry) for entry in entries(6, 24)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("workers", [0, 1])
def test_batches_of_every_kind_are_loaded_and_counted(kind: str, workers: int, samples: list[Any]) -> None:
    sizes = measure(samples)
    sampler = NodeBudgetSampler(sizes, max_nodes=24)
    loader = DataLoader(samples, batch_sampler=sampler, num_workers=workers, collate_fn=Collate(kind))
    monitor = MemoryMonitor()
    counted = [sizes_of(batch) for batch in monitor.watch(loader)]
    assert counted == [sizes.totals(batch) for batch in sampler]
    assert monitor.steps == len(sampler)


def test_a_batch_that_is_moved_is_counted_all_the_same(samples: list[Any]) -> None:
    batch = Collate("own")(samples[:5]).to("cpu")
    assert batch.device == "cpu"
    assert sizes_of(batch) == measure(samples[:5]).totals(range(5))


def test_a_model_in_a_batch_is_not_searched() -> None:
    model = torch.nn.Linear(1, 1)
    model.graph = load_dgl().graph(([0], [0]))
    assert sizes_of({"model": model}) == {}
