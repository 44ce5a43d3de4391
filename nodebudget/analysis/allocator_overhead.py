"""Bytes that PyTorch's CUDA allocator reserves above those that tensors ask for, measured or replayed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch

from nodebudget.analysis.device_budget import SETTINGS, current_setting
from nodebudget.calibration.memory_model import Calibration
from nodebudget.calibration.probe_candidates import Dataset, ProbeCandidates
from nodebudget.calibration.probe_design import Indices
from nodebudget.datasets.size_table import SizeTable
from nodebudget.profiling.cuda import counters
from nodebudget.profiling.cuda_allocator.allocator import CachingAllocator
from nodebudget.profiling.cuda_allocator.replay import replay, trace_resident, trace_steps
from nodebudget.sampling.budget import Budget
from nodebudget.sampling.planner import make_plan
from nodebudget.workloads.protocol import Workload

_BATCHES = 6  #: Batches of a planned epoch that are run, so that the reserved memory grows as in training.


@dataclass(frozen=True)
class Overhead:
    """Memory of the allocator over some batches of a planned epoch, the largest first."""

    requested: int  #: Peak bytes that live tensors asked for, which a calibration predicts.
    allocated: int  #: Peak bytes in blocks of live tensors, including rounding and unsplit rests.
    reserved: int  #: Peak bytes held from the device.
    retries: int  #: How often the allocator emptied its cache because the device was full.
    how: str  #: "measured" on the device, or "replayed" from a trace on the CPU.


def with_overheads(
    calibration: Calibration, workload: Workload, dataset: Dataset, sizes: SizeTable, device: str
) -> Calibration:
    """Add the overhead of the allocator to a calibration, over planned batches as large as its largest probe.

    On "cpu" a GPU's allocator is modelled, from a new workload that has run no step; on "cuda:N" it is measured.
    """
    candidates = ProbeCandidates(workload, dataset, sizes, np.random.default_rng(0))
    batches = planned_batches(candidates, calibration)
    if device == "cpu":
        overheads = replayed_overheads(workload, candidates, batches)
    else:
        overheads = measured_overheads(workload, candidates, batches, device)
    allocator = {setting: asdict(overhead) for setting, overhead in overheads.items()}
    return replace(calibration, context={**calibration.context, "allocator": allocator})


def planned_batches(candidates: ProbeCandidates, calibration: Calibration, seed: int = 0) -> list[Indices]:
    """Return batches of an epoch planned for the bytes of the largest probe, the largest batch first."""
    sizes = candidates.original_sizes
    budget = Budget.make(calibration=calibration, memory=int(calibration.bound.max_measured))
    plan = make_plan(sizes, budget, seed=seed, oversized="skip")
    cost = calibration.graph_bytes(sizes)
    batches = [plan.batch(index).astype(np.intp) for index in range(min(len(plan), _BATCHES))]
    return sorted(batches, key=lambda batch: -float(cost[batch].sum()))


def replayed_overheads(
    workload: Workload, candidates: ProbeCandidates, batches: Sequence[Indices]
) -> dict[str, Overhead]:
    """Predict what a GPU's allocator would reserve, with each setting, from a workload on the CPU without any step."""
    resident = trace_resident(workload)
    steps = list(trace_steps(workload, [[candidates.sample(int(index)) for index in batch] for batch in batches]))
    overheads = {}
    for setting in SETTINGS:
        allocator = CachingAllocator(expandable=setting == "expandable")
        for trace in (resident, *steps):
            replay(trace, allocator)
        peaks = allocator.peak_requested, allocator.peak_allocated, allocator.peak_reserved
        overheads[setting] = Overhead(*peaks, allocator.retries, "replayed")
    return overheads


def measured_overheads(
    workload: Workload, candidates: ProbeCandidates, batches: Sequence[Indices], device: str
) -> dict[str, Overhead]:
    """Measure what the allocator of a CUDA device reserves over the batches, with each setting.

    If this version of PyTorch can't change the setting, only the one of this process is measured.
    """
    current, overheads = current_setting(), {}
    try:
        for setting in SETTINGS:
            if _apply(setting) or setting == current:
                overheads[setting] = _measure(workload, candidates, batches, torch.device(device).index or 0)
    finally:
        _apply(current)
    return overheads


def _measure(workload: Workload, candidates: ProbeCandidates, batches: Sequence[Indices], index: int) -> Overhead:
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(index)
    retries = counters(index).retries
    for batch in batches:
        workload.step(workload.batch([candidates.sample(int(sample)) for sample in batch]))
    torch.cuda.synchronize(index)
    peak = counters(index)
    overhead = Overhead(
        peak.requested_peak, peak.allocated_peak, peak.reserved_peak, peak.retries - retries, "measured"
    )
    workload.optimizer.zero_grad(set_to_none=True)
    torch.cuda.empty_cache()
    return overhead


def _apply(setting: str) -> bool:
    """Change the allocator's setting for new segments; return whether this version of PyTorch can."""
    # PyTorch reads the environment variable only once; its own tests change the setting this way.
    change = getattr(torch._C, "_accelerator_setAllocatorSettings", None)
    if change is None:
        return False
    change(f"expandable_segments:{setting == 'expandable'}")
    return True
