"""The largest fixed batch size that fits a memory, beside the batches of a memory budget."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from nodebudget.analysis.batch_statistics import GraphCosts, exceedance_probability, mean_and_std, simulate_max
from nodebudget.calibration.memory_model import Calibration
from nodebudget.datasets.size_table import SizeTable
from nodebudget.errors import InputError
from nodebudget.sampling.budget import Budget
from nodebudget.sampling.planner import make_plan

Floats = npt.NDArray[np.float64]

#: Graphs that the simulation of one batch size may draw, and its maximum number of epochs.
_DRAWS, _MAX_EPOCHS = 300_000_000, 10_000

_FEW_EPOCHS = 20  #: Simulated epochs of a dataset that is too large for a conclusive simulation.
_CONFIDENCE = 0.95  #: Confidence of the bounds on simulated probabilities.


@dataclass(frozen=True)
class Trial:
    """Simulated epochs of one batch size."""

    epochs: int  #: Number of simulated epochs.
    failures: int  #: Number of epochs with a batch over the memory.
    upper: float  #: Upper bound on the probability of such an epoch, with 95% confidence (Clopper and Pearson, 1934).
    passed: bool  #: Whether the batch size is safe.


@dataclass(frozen=True)
class Risk:
    """The largest fixed batch size whose largest batch fits, beside a budget."""

    batch_size: int  #: The answer.
    probability: float  #: Probability with which all batches of an epoch shall fit.
    memory: int  #: Bytes.
    by_normal: int  #: The answer under a normal approximation, too large for sizes with a heavy tail.
    trial: Trial  #: The simulated epochs of the answer.
    #: Whether the simulation alone shows the probability; for large datasets it only does not contradict the
    #: distribution of sums.
    confirmed: bool
    mean_bytes: float  #: Predicted peak of a mean batch of that size.
    max_bytes: float  #: Predicted peak of the largest batch of an epoch, on average.
    budget_batches: int  #: Batches of a plan within the same memory.
    budget_graphs: tuple[float, float]  #: Mean and standard deviation of its graphs per batch.
    budget_bytes: float  #: Mean predicted peak of its batches.
    budget_max: float  #: Largest predicted peak of its batches.

    @property
    def gain(self) -> float:
        """Graphs per batch of the budget over the fixed batch size."""
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
    """Find the largest fixed batch size with which all batches of a shuffled epoch fit a memory.

    Both the fixed batches and the budget use the calibration's upper bound, not its mean. The search starts from the
    distribution of sums (`nodebudget.analysis.batch_statistics.exceedance_probability`) and ends at the largest size
    that passes in simulated epochs.

    Args:
        sizes: One row per graph.
        calibration: Predicts bytes.
        memory: Bytes, or a text such as "40GiB": the peak of a training step, resident bytes included.
        probability: Probability with which all batches of an epoch shall fit, between 0 and 1.
        seed: Random seed of the simulation and of the plan, 0 or more.

    Raises:
        InputError: The probability is outside (0, 1), there are no crystals, or a size that the calibration needs is
            missing.
        DoesNotFitError: A single graph, or a step without graphs, does not fit (OversizedError names the graphs).
    """
    if isinstance(probability, bool) or not 0 < probability < 1:
        raise InputError(f"a probability of {probability!r}", limit="between 0 and 1", hint="0.999 is usual")
    budget = Budget.make(calibration=calibration, memory=memory)
    plan = make_plan(sizes, budget, seed=seed)
    assert budget.memory is not None
    assert plan.predicted_bytes is not None
    graphs = GraphCosts.of_bytes(calibration, sizes)
    available = np.floor(calibration.max_prediction(budget.memory) - graphs.fixed)
    search = _Search(graphs.values, available, probability, seed)
    batch_size, trial = search.largest()
    return Risk(
        batch_size,
        probability,
        budget.memory,
        _last_true(search.fits_if_normal, len(sizes)),
        trial,
        search.conclusive,
        graphs.mean_cost(batch_size),
        graphs.expected_max(batch_size),
        len(plan),
        (float(plan.graphs.mean()), float(plan.graphs.std())),
        float(plan.predicted_bytes.mean()),
        float(plan.predicted_bytes.max()),
    )


class _Search:
    """Trials of batch sizes on one dataset.

    `values` are the bytes of each graph by segment, shape (graphs, segments), `headroom` those that the graphs of a
    batch may take, shape (segments,); `probability` is that with which an epoch shall fit.
    """

    def __init__(self, values: Floats, headroom: Floats, probability: float, seed: int) -> None:
        self.values, self._headroom, self._risk, self._seed = values, headroom, 1 - probability, seed
        needed = int(np.ceil(np.log(1 - _CONFIDENCE) / np.log(probability)))
        affordable = min(_DRAWS // len(values), _MAX_EPOCHS)
        self.conclusive = affordable >= needed
        self._epochs = affordable if self.conclusive else _FEW_EPOCHS
        self._allowed = 0
        if self.conclusive:
            # The largest number of failures whose upper bound is within the risk.
            within = lambda count: _upper(count - 1, affordable) <= self._risk  # noqa: E731
            self._allowed = _last_true(within, affordable) - 1
        self._trials: dict[int, Trial] = {}

    def largest(self) -> tuple[int, Trial]:
        """Return the largest batch size that passes, and its trial; 1 always passes, since a plan was made."""
        low, high = 1, len(self.values) + 1
        guess = _last_true(lambda size: self._exceedance(size) <= self._risk, len(self.values))
        step = 1
        while high - low > 1:
            if not low < guess < high:
                guess = (low + high) // 2
            if self._trial(guess).passed:
                low, guess = guess, guess + step
            else:
                high, guess = guess, guess - step
            step *= 2
        return low, self._trial(low)

    def fits_if_normal(self, batch_size: int) -> bool:
        """Tell whether a batch size would pass if totals were normally distributed."""
        batches = max(len(self.values) // batch_size, 1)
        quantile = -NormalDist().inv_cdf(-math.expm1(math.log1p(-self._risk) / batches))
        columns = (mean_and_std(column, batch_size) for column in self.values.T)
        return all(mean + quantile * std <= limit for (mean, std), limit in zip(columns, self._headroom, strict=True))

    def _exceedance(self, batch_size: int) -> float:
        """Return an upper bound on the probability of an epoch with a batch over the memory, from the distribution."""
        columns = zip(self.values.T, self._headroom, strict=True)
        return min(1.0, sum(exceedance_probability(column, batch_size, float(limit)) for column, limit in columns))

    def _trial(self, batch_size: int) -> Trial:
        """Simulate epochs of a batch size, up to the one that shows that it fails."""
        if batch_size not in self._trials:
            rng = np.random.default_rng([self._seed, batch_size])
            epochs = failures = 0
            while epochs < self._epochs and failures <= self._allowed:
                failures += int((simulate_max(self.values, batch_size, 1, rng)[0] > self._headroom).any())
                epochs += 1
            passed = failures <= self._allowed and (self.conclusive or self._exceedance(batch_size) <= self._risk)
            self._trials[batch_size] = Trial(epochs, failures, _upper(failures, epochs), passed)
        return self._trials[batch_size]


def _upper(failures: int, epochs: int) -> float:
    """Return the Clopper-Pearson upper bound on a probability."""
    from scipy.special import betaincinv  # takes a second to import

    return 1.0 if failures == epochs else float(betaincinv(failures + 1, epochs - failures, _CONFIDENCE))


def _last_true(holds: Callable[[int], bool], maximum: int) -> int:
    """Return the largest number in 1…maximum for which a decreasing condition holds; 1 if it holds for none."""
    return max(1, bisect_left(range(1, maximum + 1), True, key=lambda number: not holds(number)))
