"""Running probes: one workload on one device, safely, from small to large."""

from __future__ import annotations

import re
import time
from typing import Any

import numpy as np

from nodebudget.calibration.memory_model import Observation
from nodebudget.calibration.probe_candidates import ProbeCandidates
from nodebudget.calibration.probe_design import Indices, weights
from nodebudget.datasets.measure import measure_dataset
from nodebudget.errors import DoesNotFitError, InputError, NodeBudgetError, WorkloadError
from nodebudget.profiling.probe import Probe, is_out_of_memory
from nodebudget.utils.byte_units import format_bytes
from nodebudget.workloads.protocol import Workload, dtype_of, parameter_count, resident_bytes

#: Share of the free memory that a probe may be predicted to need.
SAFE_SHARE = 0.8


def _shortage(free: int, error: BaseException) -> str:
    asked = re.search(r"tried to allocate ([\d.]+ ?\w+)", str(error), re.IGNORECASE)
    more = f", and the step asked for {asked[1]} when less was left" if asked else ""
    return f"{format_bytes(free)} were free{more}"


class ProbeRunner:
    """One workload on one device, and what its steps took so far."""

    def __init__(self, workload: Workload, pool: ProbeCandidates, probe: Probe) -> None:
        self._workload, self._pool, self._probe = workload, pool, probe
        self._weights = weights(pool.sizes)
        self._seen: list[tuple[float, float]] = []  # weight, and bytes beyond what is resident
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

    def recall(self, batch: Indices, seen: Observation | None) -> None:
        """Learn from what an earlier run saw of this batch."""
        if seen is None:
            return
        if seen.role == "out-of-memory":
            self._largest_weight = self.weight(batch)
        else:
            self._learn(seen, self.weight(batch))

    def observe(self, batch: Indices, role: str) -> Observation | None:
        """Measure a step; None where it was not tried because it would not fit."""
        weight = self.weight(batch)
        free = self._probe.free_bytes()
        if weight >= self._largest_weight or self._foretold(weight) > SAFE_SHARE * free:
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
        self._probe.release()
        seen = Observation(
            sizes,
            resident + peak.requested,
            resident,
            role,
            allocated=peak.allocated,
            reserved=peak.reserved,
            outside=peak.outside,
            retries=peak.retries,
            seconds=round(seconds, 4),
        )
        self._learn(seen, weight)
        return seen

    def _learn(self, seen: Observation, weight: float) -> None:
        # What runs out is what the allocator takes, not what tensors ask for.
        taken = seen.peak if seen.allocated is None else seen.allocated
        self._seen.append((weight, taken - seen.resident))

    def _foretold(self, weight: float) -> float:
        """Return the bytes that a batch may need, by the steps before it.

        On the steepest line from the lightest step through another: a part of a step's bytes is the same for every
        batch (the optimizer's, say), and would be all of them by the lightest one alone.
        """
        if len(self._seen) < 2:
            return 0.0  # one step does not say what more graphs take; should it not fit, that is an observation
        lightest, constant = min(self._seen)
        slopes = [(taken - constant) / (other - lightest) for other, taken in self._seen if other > lightest]
        return constant + max([*slopes, 0.0]) * (weight - lightest)

    def _count(self, samples: list[Any], batch: Indices) -> dict[str, float]:
        """Count the very samples of a probe; sizes that only the table knows (tokens) come from there."""
        known = self._pool.sizes.totals(batch)
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
            "data": self._pool.describe(),
        }

    def _samples(self, batch: Indices) -> list[Any]:
        try:
            return [self._pool.sample(int(index)) for index in batch]
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
        shown = [self._pool.name(int(index)) for index in batch[:5]]
        more = f" and {len(batch) - 5} more" if len(batch) > 5 else ""
        return f"crystal{'s' if len(batch) > 1 else ''} {', '.join(shown)}{more}"
