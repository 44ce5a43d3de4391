"""What the memory of a training step is made of, phase by phase, measured in a real step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from nodebudget.datasets.size_table import STANDARD, SizeTable
from nodebudget.errors import DoesNotFitError, InputError
from nodebudget.profiling.attribution import PARTS, attribute
from nodebudget.profiling.phases import PHASES, record_step
from nodebudget.profiling.probe import SAFE_SHARE, Probe
from nodebudget.sampling.budget import Budget
from nodebudget.sampling.planner import make_plan
from nodebudget.utils.byte_units import format_bytes
from nodebudget.utils.checks import check_count
from nodebudget.workloads.protocol import Workload, resident_bytes, resident_storages, to_sample
from nodebudget.workloads.run_step import run_step

Ints = npt.NDArray[np.int64]

#: Steps before the measured one, so that optimizer state and workspaces are there.
_WARM_UP = 2

Progress = Callable[[int, int], object]


@dataclass(frozen=True, eq=False)
class Breakdown:
    """The live bytes of one training step.

    Attributes:
        label: Which batch: "typical", "worst" or "budget".
        sizes: The batch: `graphs` and the sum of each size column.
        peak: Part → bytes at the moment of the peak: `parameters` (and buffers), `optimizer state`, `gradients`,
            `batch data`, `activations` (made in the forward pass and the loss, and kept for the backward pass),
            `temporary` (all else that was live), `beside` (live on the device and not the workload's), `rounding` (of
            the allocator's blocks).
        peak_phase: In which phase that is.
        phases: Phase → part → bytes at the highest moment of that phase, for the phases that the step has.
        measured: Peak of the same step by the probe, bytes: what the parts should add up to.
        timeline: Live bytes after each event, shape (events, parts).
        starts: Phase and the event that it starts at, in order.
    """

    label: str
    sizes: Mapping[str, float]
    peak: Mapping[str, int]
    peak_phase: str
    phases: Mapping[str, Mapping[str, int]]
    measured: int
    timeline: Ints
    starts: tuple[tuple[str, int], ...]

    @property
    def total(self) -> int:
        """Sum of the parts at the peak, bytes."""
        return sum(self.peak.values())

    @property
    def error(self) -> float:
        """How far the parts are from the measured peak, as a fraction of it."""
        return self.total / self.measured - 1

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "batch": self.label,
            "sizes": dict(self.sizes),
            "peak": dict(self.peak),
            "peak_phase": self.peak_phase,
            "phases": {phase: dict(parts) for phase, parts in self.phases.items()},
            "total": self.total,
            "measured": self.measured,
            "error": self.error,
        }


@dataclass(frozen=True)
class Check:
    """What was measured of one part against what can be counted.

    Attributes:
        what: What is checked, and by which rule.
        counted: Bytes by counting.
        measured: Bytes that the step's storages hold.
    """

    what: str
    counted: int
    measured: int

    @property
    def error(self) -> float:
        """How far they are apart, as a fraction of what was counted."""
        return self.measured / self.counted - 1 if self.counted else float(self.measured != 0)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {**self.__dict__, "error": self.error}


def choose_batches(sizes: SizeTable, batch_size: int, *, seed: int = 0) -> dict[str, list[int]]:
    """Choose three batches of the data by its last standard size (line-graph edges, where they are known).

    Args:
        sizes: One row a graph.
        batch_size: Graphs a batch.
        seed: Of the shuffled epoch and of the plan.

    Returns:
        Indices of each batch. "typical" is the batch of a shuffled epoch that is nearest to the mean, "worst" its
        largest one, "budget" the largest of a plan of batches of at most as many graphs.

    Raises:
        InputError: No graphs, or a batch size under 1.
    """
    size = check_count("batch_size", batch_size, 1)
    if not len(sizes):
        raise InputError("the dataset has no crystals", hint="give one that has")
    weights = sizes[[name for name in STANDARD if name in sizes][-1]]
    order = np.random.default_rng(seed).permutation(len(sizes))
    # The incomplete last batch is left out where there is another: it is no batch of that size.
    whole = max(len(sizes) // size, 1)
    fixed = [order[place * size : (place + 1) * size] for place in range(whole)]
    loads = np.array([weights[batch].sum() for batch in fixed])
    plan = make_plan(sizes, Budget.make(max_graphs=size), seed=seed)
    return {
        "typical": fixed[int(np.argmin(np.abs(loads - size * weights.mean())))].tolist(),
        "worst": fixed[int(np.argmax(loads))].tolist(),
        "budget": plan.batch(int(np.argmax(plan.loads(weights)))).tolist(),
    }


def break_down(
    workload: Workload,
    dataset: Any,
    sizes: SizeTable,
    probe: Probe,
    batches: Mapping[str, Sequence[int]],
    *,
    progress: Progress | None = None,
) -> list[Breakdown]:
    """Measure training steps and part their memory.

    Args:
        workload: The training step; it is trained for a few steps.
        dataset: What the batches index.
        sizes: One row a sample.
        probe: Of the device that the workload is on.
        batches: Label → indices of samples.
        progress: Called with the number of batches done and of all.

    Returns:
        One entry a batch, in that order.

    Raises:
        DoesNotFitError: A step does not fit, or is not expected to.
        WorkloadError: The workload raised.
    """
    found: list[Breakdown] = []
    for label, indices in batches.items():
        samples = [to_sample(workload, dataset[int(index)]) for index in indices]
        totals = sizes.totals(indices)
        _expect_to_fit(found, totals, probe)
        doing = f"a step on the {label} batch of {totals['graphs']:.0f} graphs"
        found.append(run_step(partial(_one, workload, samples, probe, label, totals), doing, workload=workload))
        if progress is not None:
            progress(len(found), len(batches))
    return found


def check_counts(workload: Workload) -> list[Check]:
    """Hold what the storages take against what can be counted.

    Gradients are as large as the parameters that have them; Adam and AdamW keep two moments of each (three with
    amsgrad; Kingma and Ba, 2015), SGD one with momentum and none without.

    Args:
        workload: Its last step left its gradients.
    """
    held: dict[str, int] = dict.fromkeys(PARTS, 0)
    for kind, nbytes in resident_storages(workload).values():
        held[kind] += nbytes
    parameters = [*workload.model.parameters()]
    whole = sum(map(_bytes, [*parameters, *workload.model.buffers()]))
    trained = sum(_bytes(parameter) for parameter in parameters if parameter.grad is not None)
    checks = [Check("parameters and buffers: numbers × bytes", whole, held["parameters"])]
    if trained:
        checks.append(Check("gradients: as the parameters that have one", trained, held["gradients"]))
    moments = _moments(workload.optimizer)
    if moments is not None and trained:
        rule = f"optimizer state: {moments} × the trained parameters ({type(workload.optimizer).__name__})"
        checks.append(Check(rule, moments * trained, held["optimizer state"]))
    return checks


def _moments(optimizer: torch.optim.Optimizer) -> int | None:
    options = optimizer.param_groups[0]
    if isinstance(optimizer, (torch.optim.Adam, torch.optim.AdamW)):
        return 3 if options.get("amsgrad") else 2
    if isinstance(optimizer, torch.optim.SGD):
        return 1 if options.get("momentum") else 0
    return None


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _expect_to_fit(found: Sequence[Breakdown], totals: Mapping[str, float], probe: Probe) -> None:
    """Refuse a step that the ones before say would not fit: a CPU has no error that could be caught."""
    if not found:
        return
    name = [column for column in STANDARD if column in totals][-1]
    last = found[-1]
    needed = last.measured * totals[name] / max(last.sizes[name], 1)
    free = probe.free_bytes()
    if needed > SAFE_SHARE * free:
        raise DoesNotFitError(
            f"a step on a batch of {totals['graphs']:.0f} graphs is expected to take {format_bytes(needed)}",
            limit=f"{format_bytes(free)} are free on {probe.device}",
            hint="take a smaller --batch-size",
        )


def _one(
    workload: Workload, samples: Sequence[Any], probe: Probe, label: str, totals: Mapping[str, float]
) -> Breakdown:
    # Recorded too: the CPU's trace knows a release only if it saw the allocation.
    for _ in range(_WARM_UP):
        record_step(workload, samples, probe.device)
    peak = probe.measure(lambda: workload.step(workload.batch(samples)))
    resident = resident_bytes(workload) if peak.resident is None else peak.resident
    recording = record_step(workload, samples, probe.device)
    probe.release()
    timeline = attribute(recording)
    starts = tuple((mark.phase, mark.place) for mark in recording.marks)
    phases, highest = _by_phase(timeline, starts)
    return Breakdown(
        label,
        totals,
        _named(timeline[highest]),
        _phase_at(starts, highest),
        phases,
        resident + peak.requested if peak.allocated is None else peak.allocated,
        timeline,
        starts,
    )


def _by_phase(timeline: Ints, starts: Sequence[tuple[str, int]]) -> tuple[dict[str, dict[str, int]], int]:
    """Return the parts at the highest moment of each phase, and the row of the highest of all."""
    live, tops = timeline.sum(axis=1), dict[str, int]()
    ends = [place for _, place in starts[1:]] + [len(timeline) - 1]
    for (phase, start), end in zip(starts, ends, strict=True):
        # Row i + 1 is after event i, so these are the rows of the phase's own events.
        if end > start:
            top = start + 1 + int(np.argmax(live[start + 1 : end + 1]))
            if phase not in tops or live[top] > live[tops[phase]]:
                tops[phase] = top
    return {phase: _named(timeline[tops[phase]]) for phase in PHASES if phase in tops}, int(np.argmax(live))


def _phase_at(starts: Sequence[tuple[str, int]], row: int) -> str:
    return [phase for phase, place in starts if place < max(row, 1)][-1]


def _named(row: Ints) -> dict[str, int]:
    return dict(zip(PARTS, row.tolist(), strict=True))
