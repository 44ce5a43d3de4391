"""The monitor on a CUDA device: the allocator's peaks, a real out-of-memory error, a split that fits."""

from __future__ import annotations

import gc
from dataclasses import replace

import pytest
import torch
from linegraph_net import ELEMENTS, LineGraphWorkload, random_sizes
from on_device import MIB, is_stand_in
from torch import nn

from nodebudget import CalibrationConfig, MemoryMonitor, SizeTable, calibrate, read_run, run_with_split
from nodebudget.errors import DoesNotFitError
from nodebudget.monitor.summary import summarize
from nodebudget.profiling.open import open_probe

DEVICE = torch.device("cuda:0")
ITEMS = random_sizes(80)
SIZES = SizeTable.from_counts(*(list(column) for column in zip(*ITEMS, strict=True)))


def batches(workload, count, size=12):
    for first in range(count):
        places = [(first * size + place) % len(ITEMS) for place in range(size)]
        yield places, workload.batch([workload.sample(ITEMS[place]) for place in places])


def only(megabytes):
    """Let this process have so much of the device."""
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(megabytes * MIB / torch.cuda.mem_get_info(0)[1])


def test_peaks_are_the_allocators_and_are_as_predicted(tmp_path):
    workload = LineGraphWorkload(DEVICE)
    cal = calibrate(workload, ITEMS, SIZES, open_probe("cuda:0"), config=CalibrationConfig(probes=18, max_graphs=16))
    how = {"calibration": cal, "model": workload.model, "optimizer": workload.optimizer, "sizes": SIZES}
    with MemoryMonitor(tmp_path / "run.jsonl", **how) as monitor:
        for places, batch in batches(workload, 12):
            with monitor.step(indices=places):
                workload.step(batch)
            assert torch.cuda.max_memory_allocated(DEVICE) == read_run(monitor.path).steps[-1]["allocated"]
    run = read_run(monitor.path)
    assert run.header["measured_by"] == "allocator"
    assert run.header["device"]["device"] == "cuda:0"
    for step in run.steps:
        assert step["reserved"] >= step["allocated"] >= step["measured"] > step["resident"] > 0
        assert step["retries"] == 0
        # Resident here is the batch too, and the calibration makes it inside the step.
        assert step["measured"] == pytest.approx(step["predicted"], rel=0.01)
    assert abs(summarize(run)["drift"]) < 0.005
    assert run.events == []
    again = monitor.recalibrated()
    totals = SIZES.totals(range(20))
    # Steps of a fixed number of crystals do not identify the coefficients as well as chosen probes do.
    assert again.predict_bytes(**totals) == pytest.approx(cal.predict_bytes(**totals), rel=0.05)


def test_tensors_that_are_stored_are_named_a_leak(tmp_path):
    model, stored = nn.Linear(256, 256, device=DEVICE), []
    monitor = MemoryMonitor(tmp_path / "run.jsonl", device=DEVICE)

    def train():
        for _ in monitor.watch(range(100)):
            stored.append(model(torch.ones(64, 256, device=DEVICE)).sum() + 0 * torch.ones(2**16, device=DEVICE))

    with pytest.warns(UserWarning, match="possible leak: memory allocated between steps grew by"):
        train()
    monitor.close()


def test_running_out_names_the_batch_and_the_memory(tmp_path):
    workload = LineGraphWorkload(DEVICE, width=64)
    monitor = MemoryMonitor(tmp_path / "run.jsonl", sizes=SIZES, device=DEVICE)
    places, batch = next(batches(workload, 1, 40))
    only(100)

    def train(batch):
        with monitor.step(indices=places), monitor.oom_guard():
            workload.step(batch)

    with pytest.raises(DoesNotFitError, match=r"40 graphs, .* ran out of memory on cuda:0") as caught:
        train(batch)
    text = str(caught.value)
    assert "this process can have" in text
    assert "asked for" in text
    assert "max_line_edges=" in text
    monitor.close()
    run = read_run(monitor.path)
    assert run.steps[0]["status"] == "out of memory" or run.steps[0]["status"] == "failed"
    assert run.events[-1]["event"] == "out of memory"
    # The tensors of the step are gone, although the error is still here.
    workload.optimizer.zero_grad()
    del batch
    torch._C._cuda_clearCublasWorkspaces()  # 64 MiB on a Hopper GPU
    assert torch.cuda.memory_allocated(DEVICE) < 30 * MIB


def test_a_split_leaves_the_gradients_of_the_whole_batch():
    workload = LineGraphWorkload(DEVICE, width=64)
    samples = [workload.sample(item) for item in ITEMS[:40]]

    def step(part):
        batch = workload.batch(part)
        # Each graph has its own elements, wherever in the batch it stands.
        elements = torch.cat([torch.arange(graph.num_nodes) for graph, _ in part]) % ELEMENTS
        batch = replace(batch, elements=elements.to(DEVICE))
        target = torch.tensor([float(graph.num_nodes) for graph, _ in part], device=DEVICE)
        return nn.functional.mse_loss(workload.model(batch), target)

    torch.cuda.reset_peak_memory_stats()
    whole = run_with_split(step, samples, workload.model)
    peak = torch.cuda.max_memory_allocated()
    expected = [parameter.grad.clone() for parameter in workload.model.parameters() if parameter.grad is not None]
    assert whole.parts == (40,)
    workload.optimizer.zero_grad()
    resident = torch.cuda.memory_allocated()
    only((resident + 0.6 * (peak - resident)) / MIB)
    done = run_with_split(step, samples, workload.model)
    assert len(done.parts) > 1
    assert sum(done.parts) == 40
    found = [parameter.grad for parameter in workload.model.parameters() if parameter.grad is not None]
    assert len(found) == len(expected)
    if not is_stand_in():  # which computes nothing
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4 * float(theirs.abs().max()))


def test_a_single_graph_that_does_not_fit_is_named():
    workload = LineGraphWorkload(DEVICE, width=256)
    samples = [workload.sample(item) for item in ITEMS[:2]]
    only(30)
    with pytest.raises(DoesNotFitError, match=r"sample 0 .* does not fit on its own \(CUDA out of memory"):
        run_with_split(lambda part: workload.model(workload.batch(part)).sum(), samples, workload.model)
