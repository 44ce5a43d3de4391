"""Streams: every sample once, within the budget, even batches, shares for workers and ranks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, IterableDataset

from nodebudget.errors import InputError, OversizedError, RecordError
from nodebudget.sampling.stream_batcher import NodeBudgetBatcher

Sample = tuple[int, int]  # (name, nodes)


class Stream(IterableDataset[Sample]):
    """An endlessly repeatable stream of samples."""

    def __init__(self, nodes: list[int]) -> None:
        self.nodes = nodes

    def __iter__(self) -> Iterator[Sample]:
        return iter(list(enumerate(self.nodes)))


def size_of(sample: Sample) -> dict[str, float]:
    return {"nodes": sample[1], "edges": 12 * sample[1]}


def plain(batch: list[Sample]) -> list[Sample]:
    return batch


def names(batches: list[list[Sample]]) -> list[int]:
    return sorted(name for batch in batches for name, _ in batch)


@given(
    st.lists(st.integers(1, 40), max_size=120),
    st.integers(1, 50),
    st.integers(20, 100),
    st.none() | st.integers(1, 9),
    st.sampled_from(["skip", "alone"]),
)
def test_every_sample_once_and_within_the_budget(
    nodes: list[int], buffer: int, cap: int, most: int | None, policy: str
) -> None:
    options: dict[str, Any] = {"max_nodes": cap, "max_graphs": most, "buffer": buffer, "oversized": policy}
    batcher = NodeBudgetBatcher(Stream(nodes), size_of, **options)
    batches = list(batcher)
    large = {name for name, count in enumerate(nodes) if count > cap}
    assert names(batches) == sorted(set(range(len(nodes))) - (large if policy == "skip" else set()))
    assert batcher.skipped == len(large)
    for batch in batches:
        assert batch
        if batch[0][0] in large:
            assert len(batch) == 1
        else:
            assert sum(count for _, count in batch) <= cap
            assert most is None or len(batch) <= most
    assert list(batcher) == batches


def test_batches_of_a_long_stream_are_full_and_even() -> None:
    nodes = np.random.default_rng(0).lognormal(3, 0.6, 5000).astype(int) + 1
    batcher = NodeBudgetBatcher(Stream(nodes.tolist()), size_of, max_nodes=800, buffer=1000)
    batches = list(batcher)
    loads = np.array([sum(count for _, count in batch) for batch in batches])
    counts = np.array([len(batch) for batch in batches])
    assert len(batches) <= 1.02 * nodes.sum() / 800 + 1
    # All but the flush at the end.
    assert loads[:-30].min() > 0.97 * 800
    assert counts[:-30].std() < 0.1 * counts.mean()


def test_another_epoch_and_another_seed_reshuffle() -> None:
    nodes = np.random.default_rng(0).integers(1, 30, 300).tolist()
    batcher = NodeBudgetBatcher(Stream(nodes), size_of, max_nodes=100, buffer=100)
    first = list(batcher)
    batcher.set_epoch(1)
    assert list(batcher) != first
    assert list(NodeBudgetBatcher(Stream(nodes), size_of, max_nodes=100, buffer=100, seed=1)) != first


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_persistent_workers_hear_of_an_epoch(context: str) -> None:
    nodes = np.random.default_rng(0).integers(1, 30, 200).tolist()
    batcher = NodeBudgetBatcher(Stream(nodes), size_of, max_nodes=100, buffer=40)
    options: dict[str, Any] = {"batch_size": None, "collate_fn": plain, "num_workers": 2}
    loader = DataLoader(batcher, persistent_workers=True, multiprocessing_context=context, **options)
    fresh = DataLoader(batcher, multiprocessing_context=context, **options)
    first = list(loader)
    batcher.set_epoch(1)
    second = list(loader)
    assert second != first
    assert second == list(fresh)
    assert names(second) == list(range(200))


@pytest.mark.parametrize(
    ("ranks", "context"), [(3, "fork"), (1, "spawn"), pytest.param(3, "spawn", marks=pytest.mark.slow)]
)
def test_workers_and_ranks_share_the_stream(ranks: int, context: str) -> None:
    nodes = np.random.default_rng(0).integers(1, 30, 200).tolist()
    seen: list[list[Sample]] = []
    for rank in range(ranks):
        batcher = NodeBudgetBatcher(Stream(nodes), size_of, max_nodes=100, buffer=40, num_replicas=ranks, rank=rank)
        loader = DataLoader(batcher, batch_size=None, collate_fn=plain, num_workers=2, multiprocessing_context=context)
        seen += list(loader)
    assert names(seen) == list(range(200))


def test_a_stream_that_shares_itself_is_taken_whole() -> None:
    batcher = NodeBudgetBatcher(Stream([5] * 10), size_of, max_nodes=20, num_replicas=2, rank=1, sharded=True)
    assert names(list(batcher)) == list(range(10))


def test_a_generator_is_read_once() -> None:
    batcher = NodeBudgetBatcher(((name, 5) for name in range(10)), size_of, max_nodes=20)
    assert names(list(batcher)) == list(range(10))
    assert list(batcher) == []


def test_graphs_are_counted_without_being_told_how() -> None:
    data = pytest.importorskip("torch_geometric.data")
    graphs = [data.Data(num_nodes=n, edge_index=torch.zeros((2, 0), dtype=torch.int64)) for n in (3, 4, 5)]
    assert sorted(map(len, NodeBudgetBatcher(graphs, max_nodes=8, max_graphs=2))) == [1, 2]


def test_a_sample_over_the_budget_is_named() -> None:
    with pytest.raises(OversizedError, match=r"sample 2 of the stream .* 90 nodes") as caught:
        list(NodeBudgetBatcher(Stream([5, 5, 90]), size_of, max_nodes=20))
    assert caught.value.indices == [2]


def test_what_was_held_comes_before_the_error() -> None:
    given: list[int] = []
    batches = iter(NodeBudgetBatcher(Stream([5] * 9 + [90]), size_of, max_nodes=20))
    for _ in range(3):
        given += names([next(batches)])
    with pytest.raises(OversizedError):
        next(batches)
    assert sorted(given) == list(range(9))


def test_a_stream_that_is_not_shuffled_keeps_its_order() -> None:
    batches = list(NodeBudgetBatcher(Stream([5, 9, 3, 8] * 20), size_of, max_nodes=20, buffer=16, shuffle=False))
    assert [name for batch in batches for name, _ in batch] == list(range(80))


def test_it_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    list(NodeBudgetBatcher(Stream([5, 90, 91]), size_of, max_nodes=20, oversized="skip"))
    assert len(caplog.records) == 1


def test_wrong_sizes_are_named() -> None:
    with pytest.raises(InputError, match="size_of gave 5 for sample 0"):
        list(NodeBudgetBatcher([5], lambda sample: sample, max_nodes=20))
    with pytest.raises(InputError, match="buffer is 0"):
        NodeBudgetBatcher([], size_of, max_nodes=20, buffer=0)
    with pytest.raises(InputError, match="a sample has the sizes"):
        list(NodeBudgetBatcher([1, 2], lambda sample: {"nodes": 1, f"c{sample}": 1}, max_nodes=20))


def ranks_of(world: int, nodes: list[int], **options: Any) -> list[NodeBudgetBatcher]:
    return [
        NodeBudgetBatcher(Stream(nodes), size_of, num_replicas=world, rank=rank, **options) for rank in range(world)
    ]


@given(
    st.lists(st.integers(1, 40), max_size=120),
    st.integers(1, 50),
    st.integers(2, 4),
    st.sampled_from(["drop", "repeat"]),
    st.sampled_from(["skip", "alone"]),
)
def test_ranks_have_equally_many_batches(nodes: list[int], buffer: int, world: int, even: str, policy: str) -> None:
    shares = [list(b) for b in ranks_of(world, nodes, max_nodes=30, buffer=buffer, even=even, oversized=policy)]
    assert len({len(share) for share in shares}) == 1
    seen = names([batch for share in shares for batch in share])
    wanted = {name for name, count in enumerate(nodes) if policy == "alone" or count <= 30}
    assert set(seen) <= wanted
    if even == "repeat":
        assert set(seen) == wanted
        # At the end alone.
        assert len(seen) - len(wanted) < 2 * world
    else:
        assert len(seen) == len(set(seen))


@pytest.mark.parametrize("sharded", [False, True])
def test_a_number_of_batches_may_be_given(sharded: bool) -> None:
    nodes = np.random.default_rng(0).integers(1, 30, 200).tolist()
    for batches in (3, 80):
        shares = [list(b) for b in ranks_of(2, nodes, max_nodes=100, batches=batches, sharded=sharded)]
        assert [len(share) for share in shares] == [batches, batches]
    loader = DataLoader(
        ranks_of(2, nodes, max_nodes=100, batches=7)[0], batch_size=None, collate_fn=plain, num_workers=2
    )
    assert list(loader) == list(ranks_of(2, nodes, max_nodes=100, batches=7)[0])


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("stop", [0, 5, 18])
def test_a_stream_goes_on_where_it_was(workers: int, stop: int) -> None:
    nodes = np.random.default_rng(0).integers(1, 30, 200).tolist()

    def make() -> tuple[NodeBudgetBatcher, Any]:
        batcher = ranks_of(2, nodes, max_nodes=60, buffer=60)[1]
        return batcher, DataLoader(batcher, batch_size=None, collate_fn=plain, num_workers=workers)

    batcher, loader = make()
    batcher.set_epoch(2)
    whole = list(loader)
    # The same with any number of workers.
    again, _ = make()
    again.set_epoch(2)
    assert list(again) == whole
    state = batcher.state_dict(consumed=stop)
    other, resumed = make()
    other.load_state_dict(state)
    assert other.epoch == 2
    assert list(resumed) == whole[stop:]
    other.set_epoch(3)
    assert len(list(resumed)) > 0.8 * len(whole)
    if not workers:
        going = iter(make()[0])
        assert [next(going) for _ in range(3)]


@pytest.mark.filterwarnings("ignore:.set_vital. is deprecated:UserWarning")  # torchdata calls it
@pytest.mark.parametrize("workers", [0, 2])
def test_stateful_loader_goes_on_with_a_stream(workers: int) -> None:
    stateful = pytest.importorskip("torchdata.stateful_dataloader")
    nodes = np.random.default_rng(0).integers(1, 30, 200).tolist()

    def make() -> Any:
        batcher = ranks_of(1, nodes, max_nodes=60, buffer=60)[0]
        return stateful.StatefulDataLoader(batcher, batch_size=None, collate_fn=plain, num_workers=workers)

    whole = list(make())
    loader = make()
    going = iter(loader)
    head = [next(going) for _ in range(5)]
    state = loader.state_dict()
    del going
    other = make()
    other.load_state_dict(state)
    assert head + list(other) == whole


def test_a_state_of_another_stream_is_refused() -> None:
    batcher = NodeBudgetBatcher(Stream([5]), size_of, max_nodes=20)
    state = batcher.state_dict()
    with pytest.raises(RecordError, match="not the state"):
        NodeBudgetBatcher(Stream([5]), size_of, max_nodes=20, seed=1).load_state_dict(state)
    with pytest.raises(RecordError, match="not the state"):
        batcher.load_state_dict({"epoch": 3})
    with pytest.raises(InputError, match="makes no batch"):
        list(NodeBudgetBatcher(Stream([]), size_of, max_nodes=20, batches=2))


def test_an_oversized_sample_keeps_its_place_in_a_stream_that_is_not_shuffled() -> None:
    batches = list(NodeBudgetBatcher(Stream([5, 5, 90, 5]), size_of, max_nodes=20, shuffle=False, oversized="alone"))
    assert [[name for name, _ in batch] for batch in batches] == [[0, 1], [2], [3]]
