"""Choose probes, run them, fit, check on held-out ones, record."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from nodebudget.costmodel import Calibration, Observation, fit_calibration
from nodebudget.design import Indices, choose_fit_batches, choose_holdout_batches, lightest_batch, size_columns, weights
from nodebudget.errors import DoesNotFitError, InputError, NodeBudgetError, WorkloadError
from nodebudget.measure import measure_dataset
from nodebudget.probe import Probe
from nodebudget.probe.base import is_out_of_memory
from nodebudget.record import provenance
from nodebudget.sizes import SizeTable
from nodebudget.units import format_bytes
from nodebudget.workload import Workload, dtype_of, parameter_count, resident_bytes, to_sample

#: Share of the free memory that a probe may be predicted to need.
SAFE_SHARE = 0.8

Progress = Callable[[int, int], None]


class Dataset(Protocol):
    """What probes are drawn from: a list, a torch Dataset, `nodebudget.measure.Data`."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


@dataclass(frozen=True)
class Effort:
    """How much to measure.

    Attributes:
        probes: Measured steps in all; a third of them is held out.
        largest: Most graphs in a probe.
        seed: Seed of the choice.
    """

    probes: int = 24
    largest: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        if not 9 <= self.probes <= 1000:
            raise InputError(f"{self.probes} probes", limit="9 to 1000", hint="24 is usual")
        if not 1 <= self.largest <= 100_000:
            raise InputError(f"a largest probe of {self.largest} graphs", limit="1 to 100,000")


def calibrate(
    workload: Workload,
    dataset: Dataset,
    sizes: SizeTable,
    probe: Probe,
    *,
    effort: Effort | None = None,
    context: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Calibration:
    """Measure training steps on batches of the dataset and fit what they take.

    Args:
        workload: The training step.
        dataset: Items that `workload.sample` (or, without it, `workload.batch`) takes.
        sizes: Their sizes, in the same order; used to choose the probes. What is fitted to is counted on the
            very samples that a probe ran.
        probe: Measures a step on the device.
        effort: How much to measure.
        context: Further facts for the record (data, command).
        progress: Called with probes done and probes in all.

    Raises:
        InputError: Dataset and sizes do not belong together, or too few steps fitted into memory.
        DoesNotFitError: Not even the smallest probe fits.
        WorkloadError: The training step raised.
    """
    plan = effort or Effort()
    if len(dataset) != len(sizes):
        raise InputError(f"{len(sizes)} sizes for a dataset of {len(dataset)}", hint="measure the dataset again")
    session = _Session(workload, dataset, sizes, probe)
    rng = np.random.default_rng(plan.seed)
    held_out = plan.probes // 3
    to_fit = choose_fit_batches(sizes, plan.probes - held_out - 1, plan.largest, rng)
    jobs = [("floor", lightest_batch(sizes)), *(("fit", batch) for batch in to_fit)]
    jobs += [("holdout", batch) for batch in choose_holdout_batches(sizes, held_out, plan.largest, rng)]
    # From small to large: what a large probe needs is foretold by the smaller ones before it.
    jobs.sort(key=lambda job: session.weight(job[1]))
    observations = []
    session.warm_up(jobs[0][1])
    for done, (role, batch) in enumerate(jobs, start=1):
        observations.append(session.observe(batch, role))
        if progress is not None:
            progress(done, len(jobs))
    return fit_calibration(
        [entry for entry in observations if entry is not None],
        size_columns(sizes),
        context={**session.describe(), **provenance(), **(context or {})},
    )


def _shortage(free: int, error: BaseException) -> str:
    asked = re.search(r"tried to allocate ([\d.]+ ?\w+)", str(error), re.IGNORECASE)
    more = f", and the step asked for {asked[1]} when less was left" if asked else ""
    return f"{format_bytes(free)} were free{more}"


class _Session:
    """One workload on one device, and what its steps took so far."""

    def __init__(self, workload: Workload, dataset: Dataset, sizes: SizeTable, probe: Probe) -> None:
        self._workload, self._dataset, self._sizes, self._probe = workload, dataset, sizes, probe
        self._weights = weights(sizes)
        self._bytes_a_weight = 0.0
        self._largest_weight = float("inf")

    def weight(self, batch: Indices) -> float:
        """Return a number that grows with what the batch needs."""
        return float(self._weights[batch].sum())

    def warm_up(self, batch: Indices) -> None:
        """Run the smallest batch, so that optimizer state and library workspaces are there before the first probe.

        It runs under the probe as well: the CPU's trace knows a release only if it saw the allocation.
        """
        samples = self._samples(batch)
        for _ in range(2):
            free = self._probe.free_bytes()
            try:
                self._probe.measure(lambda: self._run(samples, batch))
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                raise DoesNotFitError(
                    f"not even a training step on {self._names(batch)} fits into the memory of {self._probe.device}",
                    limit=_shortage(free, error),
                    hint="free memory there, or make the model smaller",
                ) from error

    def observe(self, batch: Indices, role: str) -> Observation | None:
        """Measure a step; None where it was not tried because it would not fit."""
        weight = self.weight(batch)
        free = self._probe.free_bytes()
        if weight >= self._largest_weight or weight * self._bytes_a_weight > SAFE_SHARE * free:
            return None
        samples = self._samples(batch)
        sizes = self._count(samples, batch)
        started = time.perf_counter()
        peak = None
        try:
            peak = self._probe.measure(lambda: self._run(samples, batch))
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        if peak is None:
            # Only here, since the error holds the tensors of the step that it came out of.
            self._largest_weight = weight
            self._workload.optimizer.zero_grad(set_to_none=True)
            self._probe.release()
            return Observation(sizes, peak=free, resident=0, role="out-of-memory")
        seconds = time.perf_counter() - started
        resident = resident_bytes(self._workload) if peak.resident is None else peak.resident
        self._bytes_a_weight = max(self._bytes_a_weight, peak.allocated / weight)
        self._probe.release()
        return Observation(
            sizes, resident + peak.allocated, resident, role, peak.reserved, peak.outside, round(seconds, 4)
        )

    def _count(self, samples: list[Any], batch: Indices) -> dict[str, float]:
        """Count the very samples of a probe; sizes that only the table knows (tokens) come from there."""
        known = self._sizes.totals(batch)
        try:
            counted = measure_dataset(samples).totals(np.arange(len(samples)))
        except InputError:
            return known  # samples of the user's own kind
        return {**known, **{name: value for name, value in counted.items() if name in known}}

    def describe(self) -> dict[str, Any]:
        """Return device, model and data, for the record."""
        workload = self._workload
        return {
            "device": self._probe.describe(),
            "model": {
                "name": getattr(workload, "name", type(workload.model).__qualname__),
                "parameters": parameter_count(workload),
                "dtype": dtype_of(workload),
                "optimizer": type(workload.optimizer).__name__,
                "config": getattr(workload, "config", None),
            },
            "data": {
                "fingerprint": self._sizes.fingerprint(),
                "settings": dict(self._sizes.settings),
                "statistics": self._sizes.statistics(),
            },
        }

    def _samples(self, batch: Indices) -> list[Any]:
        try:
            return [to_sample(self._workload, self._dataset[int(index)]) for index in batch]
        except NodeBudgetError:
            raise
        except Exception as error:
            raise self._blame(error, batch, "making samples of") from error

    def _run(self, samples: list[Any], batch: Indices) -> None:
        try:
            made = self._workload.batch(samples)
            self._workload.step(made)
        except Exception as error:
            if is_out_of_memory(error) or isinstance(error, NodeBudgetError):
                raise
            raise self._blame(error, batch, "a training step on") from error

    def _blame(self, error: Exception, batch: Indices, doing: str) -> WorkloadError:
        reason = (str(error).strip().splitlines() or [""])[0][:200]
        return WorkloadError(
            f"the workload raised {type(error).__name__} in {doing} {self._names(batch)}: {reason}",
            hint="run that step by itself to see where",
        )

    def _names(self, batch: Indices) -> str:
        ids = self._sizes.ids
        shown = [str(index) if ids is None else str(ids[index]) for index in batch[:5]]
        more = f" and {len(batch) - 5} more" if len(batch) > 5 else ""
        return f"crystal{'s' if len(batch) > 1 else ''} {', '.join(shown)}{more}"
