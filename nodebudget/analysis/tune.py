"""Time training steps on batches of several budgets."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from nodebudget.analysis.throughput import Advice, TimedBudget, analyse
from nodebudget.calibration.memory_model import CONFIDENCE, Calibration
from nodebudget.calibration.probe_design import size_columns
from nodebudget.calibration.time_model import TimedStep
from nodebudget.datasets.size_table import SizeTable
from nodebudget.errors import DoesNotFitError, InputError
from nodebudget.profiling.probe import SAFE_SHARE, Probe
from nodebudget.sampling.budget import Budget
from nodebudget.sampling.planner import make_plan
from nodebudget.utils.checks import check_count
from nodebudget.workloads.protocol import Workload, to_sample
from nodebudget.workloads.run_step import run_step

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class TuneConfig:
    """What to time.

    Attributes:
        budgets: Number of budgets.
        batches: Batches per budget.
        repeats: Timed steps per batch; the time of the batch is their median.
        max_step_seconds: No larger budget is tried once a step takes longer.
        seed: Random seed of the plans and of the choice of batches.
    """

    budgets: int = 8
    batches: int = 3
    repeats: int = 3
    max_step_seconds: float = 60.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, minimum, maximum in (("budgets", 2, 100), ("batches", 1, 1000), ("repeats", 1, 1000)):
            check_count(name, getattr(self, name), minimum, maximum)


def budget_grid(sizes: SizeTable, calibration: Calibration, memory: int, count: int) -> list[int]:
    """Return `count` budgets, bytes, ascending: from the largest graph alone to the memory, or to all graphs.

    The bytes that they leave for graphs form a geometric sequence. Raises a DoesNotFitError if a graph does not fit.
    """
    budget = Budget.make(calibration=calibration, memory=memory)
    items = budget.columns(sizes)[1]
    if items.oversized().any():
        make_plan(sizes, budget)  # raises an error that names the graphs
    cost, headroom = items.values[0], items.maxima[0]
    assert headroom is not None
    smallest, largest = int(cost.max()), min(headroom, int(cost.sum()))
    predicted = np.ceil(np.geomspace(smallest, max(largest, smallest), count)) + calibration.fixed
    # The memory whose upper bound allows that prediction; a few bytes more against rounding.
    bounds = predicted * (1 + calibration.bound.margin(predicted, CONFIDENCE)) + 16
    return sorted({min(int(bound), memory) for bound in bounds})


def tune(
    workload: Workload,
    dataset: Any,
    sizes: SizeTable,
    probe: Probe,
    calibration: Calibration,
    *,
    memory: int | None = None,
    config: TuneConfig | None = None,
    progress: Progress | None = None,
) -> Advice:
    """Time training steps at several budgets and recommend one of them.

    The time of a step is from a batch on the device to the end of the optimizer step; a data loader makes batches
    meanwhile.

    Args:
        workload: The training step.
        dataset: The samples.
        sizes: Their sizes, in the same order.
        probe: Probe of the device.
        calibration: Predicts bytes.
        memory: Largest budget, bytes; None takes 80% of the free memory.
        config: What to time.
        progress: Called with the number of budgets done and of all budgets.

    Raises:
        InputError: The dataset and the sizes have different lengths, or too few steps were timed.
        DoesNotFitError: A graph does not fit into the memory, or no budget fits.
        WorkloadError: The training step raised an error.
    """
    config = config or TuneConfig()
    if len(dataset) != len(sizes):
        raise InputError(f"{len(sizes)} sizes for a dataset of {len(dataset)}", hint="measure the dataset again")
    grid = budget_grid(sizes, calibration, memory or int(SAFE_SHARE * probe.free_bytes()), config.budgets)
    timer = _Timer(workload, dataset, sizes, probe, config)
    budgets: list[TimedBudget] = []
    for done, bytes_ in enumerate(grid, start=1):
        budgets.append(timer.time_budget(bytes_, calibration))
        if progress is not None:
            progress(done, len(grid))
        seconds = [step.seconds for step in budgets[-1].steps]
        if not seconds or max(seconds) > config.max_step_seconds:
            break
    return analyse(budgets, memory)


@dataclass(frozen=True)
class _Timer:
    """Times steps of one workload on one device."""

    workload: Workload
    dataset: Any
    sizes: SizeTable
    probe: Probe
    config: TuneConfig

    def time_budget(self, budget: int, calibration: Calibration) -> TimedBudget:
        """Time some batches of a plan for a budget in bytes."""
        plan = make_plan(self.sizes, Budget.make(calibration=calibration, memory=budget), seed=self.config.seed)
        means = {name: total / len(plan) for name, total in self._totals(np.arange(len(self.sizes))).items()}
        rng = np.random.default_rng(self.config.seed)
        chosen = rng.choice(len(plan), size=min(self.config.batches, len(plan)), replace=False)
        try:
            self._seconds(self._samples(plan.batch(int(chosen[0]))))  # warm up at this size
            steps = tuple(self._time_batch(plan.batch(int(index))) for index in chosen)
        except DoesNotFitError:
            steps = ()
        self.probe.release()
        return TimedBudget(budget, means, steps)

    def _time_batch(self, batch: npt.NDArray[Any]) -> TimedStep:
        samples = self._samples(batch)
        repeats = [self._seconds(samples) for _ in range(self.config.repeats)]
        seconds = statistics.median(repeats)
        return TimedStep(self._totals(batch), seconds, (max(repeats) - min(repeats)) / 2 / seconds)

    def _totals(self, batch: npt.NDArray[Any]) -> dict[str, float]:
        totals = self.sizes.totals(batch)
        return {name: totals[name] for name in size_columns(self.sizes)}

    def _samples(self, batch: npt.NDArray[Any]) -> list[Any]:
        return [to_sample(self.workload, self.dataset[int(index)]) for index in batch]

    def _seconds(self, samples: list[Any]) -> float:
        def step() -> float:
            # A new batch each time, since a step may add to it.
            batch = self.workload.batch(samples)
            self._wait()
            started = time.perf_counter()
            self.workload.step(batch)
            self._wait()
            return time.perf_counter() - started

        return run_step(step, "a training step", workload=self.workload)

    def _wait(self) -> None:
        if self.probe.device.startswith("cuda"):
            torch.cuda.synchronize(self.probe.device)
