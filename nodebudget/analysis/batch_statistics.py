"""Totals of random batches: mean, standard deviation, and the largest total of a shuffled epoch."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nodebudget.calibration.memory_model import Calibration
from nodebudget.datasets.size_table import SizeTable

Floats = npt.NDArray[np.float64]

_CELLS = 2**13  #: Cells of the grid on which a distribution of totals is computed.

#: Graphs drawn in a simulation that estimates a mean, and the least and the largest number of its epochs. The
#: largest total varies less the more batches there are.
_DRAWS, _MIN_EPOCHS, _MAX_EPOCHS = 500_000, 20, 400


@dataclass(frozen=True)
class Totals:
    """The cost of a batch of a fixed number of graphs: the total of a size, or its peak in bytes."""

    mean: float  #: Cost of a full batch with mean totals.
    std: float  #: Standard deviation of its total, for batches drawn without replacement.
    expected_max: float  #: Mean of the largest cost of a shuffled epoch, simulated; `mean` or more.
    standard_error: float  #: Standard error of `expected_max`.


@dataclass(frozen=True, eq=False)
class GraphCosts:
    """What each graph adds to a batch: a size, or bytes by segment of a max-affine calibration.

    The cost of a batch is the maximum over the segments of the fixed cost plus the sum over its graphs. The expected
    largest cost of an epoch is approximated by the maximum over the segments of the expected largest totals.
    """

    values: Floats  #: Costs, shape (graphs, segments).
    fixed: Floats  #: Cost of a batch without graphs, shape (segments,).
    floor: float  #: Minimum cost of a batch.

    @classmethod
    def of_size(cls, column: npt.ArrayLike) -> GraphCosts:
        """Take a size column, shape (graphs,), as the cost."""
        return cls(np.asarray(column, dtype=np.float64)[:, None], np.zeros(1), 0.0)

    @classmethod
    def of_bytes(cls, calibration: Calibration, sizes: SizeTable) -> GraphCosts:
        """Take the predicted bytes of the graphs of a dataset as the cost."""
        values = [calibration.graph_bytes(sizes, index) for index in range(len(calibration.segments))]
        fixed = np.array([segment["fixed"] for segment in calibration.segments])
        return cls(np.stack(values, axis=1), fixed, calibration.floor)

    def batch_costs(self, totals: Floats) -> Floats:
        """Return the costs of batches, shape (batches,), from their totals, shape (batches, segments)."""
        return np.asarray(np.maximum((totals + self.fixed).max(axis=1), self.floor), dtype=np.float64)

    def describe(self, batch_size: int, *, seed: int = 0) -> Totals:
        """Describe the costs of batches of shuffled epochs; the last batch of an epoch may have fewer graphs."""
        epochs = int(np.clip(_DRAWS // len(self.values), _MIN_EPOCHS, _MAX_EPOCHS))
        maxima = self.batch_costs(simulate_max(self.values, batch_size, epochs, np.random.default_rng(seed)))
        means, stds = zip(*(mean_and_std(column, batch_size) for column in self.values.T), strict=True)
        mean = self.mean_cost(batch_size)
        return Totals(
            mean,
            stds[int(np.argmax(np.array(means) + self.fixed))],
            max(float(maxima.mean()), mean),  # by chance the simulated mean of the maximum can be under the mean
            float(maxima.std(ddof=1) / epochs**0.5),
        )

    def mean_cost(self, batch_size: int) -> float:
        """Return the cost of a batch with mean totals."""
        drawn = min(batch_size, len(self.values))
        return float(self.batch_costs(drawn * self.values.mean(axis=0, keepdims=True))[0])

    def expected_max(self, batch_size: int) -> float:
        """Return the mean of the largest cost of an epoch, from the distribution of sums of each segment."""
        maxima = [[expected_max(column, batch_size) for column in self.values.T]]
        return float(self.batch_costs(np.array(maxima))[0])

    def draw(self, batch_size: int, count: int, rng: np.random.Generator) -> Floats:
        """Return the costs of `count` or more full batches of shuffled epochs, shape (batches,)."""
        drawn = min(batch_size, len(self.values))
        batches = len(self.values) // drawn
        totals = [
            rng.permutation(self.values)[: batches * drawn].reshape(batches, drawn, -1).sum(axis=1)
            for _ in range(-(-count // batches))
        ]
        return self.batch_costs(np.concatenate(totals))


def mean_and_std(values: Floats, batch_size: int) -> tuple[float, float]:
    """Return mean and standard deviation of the total of `batch_size` graphs drawn without replacement.

    B μ and σ √B √((N - B) / (N - 1)): Cochran, Sampling Techniques, theorem 2.2. `values` is one size, shape (graphs,).
    """
    drawn = min(batch_size, len(values))
    return drawn * float(values.mean()), float(values.std()) * drawn**0.5 * _finite_population(len(values), drawn)


def exceedance_probability(values: Floats, batch_size: int, limit: float) -> float:
    """Return the probability that a batch of a shuffled epoch has a total of `values`, shape (graphs,), over `limit`.

    The distribution of a total is that of independent draws, scaled to the standard deviation of draws without
    replacement; the batches of an epoch are treated as independent.
    """
    graphs, drawn = len(values), min(batch_size, len(values))
    mean, scale = drawn * float(values.mean()), _finite_population(graphs, drawn)
    if not scale or not values.std():
        return float(mean > limit)
    if limit < mean:
        return 1.0
    within = _cumulative(values, drawn, mean + (limit - mean) / scale)[-1]
    return float(1 - within ** (graphs // drawn))


def expected_max(values: Floats, batch_size: int) -> float:
    """Return the mean of the largest total of `values`, shape (graphs,), of an epoch's full batches.

    E[max] = ∫ (1 - F(x)^K) dx for K batches whose totals have the distribution F.
    """
    graphs, drawn = len(values), min(batch_size, len(values))
    mean, scale = drawn * float(values.mean()), _finite_population(graphs, drawn)
    if not scale or not values.std():
        return mean
    largest = float(values.max())
    top = min(drawn * largest, mean + 12 * float(values.std()) * drawn**0.5 + 2 * largest)
    above = 1 - _cumulative(values, drawn, top) ** (graphs // drawn)
    independent: float = (float(above.sum()) - float(above[0] + above[-1]) / 2) * top / _CELLS
    # No batch exceeds the total of the largest graphs.
    bound = float(np.partition(values, graphs - drawn)[graphs - drawn :].sum())
    return max(mean, min(mean + (independent - mean) * scale, bound))


def simulate_max(columns: Floats, batch_size: int, epochs: int, rng: np.random.Generator) -> Floats:
    """Return the largest total of each column in each of some shuffled epochs, shape (epochs, columns).

    `columns` has the shape (graphs, columns); the last batch may have fewer graphs.
    """
    starts, rows = np.arange(0, len(columns), batch_size), np.ascontiguousarray(columns.T)
    orders = (rng.permutation(len(columns)) for _ in range(epochs))
    return np.array([np.add.reduceat(rows.take(order, axis=1), starts, axis=1).max(axis=1) for order in orders])


def _finite_population(graphs: int, drawn: int) -> float:
    """Return the factor on the standard deviation because no graph is drawn twice."""
    return math.sqrt((graphs - drawn) / (graphs - 1)) if graphs > 1 else 0.0


def _cumulative(values: Floats, count: int, top: float) -> Floats:
    """Return P(total ≤ x) of `count` independent draws at x = 0, h, …, top, shape (cells + 1,)."""
    positions = values[values <= top] * (_CELLS / top)
    below = np.floor(positions).astype(np.int64)
    share = positions - below
    # Split each value between the two nearest cells, so that the grid preserves the mean.
    weights = np.bincount(below, 1 - share, minlength=_CELLS + 2) + np.bincount(below + 1, share, minlength=_CELLS + 2)
    # By numpy, since scipy.signal takes seconds to import. Totals over 2.25 × top wrap around to small ones; since no
    # value exceeds the top, they are rare: under 1% of the exceedance probability for a Pareto tail of exponent 1.2.
    length = 9 * _CELLS // 4
    spectrum = np.fft.rfft(weights[: _CELLS + 1] / len(values), length) ** count
    density: Floats = np.fft.irfft(spectrum, length)[: _CELLS + 1]
    return np.asarray(np.clip(np.cumsum(np.maximum(density, 0.0)), 0.0, 1.0))
