"""Bytes that PyTorch's CUDA allocator reserves above those that tensors ask for, replayed from traced steps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from nodebudget.analysis.device_budget import SETTINGS
from nodebudget.calibration.memory_model import Calibration
from nodebudget.calibration.probe_candidates import Dataset, ProbeCandidates
from nodebudget.calibration.probe_design import Indices
from nodebudget.datasets.size_table import SizeTable
from nodebudget.profiling.cpu_trace import BlockTrace
from nodebudget.profiling.cuda_allocator.device_trace import live_blocks, trace_on_device
from nodebudget.profiling.cuda_allocator.replay import trace_resident, trace_steps
from nodebudget.profiling.cuda_allocator.step_model import StepModel
from nodebudget.sampling.budget import Budget
from nodebudget.sampling.planner import make_plan
from nodebudget.workloads.protocol import Workload

#: First steps that are traced, and further ones.
_FIRST, _FURTHER = 2, 4

#: Requests and releases of all replayed runs together; each takes some microseconds.
_EVENTS = 150_000

#: Steps of a replayed run, and batches of an epoch that they are chosen among.
_LENGTH, _PLANNED = 5, 200

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Overhead:
    """Memory of the allocator over batches of planned epochs, in adverse orders.

    Attributes:
        requested: Peak bytes that live tensors asked for: what a calibration predicts.
        allocated: Peak bytes in blocks of live tensors, including rounding and unsplit rests.
        reserved: Peak bytes held from a device without a limit.
        least: The smallest memory on which the batches fit, bytes. The allocator may empty its cache there.
        how: "replayed" from traced steps.
    """

    requested: int
    allocated: int
    reserved: int
    least: int
    how: str = "replayed"


def with_overheads(
    calibration: Calibration,
    workload: Workload,
    dataset: Dataset,
    sizes: SizeTable,
    device: str,
    *,
    memory: int | None = None,
    max_graphs: int | None = None,
) -> Calibration:
    """Add the overhead of the allocator, with either of its settings, to the record of a calibration.

    Runs six steps and clears the optimizer's state. The record stays as it is where steps on batches of one size make
    other requests each time.

    Args:
        calibration: Its largest probe determines the memory of the batches that are run.
        workload: On the device; for the CPU a new one that has run no step.
        dataset: The samples.
        sizes: Their sizes.
        device: "cpu", where the requests are those that a GPU would get, or "cuda:N".
        memory: Bytes of the steps that are replayed; by default those of the largest probe.
        max_graphs: Maximum number of graphs in their batches.
    """
    candidates = ProbeCandidates(workload, dataset, sizes, np.random.default_rng(0))
    largest = int(calibration.bound.max_measured)
    batches = planned_batches(candidates, calibration, min(memory or largest, largest), max_graphs)
    try:
        model = step_model(workload, candidates, batches, device)
    except ValueError:
        return calibration
    runs = adverse_runs(sizes, calibration, memory or largest, max_graphs, _EVENTS // max(model.events, 1))
    allocator = {setting: asdict(_overhead(model, runs, setting)) for setting in SETTINGS}
    return replace(calibration, context={**calibration.context, "allocator": allocator})


def planned_batches(
    candidates: ProbeCandidates, calibration: Calibration, memory: int, max_graphs: int | None = None
) -> list[Indices]:
    """Return batches of an epoch planned for so many bytes, the largest first."""
    sizes = candidates.original_sizes
    budget = Budget.make(calibration=calibration, memory=memory, max_graphs=max_graphs)
    plan = make_plan(sizes, budget, oversized="skip")
    cost = calibration.graph_bytes(sizes)
    batches = [plan.batch(index % len(plan)).astype(np.intp) for index in range(_FIRST + _FURTHER)]
    return sorted(batches, key=lambda batch: -float(cost[batch].sum()))


def step_model(workload: Workload, candidates: ProbeCandidates, batches: Sequence[Indices], device: str) -> StepModel:
    """Trace steps on these batches, and return what they ask of the allocator of a GPU.

    Raises:
        ValueError: Other requests each time.
    """
    samples = ([candidates.sample(int(index)) for index in batch] for batch in batches)
    first = [next(samples) for _ in range(_FIRST)]
    trace: Any = trace_steps if device == "cpu" else _traced_on_device
    for_first = []
    for batch in first[:-1]:
        _forget(workload, device)
        for_first += trace(workload, [batch])
    _forget(workload, device)
    resident = trace_resident(workload) if device == "cpu" else live_blocks(torch.device(device))
    last, *further = trace(workload, [first[-1], *samples])
    sizes = [[*candidates.original_sizes.totals(batch).values()] for batch in batches]
    return StepModel(resident, [*for_first, last], further, np.array(sizes, dtype=np.float64))


def _traced_on_device(workload: Workload, batches: Iterable[Sequence[Any]]) -> list[BlockTrace]:
    device = next(workload.model.parameters()).device
    return [trace_on_device(lambda batch=batch: workload.step(workload.batch(batch)), device) for batch in batches]  # type: ignore[misc]


def _forget(workload: Workload, device: str) -> None:
    """Free what the first step of a run allocates for good."""
    workload.optimizer.zero_grad(set_to_none=True)
    workload.optimizer.state.clear()
    if device != "cpu" and hasattr(torch._C, "_cuda_clearCublasWorkspaces"):
        torch._C._cuda_clearCublasWorkspaces()


def adverse_runs(
    sizes: SizeTable, calibration: Calibration, memory: int, max_graphs: int | None, steps: int
) -> list[Floats]:
    """Return sizes of the batches that runs begin with, each of shape (batches, sizes), of planned batches.

    For bytes and for each size: the largest first, the smallest first, and alternating; then shuffled ones.

    Args:
        sizes: The dataset.
        calibration: Predicts bytes.
        memory: Bytes of a step.
        max_graphs: Maximum number of graphs per batch.
        steps: About how many steps they have together.
    """
    budget = Budget.make(calibration=calibration, memory=memory, max_graphs=max_graphs)
    plan = make_plan(sizes, budget, oversized="skip")
    rng = np.random.default_rng(0)
    chosen = [plan.batch(int(i)) for i in rng.choice(len(plan), min(len(plan), _PLANNED), replace=False)]
    rows = np.array([[*sizes.totals(batch).values()] for batch in chosen], dtype=np.float64)
    cost = calibration.graph_bytes(sizes)
    orders: list[Indices] = []
    for key in [np.array([cost[batch].sum() for batch in chosen]), *rows[:, 1:].T]:
        up = np.argsort(key, kind="stable")
        orders += [up[::-1], up, np.column_stack([up, up[::-1]]).ravel()]
    orders += [rng.permutation(len(rows)) for _ in range(max(steps // _LENGTH - len(orders), 2))]
    return [rows[order[:_LENGTH]] for order in orders]


def _overhead(model: StepModel, runs: Sequence[Floats], setting: str) -> Overhead:
    least, unlimited = model.least_memory(runs, expandable=setting == "expandable")
    return Overhead(unlimited.peak_requested, unlimited.peak_allocated, unlimited.peak_reserved, least)
