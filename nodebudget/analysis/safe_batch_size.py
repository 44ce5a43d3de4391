"""The largest fixed batch size that a memory holds, and what a budget gets out of the same memory."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from nodebudget.analysis.batch_statistics import GraphBytes, exceedance_probability, moments, simulate_worst
from nodebudget.calibration.memory_model import Calibration
from nodebudget.datasets.size_table import SizeTable
from nodebudget.errors import InputError
from nodebudget.sampling.budget import Budget
from nodebudget.sampling.planner import make_plan

Floats = npt.NDArray[np.float64]

#: Graphs that a simulation of one batch size may draw, and its most epochs.
_DRAWS, _MOST = 300_000_000, 10_000

#: Epochs of a dataset too large to settle the question by simulation: enough to refute a wrong answer.
_FEW = 20

#: Confidence of the bounds on simulated probabilities.
_CONFIDENCE = 0.95


@dataclass(frozen=True)
class Trial:
    """Simulated epochs of one batch size.

    Attributes:
        epochs: How many were run.
        failures: How many had a batch over the memory.
        upper: Upper bound on the probability that an epoch has one, 95% confident (Clopper and Pearson, 1934).
        passed: The batch size stands.
    """

    epochs: int
    failures: int
    upper: float
    passed: bool


@dataclass(frozen=True)
class Risk:
    """The largest fixed batch size whose worst batch fits, beside a budget.

    Attributes:
        batch_size: The answer.
        probability: With which all batches of an epoch fit the memory.
        memory: Bytes.
        by_normal: What the normal approximation would have answered: too much where sizes have a heavy tail.
        trial: The simulated epochs of the answer.
        confirmed: The simulation alone shows the probability; in large datasets it only fails to refute what the
            distribution of sums says.
        mean_bytes: Predicted peak of a mean batch of that size.
        worst_bytes: Predicted peak of the worst batch of an epoch, on average.
        budget_batches: Batches of a plan within the same memory.
        budget_graphs: Mean and standard deviation of its graphs a batch.
        budget_bytes: Mean predicted peak of its batches.
        budget_worst: The largest of them.
    """

    batch_size: int
    probability: float
    memory: int
    by_normal: int
    trial: Trial
    confirmed: bool
    mean_bytes: float
    worst_bytes: float
    budget_batches: int
    budget_graphs: tuple[float, float]
    budget_bytes: float
    budget_worst: float

    @property
    def gain(self) -> float:
        """How many times as many graphs a batch the budget has."""
        return self.budget_graphs[0] / self.batch_size

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        mean, std = self.budget_graphs
        return {
            **self.__dict__,
            "trial": dict(self.trial.__dict__),
            "budget_graphs": {"mean": mean, "std": std},
            "gain": self.gain,
        }


def largest_safe_batch_size(
    sizes: SizeTable,
    calibration: Calibration,
    memory: int | str,
    probability: float = 0.999,
    *,
    seed: int = 0,
) -> Risk:
    """Find the largest fixed batch size whose worst batch of a shuffled epoch fits a memory.

    Both the fixed batches and the budget are held to the calibration's upper bound, not to its mean. The search
    starts from the distribution of sums (`nodebudget.analysis.batch_statistics.exceedance_probability`) and ends at the largest size that stands
    in simulated epochs.

    Args:
        sizes: One row a graph.
        calibration: Predicts bytes.
        memory: Bytes, or a text such as "40GiB": the peak of a training step, resident bytes included.
        probability: With which every batch of an epoch shall fit, between 0 and 1.
        seed: Of the simulation and of the plan, 0 or more.

    Raises:
        InputError: A probability outside (0, 1), no crystals, or a size that the calibration needs and is not given.
        DoesNotFitError: A single graph, or even a step without any, does not fit (OversizedError names the graphs).
    """
    if isinstance(probability, bool) or not 0 < probability < 1:
        raise InputError(f"a probability of {probability!r}", limit="between 0 and 1", hint="0.999 is usual")
    limits = Budget.make(calibration=calibration, memory=memory)
    plan = make_plan(sizes, limits, seed=seed)
    assert limits.memory is not None
    assert plan.predicted_bytes is not None
    graphs = GraphBytes.of(calibration, sizes)
    search = _Search(graphs.values, np.floor(calibration.room(limits.memory) - graphs.fixed), probability, seed)
    batch_size, trial = search.largest()
    mean = np.array([[moments(column, batch_size)[0] for column in graphs.values.T]])
    return Risk(
        batch_size,
        probability,
        limits.memory,
        _last_true(search.fits_if_normal, len(sizes)),
        trial,
        search.conclusive,
        float(graphs.peaks(mean)[0]),
        graphs.expected_worst(batch_size),
        len(plan),
        (float(plan.graphs.mean()), float(plan.graphs.std())),
        float(plan.predicted_bytes.mean()),
        float(plan.predicted_bytes.max()),
    )


class _Search:
    """Trials of batch sizes on one dataset.

    Args:
        values: Bytes of each graph by each affine piece, shape (graphs, pieces).
        rooms: Bytes that the graphs of a batch may take by each piece, shape (pieces,).
        probability: With which an epoch shall fit.
        seed: Of the simulation.
    """

    def __init__(self, values: Floats, rooms: Floats, probability: float, seed: int) -> None:
        self.values, self._rooms, self._risk, self._seed = values, rooms, 1 - probability, seed
        needed = int(np.ceil(np.log(1 - _CONFIDENCE) / np.log(probability)))
        affordable = min(_DRAWS // len(values), _MOST)
        self.conclusive = affordable >= needed
        self._epochs = affordable if self.conclusive else _FEW
        # As many failures as leave the upper bound within the risk; few epochs can only refute, by a single one.
        most = _last_true(lambda count: _upper(count - 1, affordable) <= self._risk, affordable) - 1
        self._allowed = most if self.conclusive else 0
        self._trials: dict[int, Trial] = {}

    def largest(self) -> tuple[int, Trial]:
        """Return the largest batch size that stands, and its trial.

        One graph a batch always stands: none is over the memory on its own.
        """
        low, high = 1, len(self.values) + 1
        guess = _last_true(lambda size: self.chance(size) <= self._risk, len(self.values))
        step = 1
        while high - low > 1:
            if not low < guess < high:
                guess = (low + high) // 2
            if self.trial(guess).passed:
                low, guess = guess, guess + step
            else:
                high, guess = guess, guess - step
            step *= 2
        return low, self.trial(low)

    def trial(self, batch_size: int) -> Trial:
        """Run epochs of a batch size, no more than it takes to see that it fails."""
        if batch_size not in self._trials:
            self._trials[batch_size] = self._run(batch_size)
        return self._trials[batch_size]

    def fits_if_normal(self, batch_size: int) -> bool:
        """Tell whether a batch size would stand if totals were normal."""
        batches = max(len(self.values) // batch_size, 1)
        sure = -NormalDist().inv_cdf(-math.expm1(math.log1p(-self._risk) / batches))
        columns = (moments(column, batch_size) for column in self.values.T)
        return all(mean + sure * std <= room for (mean, std), room in zip(columns, self._rooms, strict=True))

    def chance(self, batch_size: int) -> float:
        """Return at most the probability that an epoch has a batch over the memory, by the distribution of sums."""
        pieces = zip(self.values.T, self._rooms, strict=True)
        return min(1.0, sum(exceedance_probability(column, batch_size, float(room)) for column, room in pieces))

    def _run(self, batch_size: int) -> Trial:
        rng = np.random.default_rng([self._seed, batch_size])
        epochs = failures = 0
        while epochs < self._epochs and failures <= self._allowed:
            failures += int((simulate_worst(self.values, batch_size, 1, rng)[0] > self._rooms).any())
            epochs += 1
        passed = failures <= self._allowed
        if passed and not self.conclusive:
            passed = self.chance(batch_size) <= self._risk
        return Trial(epochs, failures, _upper(failures, epochs), passed)


def _upper(failures: int, epochs: int) -> float:
    """Return the Clopper-Pearson upper bound on a probability."""
    from scipy.special import betaincinv  # takes a second to import

    return 1.0 if failures == epochs else float(betaincinv(failures + 1, epochs - failures, _CONFIDENCE))


def _last_true(holds: Callable[[int], bool], most: int) -> int:
    """Return the largest number up to `most` for which something holds that holds up to some number; at least 1."""
    low, high = 1, most + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low
