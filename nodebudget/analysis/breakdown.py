"""Break the memory of a real training step down by phase and by kind of tensor."""

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

_WARM_UP = 2  #: Steps before the measured one, so that optimizer state and workspaces exist.

Progress = Callable[[int, int], object]


@dataclass(frozen=True, eq=False)
class Breakdown:
    """The live bytes of one training step."""

    label: str  #: "typical", "largest" or "budget", as `choose_batches` names its batches.
    sizes: Mapping[str, float]  #: Size of the batch (`graphs`) and the sum of each size column.
    #: Bytes at the peak by part, which are `parameters` (and buffers), `optimizer state`, `gradients`, `batch data`,
    #: `activations` (made in the forward pass and the loss, and kept for the backward pass), `temporary` (all other
    #: live tensors), `beside` (on the device, but not of the workload), `rounding` (of the allocator's blocks).
    peak: Mapping[str, int]
    peak_phase: str  #: Phase of the peak.
    phases: Mapping[str, Mapping[str, int]]  #: Phase → part → bytes at the peak of that phase.
    measured: int  #: Peak of the same step by the probe, bytes; the parts should add up to it.
    timeline: Ints  #: Live bytes after each event, shape (events, parts).
    starts: tuple[tuple[str, int], ...]  #: Phase and index of its first event, in order.

    @property
    def total(self) -> int:
        """Sum of the parts at the peak, bytes."""
        return sum(self.peak.values())

    @property
    def error(self) -> float:
        """Sum of the parts minus the measured peak, as a fraction of the latter."""
        return self.total / self.measured - 1

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        names = ("sizes", "peak", "peak_phase", "phases", "total", "measured", "error")
        return {"batch": self.label, **{name: getattr(self, name) for name in names}}


@dataclass(frozen=True)
class Check:
    """The measured bytes of one part beside those that follow from the model and the optimizer."""

    what: str  #: The part, and the rule by which it is counted.
    counted: int  #: Bytes by that rule.
    measured: int  #: Bytes of the step's storages.

    @property
    def error(self) -> float:
        """Measured minus counted bytes, as a fraction of the counted."""
        return self.measured / self.counted - 1 if self.counted else float(self.measured != 0)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {**self.__dict__, "error": self.error}


def choose_batches(sizes: SizeTable, batch_size: int, *, seed: int = 0) -> dict[str, list[int]]:
    """Choose three batches of a dataset by its last standard size: line-graph edges, if it has them.

    Args:
        sizes: One row per graph.
        batch_size: Graphs per batch.
        seed: Random seed of the shuffled epoch and of the plan.

    Returns:
        The indices of three batches. "typical" is the batch of a shuffled epoch that is nearest to the mean, "largest"
        the largest batch of that epoch, "budget" the largest batch of a plan with the same maximum of graphs.

    Raises:
        InputError: The dataset is empty, or the batch size is under 1.
    """
    size = check_count("batch_size", batch_size, 1)
    if not len(sizes):
        raise InputError("the dataset is empty", hint="give one with crystals")
    weights = sizes[[name for name in STANDARD if name in sizes][-1]]
    order = np.random.default_rng(seed).permutation(len(sizes))
    # Without the incomplete last batch, unless it is the only one.
    fixed = [order[start : start + size] for start in range(0, max(len(sizes) - size, 0) + 1, size)]
    loads = np.array([weights[batch].sum() for batch in fixed])
    plan = make_plan(sizes, Budget.make(max_graphs=size), seed=seed)
    return {
        "typical": fixed[int(np.argmin(np.abs(loads - size * weights.mean())))].tolist(),
        "largest": fixed[int(np.argmax(loads))].tolist(),
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
    """Measure training steps and break their memory down.

    Args:
        workload: The training step; it trains for a few steps.
        dataset: The samples.
        sizes: One row per sample.
        probe: Probe of the device of the workload.
        batches: Label → indices of samples.
        progress: Called with the number of batches done and of all batches.

    Returns:
        One entry per batch, in that order.

    Raises:
        DoesNotFitError: A step does not fit, or is predicted not to.
        WorkloadError: The workload raised an error.
    """
    breakdowns: list[Breakdown] = []
    for label, indices in batches.items():
        samples = [to_sample(workload, dataset[int(index)]) for index in indices]
        totals = sizes.totals(indices)
        if breakdowns:
            _check_fits(breakdowns[-1], totals, probe)
        doing = f"a step on the {label} batch of {totals['graphs']:.0f} graphs"
        measure = partial(_break_down_one, workload, samples, probe, label, totals)
        breakdowns.append(run_step(measure, doing, workload=workload))
        if progress is not None:
            progress(len(breakdowns), len(batches))
    return breakdowns


def check_counts(workload: Workload) -> list[Check]:
    """Compare the bytes of the workload's storages with those that follow from the model and the optimizer.

    Gradients, which the last step has left, are as large as the parameters that have them. The state of Adam and AdamW
    is twice as large (three times with amsgrad; Kingma and Ba, 2015), that of SGD once with momentum and zero without.
    """
    held: dict[str, int] = dict.fromkeys(PARTS, 0)
    for kind, nbytes in resident_storages(workload).values():
        held[kind] += nbytes
    parameters = [*workload.model.parameters()]
    whole = sum(map(_bytes, [*parameters, *workload.model.buffers()]))
    trained = sum(_bytes(parameter) for parameter in parameters if parameter.grad is not None)
    checks = [Check("parameters and buffers: numbers × bytes", whole, held["parameters"])]
    if trained:
        checks.append(Check("gradients: 1 × the trained parameters", trained, held["gradients"]))
    states = _state_tensors(workload.optimizer)
    if states is not None and trained:
        rule = f"optimizer state: {states} × the trained parameters ({type(workload.optimizer).__name__})"
        checks.append(Check(rule, states * trained, held["optimizer state"]))
    return checks


def _state_tensors(optimizer: torch.optim.Optimizer) -> int | None:
    options = optimizer.param_groups[0]
    if isinstance(optimizer, (torch.optim.Adam, torch.optim.AdamW)):
        return 3 if options.get("amsgrad") else 2
    if isinstance(optimizer, torch.optim.SGD):
        return 1 if options.get("momentum") else 0
    return None


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _check_fits(last: Breakdown, totals: Mapping[str, float], probe: Probe) -> None:
    """Refuse a step that by the last one would not fit: on a CPU running out of memory ends the process."""
    name = [column for column in STANDARD if column in totals][-1]
    needed = last.measured * totals[name] / max(last.sizes[name], 1)
    free = probe.free_bytes()
    if needed > SAFE_SHARE * free:
        raise DoesNotFitError(
            f"a step on a batch of {totals['graphs']:.0f} graphs is predicted to take {format_bytes(needed)}",
            limit=f"{format_bytes(free)} are free on {probe.device}",
            hint="use a smaller --batch-size",
        )


def _break_down_one(
    workload: Workload, samples: Sequence[Any], probe: Probe, label: str, totals: Mapping[str, float]
) -> Breakdown:
    # Recorded too: the CPU's trace has a release only if it has the allocation.
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
        [phase for phase, place in starts if place < max(highest, 1)][-1],
        phases,
        resident + peak.requested if peak.allocated is None else peak.allocated,
        timeline,
        starts,
    )


def _by_phase(timeline: Ints, starts: Sequence[tuple[str, int]]) -> tuple[dict[str, dict[str, int]], int]:
    """Return the parts at the peak of each phase, and the row of the highest peak."""
    live, tops = timeline.sum(axis=1), dict[str, int]()
    ends = [place for _, place in starts[1:]] + [len(timeline) - 1]
    for (phase, start), end in zip(starts, ends, strict=True):
        # Row i + 1 is after event i, so these are the rows of the phase's own events.
        if end > start:
            top = start + 1 + int(np.argmax(live[start + 1 : end + 1]))
            if phase not in tops or live[top] > live[tops[phase]]:
                tops[phase] = top
    return {phase: _named(timeline[tops[phase]]) for phase in PHASES if phase in tops}, int(np.argmax(live))


def _named(row: Ints) -> dict[str, int]:
    return dict(zip(PARTS, row.tolist(), strict=True))
