"""From the memory of a device to the memory that a training step may take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

from nodebudget.calibration.memory_model import Calibration
from nodebudget.calibration.probe_candidates import Dataset, ProbeCandidates
from nodebudget.calibration.probe_design import Indices
from nodebudget.datasets.size_table import SizeTable
from nodebudget.errors import DoesNotFitError
from nodebudget.profiling.cuda import counters
from nodebudget.profiling.cuda_allocator.allocator import CachingAllocator, allocator_settings, has_expandable_segments
from nodebudget.profiling.cuda_allocator.replay import CUBLAS_WORKSPACES_HOPPER, replay, trace_resident, trace_steps
from nodebudget.sampling.budget import Budget
from nodebudget.sampling.planner import make_plan
from nodebudget.utils.byte_units import format_bytes
from nodebudget.workloads.protocol import Workload

#: Settings of PyTorch's allocator: as it comes, and with `expandable_segments:True`.
SETTINGS = ("default", "expandable")

#: Kept at least for what the allocator reserves and does not use: a part of what a step takes, and bytes (the last
#: segments or pages of both pools). Found by running planned epochs on a full stand-in device, in any order, until none
#: ran out of memory: `scripts/benchmarks/survival.py`.
LEAST = {"default": (0.10, 24 * 2**20), "expandable": (0.01, 44 * 2**20)}

#: Taken for what a CUDA process holds outside PyTorch (context, libraries), where it was not measured: a tenth more
#: than the 751 to 753 MiB that were measured on an NVIDIA H200 with CUDA 13.0 and torch 2.11.
CONTEXT = 832 * 2**20

#: Expandable segments are recommended where they free more than this part of the memory.
_WORTH = 0.05

#: Batches of a planned epoch that are run to see how the reserved memory grows.
STRETCH = 6


@dataclass(frozen=True)
class Overhead:
    """What the allocator reserved for a stretch of a planned epoch, the largest batches first.

    Attributes:
        requested: Peak bytes of live tensors as they were asked for: what a calibration predicts.
        allocated: Peak bytes in blocks of live tensors, with what the allocator rounds up and leaves unsplit.
        reserved: Peak bytes held from the device.
        retries: How often the cache had to be given back.
        how: "measured" on the device, or "replayed" from a trace of the CPU.
    """

    requested: int
    allocated: int
    reserved: int
    retries: int
    how: str

    @property
    def part(self) -> float:
        """Bytes reserved beyond what live tensors asked for, as a part of that."""
        return self.reserved / max(self.requested, 1) - 1


@dataclass(frozen=True)
class DeviceBudget:
    """How much of a device a training step may take, line by line.

    Attributes:
        capacity: Bytes of the device.
        lines: (what, bytes) that are subtracted from it.
        memory: Bytes that are left: what a plan takes as its `memory`.
        setting: The allocator's setting that it holds for.
        advice: One sentence where the other setting would free much, else "".
    """

    capacity: int
    lines: tuple[tuple[str, int], ...]
    memory: int
    setting: str
    advice: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {**self.__dict__, "lines": [list(line) for line in self.lines]}


def current_setting() -> str:
    """Return the setting that PyTorch's allocator has in this process."""
    return "expandable" if has_expandable_segments(allocator_settings()) else "default"


def stretch(pool: ProbeCandidates, calibration: Calibration, seed: int = 0) -> list[Indices]:
    """Return batches of an epoch planned for as much as the largest probe took, the largest first."""
    memory = int(calibration.bound.max_measured)
    plan = make_plan(
        pool.original_sizes, Budget.make(calibration=calibration, memory=memory), seed=seed, oversized="skip"
    )
    cost = calibration.graph_bytes(pool.original_sizes)
    batches = [plan.batch(place).astype(np.intp) for place in range(min(len(plan), STRETCH))]
    return sorted(batches, key=lambda batch: -float(cost[batch].sum()))


def replayed_overheads(workload: Workload, pool: ProbeCandidates, batches: Sequence[Indices]) -> dict[str, Overhead]:
    """Predict without a GPU what its allocator would reserve, with either setting.

    Args:
        workload: On the CPU, with no step done yet.
        pool: Where the samples are.
        batches: What to run.
    """
    resident = trace_resident(workload)
    steps = list(trace_steps(workload, [[pool.sample(int(index)) for index in batch] for batch in batches]))
    found = {}
    for setting in SETTINGS:
        allocator = CachingAllocator(expandable=setting == "expandable")
        runs = [replay(trace, allocator) for trace in (resident, *steps)]
        found[setting] = Overhead(
            max(run.peak_requested for run in runs),
            max(run.peak_allocated for run in runs),
            max(run.peak_reserved for run in runs),
            sum(run.retries for run in runs),
            "replayed",
        )
    return found


def soak(workload: Workload, pool: ProbeCandidates, batches: Sequence[Indices], device: str) -> dict[str, Overhead]:
    """Measure on a CUDA device how much its allocator reserves over the batches, with either setting.

    Only with the setting that the process has where this PyTorch can't change it.
    """
    chosen, found = current_setting(), {}
    try:
        for setting in SETTINGS:
            if _apply(setting) or setting == chosen:
                found[setting] = _run(workload, pool, batches, torch.device(device).index or 0)
    finally:
        _apply(chosen)
    return found


def _run(workload: Workload, pool: ProbeCandidates, batches: Sequence[Indices], index: int) -> Overhead:
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(index)
    before = counters(index).retries
    for batch in batches:
        workload.step(workload.batch([pool.sample(int(place)) for place in batch]))
    torch.cuda.synchronize(index)
    seen = counters(index)
    overhead = Overhead(seen.requested_peak, seen.allocated_peak, seen.reserved_peak, seen.retries - before, "measured")
    workload.optimizer.zero_grad(set_to_none=True)
    torch.cuda.empty_cache()
    return overhead


def _apply(setting: str) -> bool:
    """Change the allocator's setting for segments that it takes from now on; tell whether this PyTorch can."""
    # The environment variable is read once, at the start; this is what PyTorch's own tests change it with.
    change = getattr(torch._C, "_accelerator_setAllocatorSettings", None)
    if change is None:
        return False
    change(f"expandable_segments:{setting == 'expandable'}")
    return True


def with_overheads(
    calibration: Calibration, workload: Workload, dataset: Dataset, sizes: SizeTable, device: str
) -> Calibration:
    """Add to a calibration's record what the allocator reserves for a stretch of a planned epoch.

    Args:
        calibration: Its largest probe says how large the batches are.
        workload: On the device; for the CPU one that has done no step yet.
        dataset: Its items.
        sizes: Their sizes.
        device: "cpu", where a GPU's allocator is modelled, or "cuda:N", where it is measured.
    """
    pool = ProbeCandidates(workload, dataset, sizes, np.random.default_rng(0))
    batches = stretch(pool, calibration)
    on_cpu = device == "cpu"
    found = replayed_overheads(workload, pool, batches) if on_cpu else soak(workload, pool, batches, device)
    known = {setting: asdict(overhead) for setting, overhead in found.items()}
    return replace(calibration, context={**calibration.context, "allocator": known})


def device_budget(
    capacity: int, calibration: Calibration, *, setting: str | None = None, outside: int | None = None
) -> DeviceBudget:
    """Work out what a training step may take on a device.

    Args:
        capacity: Bytes of the device.
        calibration: What its record knows of the allocator and of memory outside PyTorch is used.
        setting: "default" or "expandable"; None: what this process has.
        outside: Bytes held outside PyTorch; None: as measured with the calibration, else an assumption.

    Raises:
        DoesNotFitError: Nothing is left.
    """
    chosen = current_setting() if setting is None else setting
    away, why = _outside(calibration, outside)
    # Measured on a GPU they are in the resident bytes; on the CPU the largest that PyTorch takes is assumed.
    on_cpu = calibration.context.get("device", {}).get("device") == "cpu"
    workspaces = sum(CUBLAS_WORKSPACES_HOPPER) if on_cpu else 0
    away += workspaces
    memory = {name: _memory(capacity - away, _part(calibration, name), LEAST[name][1]) for name in SETTINGS}
    part, more = _part(calibration, chosen), LEAST[chosen][1]
    left = max(memory[chosen], 0)
    lines = (
        (f"outside PyTorch ({why})", away - workspaces),
        *([("workspaces of libraries (not known: cuBLAS's largest)", workspaces)] if workspaces else []),
        (
            f"reserved and not used by the allocator, {part:.1%} ({chosen} segments)",
            max(capacity - away - more - left, 0),
        ),
        ("last segments of the allocator's pools", more),
    )
    if left <= 0:
        raise DoesNotFitError(
            f"nothing of {format_bytes(capacity)} is left for a training step",
            limit=", ".join(f"{what}: {format_bytes(count)}" for what, count in lines),
            hint="take a larger device",
        )
    gain = memory["expandable"] / left - 1
    advice = (
        f"PYTORCH_ALLOC_CONF=expandable_segments:True would leave {gain:.0%} more for a step."
        if chosen == "default" and gain > _WORTH
        else ""
    )
    return DeviceBudget(capacity, lines, left, chosen, advice)


def _memory(usable: int, part: float, more: int) -> int:
    return int((usable - more) / (1 + part))


def _part(calibration: Calibration, setting: str) -> float:
    known: Mapping[str, Any] = calibration.context.get("allocator") or {}
    seen = known.get(setting)
    least, more = LEAST[setting]
    if seen is None:
        return least
    # Records of schema version 1 predict what was allocated, and do not say what was asked for.
    predicted = float(seen.get("requested", seen["allocated"]))
    # The last segments are a line of their own: they do not grow with the batches.
    return max(least, float(seen["reserved"] - more) / max(predicted, 1) - 1)


def _outside(calibration: Calibration, given: int | None) -> tuple[int, str]:
    if given is not None:
        return given, "as given"
    seen = [entry.outside for entry in calibration.observations if entry.outside is not None]
    return (max(seen), "as measured") if seen else (CONTEXT, "assumed: not measured")
