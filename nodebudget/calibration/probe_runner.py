"""Run probes of one workload on one device, from small to large, without running out of memory if possible."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from nodebudget.calibration.memory_model import Observation
from nodebudget.calibration.probe_candidates import ProbeCandidates
from nodebudget.calibration.probe_design import Indices, weights
from nodebudget.datasets.sample_error import SampleError
from nodebudget.errors import DoesNotFitError
from nodebudget.profiling.probe import SAFE_SHARE, Peak, Probe
from nodebudget.utils.byte_units import format_bytes
from nodebudget.workloads.protocol import Workload, dtype_of, parameter_count, resident_bytes
from nodebudget.workloads.run_step import asked_for, run_step
from nodebudget.workloads.sample_sizes import count_sample


class ProbeRunner:
    """Runs probes and remembers the bytes of its steps."""

    def __init__(self, workload: Workload, candidates: ProbeCandidates, probe: Probe) -> None:
        self._workload, self._candidates, self._probe = workload, candidates, probe
        self._weights = weights(candidates.sizes)
        self._measured: list[tuple[float, float]] = []  # weight, and bytes above the resident ones
        self._too_heavy = float("inf")

    def weight(self, batch: Indices) -> float:
        """Return a number that grows with the bytes of the batch."""
        return float(self._weights[batch].sum())

    def warm_up(self, batch: Indices) -> None:
        """Run two steps, so that optimizer state and library workspaces exist before the first probe.

        They run under the probe as well: the CPU's trace has a release only if it has the allocation.
        """
        samples = self._samples(batch)
        for _ in range(2):
            free = self._probe.free_bytes()
            try:
                self._measure(samples, batch)
            except DoesNotFitError as error:
                facts = [f"{format_bytes(free)} were free", asked_for(error.limit)]
                raise DoesNotFitError(
                    f"not even a training step on {self._names(batch)} fits into the memory of {self._probe.device}",
                    limit=", and ".join(fact for fact in facts if fact),
                    hint="free memory there, or make the model smaller",
                ) from error

    def recall(self, batch: Indices, observation: Observation | None) -> None:
        """Use the observation that an earlier run made of this batch."""
        if observation is None:
            return
        if observation.role == "out-of-memory":
            self._too_heavy = self.weight(batch)
        else:
            self._remember(observation, self.weight(batch))

    def observe(self, batch: Indices, role: str) -> Observation | None:
        """Measure a step; None if it is predicted not to fit, and was not run."""
        weight, free = self.weight(batch), self._probe.free_bytes()
        if weight >= self._too_heavy or self._expected(weight) > SAFE_SHARE * free:
            return None
        samples = self._samples(batch)
        sizes = self._count(samples, batch)
        started = time.perf_counter()
        try:
            peak, total = self._measure(samples, batch)
            seconds = time.perf_counter() - started
            resident = resident_bytes(self._workload) if peak.resident is None else peak.resident
            validation = self._validation_peak(samples, batch)
        except DoesNotFitError:
            self._too_heavy = weight
            self._probe.release()
            return Observation(sizes, peak=free, resident=0, role="out-of-memory")
        self._probe.release()
        observation = Observation(
            sizes,
            total,
            resident,
            role,
            allocated=peak.allocated,
            reserved=peak.reserved,
            outside=peak.outside,
            retries=peak.retries,
            seconds=round(seconds, 4),
            validation=validation,
        )
        self._remember(observation, weight)
        return observation

    def safe_bytes(self) -> float:
        """Return the bytes that a step may be predicted to take; a little less, since predictions differ by method."""
        return 0.95 * SAFE_SHARE * self._probe.free_bytes()

    def describe(self) -> dict[str, Any]:
        """Return device, model and dataset, for the record."""
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
            "data": self._candidates.describe(),
        }

    def _remember(self, observation: Observation, weight: float) -> None:
        # Memory runs out by what the allocator takes, not by what tensors ask for.
        taken = observation.peak if observation.allocated is None else observation.allocated
        self._measured.append((weight, taken - observation.resident))

    def _expected(self, weight: float) -> float:
        """Return the bytes that a batch may take, by the steps before it.

        On the steepest line from the lightest step through another: a part of a step's bytes is the same for every
        batch (the optimizer's, for example), so that the lightest step alone says nothing about heavier ones.
        """
        if len(self._measured) < 2:
            return 0.0
        lightest, constant = min(self._measured)
        slopes = [(taken - constant) / (other - lightest) for other, taken in self._measured if other > lightest]
        return constant + max([*slopes, 0.0]) * (weight - lightest)

    def _count(self, samples: list[Any], batch: Indices) -> dict[str, float]:
        """Count the very samples of a probe; sizes that only the table has (tokens) come from there."""
        sizes = self._candidates.sizes.totals(batch)
        try:
            rows = [count_sample(self._workload, sample) for sample in samples]
        except SampleError:
            return sizes  # samples of a type of the user's own, whose items were counted
        counted = {name: sum(row[name] for row in rows) for name in sizes if all(name in row for row in rows)}
        return {**sizes, **counted}

    def _samples(self, batch: Indices) -> list[Any]:
        doing = f"making samples of {self._names(batch)}"
        return run_step(lambda: [self._candidates.sample(int(index)) for index in batch], doing)

    def _measure(self, samples: list[Any], batch: Indices) -> tuple[Peak, int]:
        """Return what the probe saw of a training step, and its peak bytes, resident ones included."""
        return self._peak(self._workload.step, samples, f"a training step on {self._names(batch)}")

    def _validation_peak(self, samples: list[Any], batch: Indices) -> int | None:
        """Return the peak bytes of a validation step likewise; None if the workload has none."""
        validate = getattr(self._workload, "validate", None)
        if validate is None:
            return None
        self._probe.release()
        return self._peak(validate, samples, f"a validation step on {self._names(batch)}")[1]

    def _peak(self, step: Callable[[Any], Any], samples: list[Any], doing: str) -> tuple[Peak, int]:
        workload = self._workload
        # Where the device does not tell. Before the step: a validation step may release gradients.
        before = resident_bytes(workload)
        peak = run_step(lambda: self._probe.measure(lambda: step(workload.batch(samples))), doing, workload=workload)
        return peak, (before if peak.resident is None else peak.resident) + peak.requested

    def _names(self, batch: Indices) -> str:
        shown = [self._candidates.name(int(index)) for index in batch[:5]]
        more = f" and {len(batch) - 5} more" if len(batch) > 5 else ""
        return f"crystal{'s' if len(batch) > 1 else ''} {', '.join(shown)}{more}"
