"""The memory of a static plan: its one step is measured, and the largest shape that fits is searched."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain, islice, repeat
from pathlib import Path
from typing import Any

from nodebudget.calibration.probe_candidates import Dataset
from nodebudget.datasets.size_table import SizeTable
from nodebudget.errors import DoesNotFitError, InputError
from nodebudget.profiling.open import open_probe
from nodebudget.profiling.probe import Probe
from nodebudget.sampling.budget import Budget
from nodebudget.sampling.plan_config import PlanConfig
from nodebudget.sampling.planner import Planner
from nodebudget.utils.byte_units import format_bytes
from nodebudget.utils.checks import check_count
from nodebudget.utils.records import provenance, write_record
from nodebudget.workloads.padding.pad_batch import batch_sizes, pad_batch
from nodebudget.workloads.protocol import Workload, collate, resident_bytes
from nodebudget.workloads.run_step import run_step
from nodebudget.workloads.sample_sizes import measure_samples

KIND = "nodebudget.static_step"
SCHEMA_VERSION = 1

#: Steps of one shape: optimizer state and caches exist after two, and the third is like all that follow.
STEPS = 3

#: Shapes that are measured before the search ends, and the part of the memory that may be left.
_PROBES, _LEFT = 10, 0.01


@dataclass(frozen=True)
class StaticStep:
    """What a training step of a static plan takes.

    Attributes:
        shape: Sizes of every padded batch.
        graphs: Graphs per batch, the `max_graphs` of the plan.
        peak: Bytes of each step: on the CPU of live tensors at the peak, on a GPU those that PyTorch's allocator holds.
        memory: Bytes that it may take; None where none were given.
        probes: (graphs per batch, bytes) of each shape that was measured; bytes are None where memory ran out.
        context: Device, model, versions and command.
    """

    shape: Mapping[str, int]
    graphs: int
    peak: int
    memory: int | None
    probes: tuple[tuple[int, int | None], ...]
    context: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {**asdict(self), "probes": [list(probe) for probe in self.probes]}

    def save(self, path: str | os.PathLike[str], *, force: bool = False) -> Path:
        """Write it as JSON.

        Raises:
            InputError: The file exists and `force` is not set, or it can't be written.
        """
        return write_record(path, KIND, SCHEMA_VERSION, self.to_dict(), force=force)


def calibrate_static(
    workload: Workload,
    dataset: Dataset,
    sizes: SizeTable | None = None,
    device: str | Probe = "cpu",
    *,
    graphs: int = 64,
    memory: int | None = None,
) -> StaticStep:
    """Measure the step of a static plan, or search the largest shape whose step fits the memory.

    All steps of a static plan take the same memory, so that no model is fitted: three steps of a shape tell it. With
    `memory`, numbers of graphs per batch are tried, the next where a line through two of them meets the memory, until
    less than 1% of it is left, or one batch fewer per epoch does not fit. The steps train the model on padding as well:
    make a new one for the real run.

    Args:
        workload: The model, its optimizer and its training step: see `nodebudget.load_workload`.
        dataset: Items that `workload.sample` takes, or `workload.batch`.
        sizes: Their sizes; by default those of the samples that the workload makes of the dataset.
        device: "cpu", "cuda:0", or an open `nodebudget.profiling.probe.Probe`.
        graphs: Graphs per batch; with `memory`, where the search starts.
        memory: Bytes that a step may take.

    Raises:
        InputError: Dataset and sizes differ in length, or batches of this workload can't be padded.
        DoesNotFitError: Not even one graph per batch fits.
        WorkloadError: The training step raised.
    """
    probe = open_probe(device) if isinstance(device, str) else device
    sizes = measure_samples(workload, dataset) if sizes is None else sizes
    if len(sizes) != len(dataset):
        raise InputError(f"{len(sizes)} sizes", limit=f"{len(dataset)} items", hint="give the sizes of this dataset")
    steps = _StaticSteps(workload, dataset, sizes, probe)
    first = steps.evenly(check_count("graphs", graphs, 1))
    if memory is None:
        best: int | None = first
        if steps.bytes(first) is None:
            best = None
    else:
        best = _search(steps, first, memory)
    if best is None:
        smallest = min(steps.measured)
        taken = steps.measured[smallest]
        raise DoesNotFitError(
            f"a step of {smallest} graph{'s' * (smallest > 1)} takes "
            + ("more than the device has" if taken is None else format_bytes(taken)),
            limit="" if memory is None else f"the memory is {format_bytes(memory)}",
            hint="give more memory, fewer graphs per batch, or a smaller model",
        )
    context = {
        "device": probe.describe(),
        "model": {"name": getattr(workload, "name", type(workload.model).__qualname__)},
        **provenance(),
    }
    peak = steps.measured[best]
    assert peak is not None
    return StaticStep(steps.shape(best), best, peak, memory, tuple(sorted(steps.measured.items())), context)


class _StaticSteps:
    """Measures shapes by the number of graphs per batch, each once."""

    def __init__(self, workload: Workload, dataset: Dataset, sizes: SizeTable, probe: Probe) -> None:
        self._workload, self._dataset, self._probe = workload, dataset, probe
        columns = batch_sizes(collate(workload, [dataset[0]]))
        self._sizes = SizeTable({name: values for name, values in sizes.columns.items() if name in columns})
        self._plans: dict[int, Planner] = {}
        self.measured: dict[int, int | None] = {}
        self.graphs = len(dataset)

    def evenly(self, graphs: int, fewer: int = 0) -> int:
        """Return how many graphs share a batch when the dataset is shared by so many, or some batches fewer."""
        batches = -(-self.graphs // min(max(graphs, 1), self.graphs))
        return -(-self.graphs // max(batches - fewer, 1))

    def shape(self, graphs: int) -> Mapping[str, int]:
        """Return the shape of so many graphs per batch."""
        if graphs not in self._plans:
            self._plans[graphs] = Planner(PlanConfig(self._sizes, Budget.make(max_graphs=graphs), "static"))
        return self._plans[graphs].config.static.shapes[-1]

    def bytes(self, graphs: int) -> int | None:
        """Return the bytes of a step; None where memory runs out."""
        if graphs not in self.measured:
            self.measured[graphs] = self._measure(graphs)
            self._probe.release()
        return self.measured[graphs]

    def _measure(self, graphs: int) -> int | None:
        shape, taken = self.shape(graphs), 0
        for indices in self._batches(graphs):
            items = [self._dataset[index] for index in indices]
            padded, _ = pad_batch(collate(self._workload, items), shape)
            del items
            step = partial(self._workload.step, padded)
            try:
                peak = run_step(
                    partial(self._probe.measure, step),
                    f"a training step on {graphs} graphs",
                    workload=self._workload,
                )
            except DoesNotFitError:
                return None
            del padded, step
            resident = resident_bytes(self._workload) if peak.resident is None else peak.resident
            taken = resident + peak.requested if peak.reserved is None else peak.reserved
        return taken

    def _batches(self, graphs: int) -> Iterator[list[int]]:
        plan = self._plans[graphs].plan()
        return islice(chain.from_iterable(repeat(list(islice(plan, STEPS)))), STEPS)


def _search(steps: _StaticSteps, first: int, memory: int) -> int | None:
    """Return the largest number of graphs per batch whose step fits, nearly; None where one does not."""
    fits, over, trial = 0, steps.graphs + 1, first
    for _ in range(_PROBES):
        taken = steps.bytes(trial)
        if taken is None or taken > memory:
            over = trial
        else:
            fits = trial
            if memory - taken <= _LEFT * memory:
                break
        further = steps.evenly(fits, 1) if fits else 1
        if further >= over or fits == steps.graphs:
            break
        trial = max(steps.evenly(_next(steps, memory, fits, over)), further)
        if trial >= over:
            trial = further
    return fits or None


def _next(steps: _StaticSteps, memory: int, fits: int, over: int) -> int:
    measured = sorted((graphs, taken) for graphs, taken in steps.measured.items() if taken is not None)
    if len(measured) < 2:
        # Half or twice as many give the second point of a line.
        return fits * 2 if fits else over // 2
    # The two that are nearest to the memory.
    (one, low), (other, high) = sorted(sorted(measured, key=lambda pair: abs(pair[1] - memory))[:2])
    if high <= low:
        return (fits + over) // 2 if over <= steps.graphs else 2 * fits
    return int(one + (memory - low) * (other - one) / (high - low))
