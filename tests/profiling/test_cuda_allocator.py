"""The model of the CUDA allocator: its rules by hand, and what must hold for every sequence of requests."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from linegraph_net import LineGraphWorkload, random_sizes

from nodebudget.errors import DoesNotFitError
from nodebudget.profiling.cpu_trace import BlockTrace, trace_blocks
from nodebudget.profiling.cuda_allocator.allocator import CUBLAS_WORKSPACES, CachingAllocator, segment_size
from nodebudget.profiling.cuda_allocator.replay import replay, trace_resident, trace_steps

MIB = 2**20
BOTH = pytest.mark.parametrize("expandable", [False, True])


def trace(*pairs):
    table = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    return BlockTrace(table[:, 0], table[:, 1])


@pytest.mark.parametrize(
    ("size", "segment"),
    [(512, 2), (MIB, 2), (MIB + 512, 20), (10 * MIB - 512, 20), (10 * MIB, 10), (11 * MIB, 12), (30 * MIB + 512, 32)],
)
def test_segments(size, segment):
    assert segment_size(size) == segment * MIB


@BOTH
def test_small_tensors_share_two_mebibytes(expandable):
    allocator = CachingAllocator(expandable=expandable)
    for key in range(10):
        allocator.allocate(key, 100_000)
    assert allocator.allocated == 10 * 100_352
    assert allocator.reserved == 2 * MIB


@BOTH
def test_nothing_for_empty_tensors_and_for_releases_of_the_unknown(expandable):
    allocator = CachingAllocator(expandable=expandable)
    allocator.allocate(1, 0)
    allocator.free(7)
    assert (allocator.allocated, allocator.reserved) == (0, 0)


def test_a_large_segment_is_split_only_where_more_than_a_mebibyte_is_left():
    allocator = CachingAllocator()
    allocator.allocate(1, 12 * MIB)
    allocator.free(1)
    allocator.allocate(2, 11 * MIB)
    assert allocator.allocated == 12 * MIB
    allocator.free(2)
    allocator.allocate(3, 10 * MIB)
    assert allocator.allocated == 10 * MIB
    assert allocator.reserved == 12 * MIB


def test_the_best_fit_is_taken_and_neighbours_join():
    allocator = CachingAllocator()
    for key, size in enumerate([40, 20, 30]):
        allocator.allocate(key, size * MIB)
    for key in range(3):
        allocator.free(key)
    allocator.allocate(3, 19 * MIB)
    allocator.allocate(4, 29 * MIB)
    allocator.allocate(5, 15 * MIB)
    allocator.allocate(6, 25 * MIB)
    assert allocator.reserved == 90 * MIB
    allocator.free(5)
    allocator.free(6)
    allocator.allocate(7, 40 * MIB)
    assert allocator.reserved == 90 * MIB


def test_a_slightly_larger_batch_leaves_its_segments_unused_unless_they_expand():
    held = {}
    for expandable in (False, True):
        allocator = CachingAllocator(expandable=expandable)
        for size in range(20, 60, 4):
            allocator.allocate(1, size * MIB)
            allocator.free(1)
        held[expandable] = allocator.reserved
    assert held[False] == sum(range(20, 60, 4)) * MIB
    assert held[True] == 60 * MIB


def test_a_full_device_gets_its_cache_back_once():
    allocator = CachingAllocator(100 * MIB)
    allocator.allocate(1, 60 * MIB)
    allocator.free(1)
    allocator.allocate(2, 80 * MIB)
    assert (allocator.reserved, allocator.retries) == (80 * MIB, 1)
    with pytest.raises(DoesNotFitError, match=r"30\.0 MiB does not fit beside 80\.0 MiB of others"):
        allocator.allocate(3, 30 * MIB)
    assert allocator.allocated == 80 * MIB


def test_a_full_device_gets_back_pages_out_of_the_middle():
    allocator = CachingAllocator(100 * MIB, expandable=True)
    for key in range(5):
        allocator.allocate(key, 20 * MIB)
    allocator.free(1)
    allocator.free(2)
    allocator.empty_cache()
    assert allocator.reserved == 60 * MIB
    allocator.allocate(5, 40 * MIB)
    assert (allocator.reserved, allocator.allocated) == (100 * MIB, 100 * MIB)


@BOTH
def test_a_replay_goes_on_from_what_the_last_one_left(expandable):
    allocator = CachingAllocator(expandable=expandable)
    replay(trace((1, 30 * MIB), (2, 10 * MIB), (2, -10 * MIB)), allocator)
    assert (allocator.peak_allocated, allocator.allocated) == (40 * MIB, 30 * MIB)
    reserved = allocator.peak_reserved
    allocator.reset_peaks()
    replay(trace((2, 5 * MIB), (1, -30 * MIB)), allocator)
    assert (allocator.peak_allocated, allocator.allocated) == (35 * MIB, 5 * MIB)
    assert allocator.peak_reserved == reserved


@BOTH
def test_a_replay_ends_where_memory_does(expandable):
    allocator = CachingAllocator(50 * MIB, expandable=expandable)
    with pytest.raises(DoesNotFitError):
        replay(trace((1, 30 * MIB), (2, 30 * MIB), (3, 512)), allocator)
    assert (allocator.allocated, allocator.retries) == (30 * MIB, 1)


REQUESTS = st.lists(st.tuples(st.integers(0, 12), st.one_of(st.integers(1, 3 * MIB), st.integers(1, 64 * MIB))))


@given(REQUESTS, st.booleans())
def test_every_sequence_keeps_the_laws(requests, expandable):
    capacity = 256 * MIB
    allocator, live = CachingAllocator(capacity, expandable=expandable), {}
    for key, size in requests:
        try:
            allocator.allocate(key, size)
            live[key] = size
        except DoesNotFitError:
            live.pop(key, None)
        assert sum(live.values()) <= allocator.allocated <= allocator.reserved <= capacity
        assert allocator.allocated <= sum(live.values()) + len(live) * (MIB + 512)
        assert allocator.reserved % (2 * MIB) == 0
        assert allocator.peak_reserved >= allocator.reserved
    for key in list(live):
        allocator.free(key)
    assert allocator.allocated == 0
    allocator.empty_cache()
    assert allocator.reserved == 0


def test_a_trace_has_the_block_of_each_event():
    def run():
        first = torch.empty(1000, dtype=torch.uint8)
        second = torch.empty(3000, dtype=torch.uint8)
        del first
        del second

    trace = trace_blocks(run)
    assert trace.nbytes.tolist() == [1000, 3000, -1000, -3000]
    assert trace.blocks[0] == trace.blocks[2] != trace.blocks[1] == trace.blocks[3]
    assert (trace.first_forward, trace.first_backward) == (None, None)


def test_a_trace_tells_where_the_first_products_of_both_passes_ended():
    layer = torch.nn.Linear(8, 8)
    trace = trace_blocks(lambda: layer(torch.ones(100, 8)).sum().backward())
    # The batch and the layer's output come first.
    assert trace.first_forward == 2
    assert trace.first_backward > 2


def test_steps_release_their_batch_and_what_they_made():
    workload, items = LineGraphWorkload("cpu", width=8, layers=1), random_sizes(6)
    samples = [workload.sample(item) for item in items]
    allocator = CachingAllocator()
    replay(trace_resident(workload), allocator)
    resident, after = allocator.allocated, []
    for step in trace_steps(workload, [samples, samples[:2], samples]):
        replay(step, allocator)
        after.append(allocator.allocated)
    assert after[0] == after[1] == after[2]
    # A gradient and the two averages of AdamW for each used parameter (but for single numbers), and two workspaces.
    used = [entry.numel() * 4 for entry in workload.model.parameters() if entry.grad is not None and entry.numel() > 1]
    added = 3 * sum(-(-nbytes // 512) * 512 for nbytes in used)
    assert after[0] == resident + added + sum(CUBLAS_WORKSPACES)


def test_the_optimizer_works_as_it_would_on_a_gpu_and_is_left_as_it_was():
    workload, items = LineGraphWorkload("cpu", width=8, layers=1), random_sizes(2)
    seen = []
    step = workload.step
    workload.step = lambda batch: (seen.append(workload.optimizer.param_groups[0]["foreach"]), step(batch))
    list(trace_steps(workload, [[workload.sample(item) for item in items]]))
    assert seen == [True]
    assert workload.optimizer.param_groups[0]["foreach"] is None
