"""The requests of a training step as a function of its batch."""

from __future__ import annotations

import numpy as np
import pytest
from linegraph_net import LineGraphWorkload, random_sizes

from nodebudget.profiling.cpu_trace import BlockTrace
from nodebudget.profiling.cuda_allocator.allocator import CachingAllocator
from nodebudget.profiling.cuda_allocator.replay import replay, trace_resident, trace_steps
from nodebudget.profiling.cuda_allocator.step_model import StepModel

ITEMS = random_sizes(300)


def batches(count):
    rng = np.random.default_rng(3)
    return [rng.choice(len(ITEMS), 24, replace=False).tolist() for _ in range(count)]


def rows(places):
    return np.array([[len(batch), *np.sum([ITEMS[place] for place in batch], axis=0)] for batch in places], dtype=float)


def traced(workload, places):
    return list(trace_steps(workload, [[workload.sample(ITEMS[place]) for place in batch] for batch in places]))


@pytest.fixture(scope="module")
def traces():
    """Two first steps and nine that follow, on batches of their own."""
    places = batches(11)
    first = traced(LineGraphWorkload(layers=1), places[:1])
    workload = LineGraphWorkload(layers=1)
    resident = trace_resident(workload)
    return places, resident, first, traced(workload, places[1:])


def model_of(traces):
    places, resident, first, steps = traces
    return StepModel(resident, [*first, steps[0]], steps[1:5], rows(places[:6]))


@pytest.mark.parametrize("expandable", [False, True])
def test_steps_on_other_batches_take_what_a_trace_of_them_takes(traces, expandable):
    places, resident, _, steps = traces
    # The last batches were not traced for the model.
    real = CachingAllocator(expandable=expandable)
    for trace in (resident, *steps):
        replay(trace, real)
    made = CachingAllocator(expandable=expandable)
    assert model_of(traces).run(made, rows(places[1:]))
    assert made.peak_requested == pytest.approx(real.peak_requested, rel=2e-3)
    assert made.reserved == pytest.approx(real.reserved, rel=0.05)
    assert made.requested == pytest.approx(real.requested, rel=0.01)  # nothing of the steps is left over


@pytest.mark.parametrize("expandable", [False, True])
def test_the_least_memory_suffices_and_less_does_not(traces, expandable):
    model, runs = model_of(traces), [rows(traces[0]), rows(traces[0][::-1])]
    least, unlimited = model.least_memory(runs, expandable=expandable)
    assert unlimited.peak_requested < least <= 1.1 * unlimited.peak_reserved
    for order in runs:
        assert model.run(CachingAllocator(least, expandable=expandable), order)
    assert not model.run(CachingAllocator(int(0.95 * unlimited.peak_requested), expandable=expandable), runs[0])


def test_steps_that_make_other_requests_each_time_are_refused(traces):
    places, resident, first, steps = traces
    cut = [BlockTrace(step.blocks[:-number], step.nbytes[:-number]) for number, step in enumerate(steps[1:5], start=1)]
    with pytest.raises(ValueError, match="same requests"):
        StepModel(resident, [*first, steps[0]], cut, rows(places[:6]))
