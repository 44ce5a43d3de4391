"""Time training steps on budget batches at a ladder of budgets."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from nodebudget.analysis.throughput import Advice, Point, analyse
from nodebudget.calibration.memory_model import CONFIDENCE, Calibration
from nodebudget.calibration.probe_design import size_columns
from nodebudget.calibration.time_model import TimedStep
from nodebudget.datasets.size_table import SizeTable
from nodebudget.errors import DoesNotFitError, InputError
from nodebudget.profiling.probe import SAFE_SHARE, Probe
from nodebudget.sampling.budget import Budget
from nodebudget.sampling.plan import Plan
from nodebudget.sampling.planner import make_plan
from nodebudget.workloads.protocol import Workload, to_sample
from nodebudget.workloads.run_step import run_step

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class TuneConfig:
    """How much to time.

    Attributes:
        budgets: Budgets of the ladder.
        batches: Batches at each budget.
        repeats: How often each batch is trained on; its time is the median.
        longest: Seconds of a step after which no larger budget is tried.
        seed: Seed of the plans and of the choice of batches.
    """

    budgets: int = 8
    batches: int = 3
    repeats: int = 3
    longest: float = 60.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least, most in (("budgets", 2, 100), ("batches", 1, 1000), ("repeats", 1, 1000)):
            if not least <= getattr(self, name) <= most:
                raise InputError(
                    f"{name} is {getattr(self, name)}", limit=f"{least} to {most}", hint="give a number in that range"
                )


def ladder(sizes: SizeTable, calibration: Calibration, memory: int, count: int) -> list[int]:
    """Return budgets from what the largest graph needs to the memory, or to all graphs in one batch.

    Args:
        sizes: The dataset.
        calibration: What graphs need.
        memory: Bytes of the largest budget.
        count: How many budgets.

    Returns:
        Bytes, ascending; what they leave for graphs grows by the same factor from one to the next.

    Raises:
        DoesNotFitError: A graph does not fit into the memory.
    """
    # Says which graphs are too large, and by how much.
    limits = Budget.make(calibration=calibration, memory=memory)
    items = limits.columns(sizes)[1]
    if items.oversized().any():
        make_plan(sizes, limits)
    needs = items.values[0]
    room = items.maxima[0]
    assert room is not None
    least, most = int(needs.max()), min(room, int(needs.sum()))
    rooms = np.ceil(np.geomspace(least, max(most, least), count))
    predicted = rooms + calibration.fixed
    # The memory whose upper bound leaves so much room; a few bytes more, so that no rounding leaves less.
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
    effort: TuneConfig | None = None,
    progress: Progress | None = None,
) -> Advice:
    """Time training steps on budget batches at a ladder of budgets.

    A step is timed from a batch that is on the device to the end of the optimizer; making batches is the loader's
    work, which goes on meanwhile.

    Args:
        workload: The training step.
        dataset: Items that `workload.sample` (or, without it, `workload.batch`) takes.
        sizes: Their sizes, in the same order.
        probe: Knows the device and its free memory.
        calibration: What a step needs.
        memory: Bytes of the largest budget; None takes 80% of what is free.
        effort: How much to time.
        progress: Called with budgets done and budgets in all.

    Raises:
        InputError: Dataset and sizes do not belong together, or too few steps were timed.
        DoesNotFitError: Graphs are larger than the memory allows, or no budget fits.
        WorkloadError: The training step raised.
    """
    plan = effort or TuneConfig()
    if len(dataset) != len(sizes):
        raise InputError(f"{len(sizes)} sizes for a dataset of {len(dataset)}", hint="measure the dataset again")
    budgets = ladder(sizes, calibration, memory or int(SAFE_SHARE * probe.free_bytes()), plan.budgets)
    timer = _Timer(workload, dataset, sizes, probe, plan)
    points: list[Point] = []
    for done, budget in enumerate(budgets, start=1):
        points.append(timer.time_budget(budget, calibration))
        if progress is not None:
            progress(done, len(budgets))
        if not points[-1].steps or max(step.seconds for step in points[-1].steps) > plan.longest:
            break
    return analyse(points, memory)


class _Timer:
    """Times steps of one workload on one device."""

    def __init__(self, workload: Workload, dataset: Any, sizes: SizeTable, probe: Probe, effort: TuneConfig) -> None:
        self._workload, self._dataset, self._sizes, self._probe = workload, dataset, sizes, probe
        self._effort, self._columns = effort, size_columns(sizes)

    def time_budget(self, budget: int, calibration: Calibration) -> Point:
        """Time some batches of the plan for a budget in bytes."""
        limits = Budget.make(calibration=calibration, memory=budget)
        plan = make_plan(self._sizes, limits, seed=self._effort.seed)
        totals = self._sizes.totals(np.arange(len(self._sizes)))
        return Point(budget, {name: totals[name] / len(plan) for name in self._columns}, self._time_batches(plan))

    def _time_batches(self, plan: Plan) -> tuple[TimedStep, ...]:
        """Return nothing where memory runs out."""
        rng = np.random.default_rng(self._effort.seed)
        chosen = rng.choice(len(plan), size=min(self._effort.batches, len(plan)), replace=False)
        try:
            self._seconds(self._samples(plan.batch(int(chosen[0]))))  # warm up at this size
            found = tuple(self._time(plan.batch(int(place))) for place in chosen)
        except DoesNotFitError:
            found = ()
        self._probe.release()
        return found

    def _time(self, batch: npt.NDArray[Any]) -> TimedStep:
        samples = self._samples(batch)
        repeats = [self._seconds(samples) for _ in range(self._effort.repeats)]
        seconds = statistics.median(repeats)
        totals = self._sizes.totals(batch)
        scatter = (max(repeats) - min(repeats)) / 2 / seconds
        return TimedStep({name: totals[name] for name in self._columns}, seconds, scatter)

    def _samples(self, batch: npt.NDArray[Any]) -> list[Any]:
        return [to_sample(self._workload, self._dataset[int(index)]) for index in batch]

    def _seconds(self, samples: list[Any]) -> float:
        def step() -> float:
            # A new one each time, since a step may leave things in its batch.
            batch = self._workload.batch(samples)
            self._wait()
            started = time.perf_counter()
            self._workload.step(batch)
            self._wait()
            return time.perf_counter() - started

        return run_step(step, "a training step", workload=self._workload)

    def _wait(self) -> None:
        if self._probe.device.startswith("cuda"):
            torch.cuda.synchronize(self._probe.device)
