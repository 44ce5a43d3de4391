"""Totals of random batches: mean, standard deviation, and the largest total of a shuffled epoch."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nodebudget.calibration.memory_model import Calibration
from nodebudget.datasets.size_table import SizeTable

Floats = npt.NDArray[np.float64]

#: Cells of the grid on which a distribution of totals is computed.
_CELLS = 2**13

#: Graphs drawn in a simulation that estimates a mean, and the least and the largest number of its epochs. The more
#: batches an epoch has, the less its largest total varies.
_DRAWS, _MIN_EPOCHS, _MAX_EPOCHS = 500_000, 20, 400


@dataclass(frozen=True)
class Totals:
    """The total of one size over a batch of a fixed number of graphs.

    Attributes:
        mean: Mean total of a full batch.
        std: Its standard deviation, for batches drawn without replacement.
        expected_max: Mean of the largest total of a shuffled epoch, simulated; `mean` or more.
        standard_error: Standard error of `expected_max`.
        analytic_max: The same mean from the distribution of sums, without a simulation.
    """

    mean: float
    std: float
    expected_max: float
    standard_error: float
    analytic_max: float

    def to_dict(self) -> dict[str, float]:
        """Return plain values for JSON."""
        return dict(self.__dict__)


def describe_totals(columns: npt.ArrayLike, batch_size: int, *, seed: int = 0) -> list[Totals]:
    """Describe the totals of batches of shuffled epochs.

    Args:
        columns: Sizes, shape (graphs, columns).
        batch_size: Graphs per batch; the last batch of an epoch may have fewer.
        seed: Random seed of the simulation.

    Returns:
        One entry per column.
    """
    values = np.asarray(columns, dtype=np.float64)
    maxima = _simulate(values, batch_size, seed)
    return [
        _totals(*mean_and_std(column, batch_size), seen, expected_max(column, batch_size))
        for column, seen in zip(values.T, maxima.T, strict=True)
    ]


@dataclass(frozen=True, eq=False)
class GraphBytes:
    """Bytes that each graph adds to the peak of a step, by segment of a max-affine calibration.

    The peak of a batch is the maximum over the segments of the fixed bytes plus the sum over its graphs. The expected
    largest peak of an epoch is approximated by the maximum over the segments of the expected largest totals.

    Attributes:
        values: Bytes, shape (graphs, segments).
        fixed: Bytes of a step without graphs, shape (segments,).
        floor: Bytes of the smallest step.
    """

    values: Floats
    fixed: Floats
    floor: float

    @classmethod
    def of(cls, calibration: Calibration, sizes: SizeTable) -> GraphBytes:
        """Compute them for a dataset.

        Raises:
            InputError: The sizes lack a column that the calibration depends on.
        """
        values = [calibration.graph_bytes(sizes, index) for index in range(len(calibration.segments))]
        fixed = np.array([segment["fixed"] for segment in calibration.segments])
        return cls(np.stack(values, axis=1), fixed, calibration.floor)

    def peaks(self, totals: Floats) -> Floats:
        """Return the peaks of batches, shape (batches,), from their totals, shape (batches, segments)."""
        return np.asarray(np.maximum((totals + self.fixed).max(axis=1), self.floor), dtype=np.float64)

    def describe(self, batch_size: int, *, seed: int = 0) -> Totals:
        """Describe the peaks of batches; mean and standard deviation are those of the segment of a mean batch."""
        maxima = self.peaks(_simulate(self.values, batch_size, seed))
        means, stds = zip(*(mean_and_std(column, batch_size) for column in self.values.T), strict=True)
        segment = int(np.argmax(np.array(means) + self.fixed))
        mean = float(self.peaks(np.array([means]))[0])
        return _totals(mean, stds[segment], maxima, self.expected_max(batch_size))

    def mean_peak(self, batch_size: int) -> float:
        """Return the peak of a batch with mean totals, bytes."""
        drawn = min(batch_size, len(self.values))
        return float(self.peaks(drawn * self.values.mean(axis=0, keepdims=True))[0])

    def expected_max(self, batch_size: int) -> float:
        """Return the mean of the largest peak of an epoch, bytes, from the distribution of sums of each segment."""
        return float(self.peaks(np.array([[expected_max(column, batch_size) for column in self.values.T]]))[0])


def mean_and_std(values: Floats, batch_size: int) -> tuple[float, float]:
    """Return mean and standard deviation of the total of `batch_size` graphs drawn without replacement.

    B μ and σ √B √((N - B) / (N - 1)): Cochran, Sampling Techniques, theorem 2.2.

    Args:
        values: One size, shape (graphs,).
        batch_size: Graphs per batch; all graphs if there are fewer.
    """
    drawn = min(batch_size, len(values))
    return drawn * float(values.mean()), float(values.std()) * drawn**0.5 * _finite_population(len(values), drawn)


def exceedance_probability(values: Floats, batch_size: int, limit: float) -> float:
    """Return the probability that a shuffled epoch has a batch whose total exceeds `limit`.

    The distribution of a total is that of independent draws, scaled to the standard deviation of draws without
    replacement; the batches of an epoch are treated as independent.

    Args:
        values: One size, 0 or more, shape (graphs,).
        batch_size: Graphs per batch.
        limit: In the unit of `values`.
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
    """Return the mean of the largest total of an epoch's full batches, from the distribution of sums.

    E[max] = ∫ (1 - F(x)^K) dx for K batches whose totals have the distribution F.

    Args:
        values: One size, 0 or more, shape (graphs,).
        batch_size: Graphs per batch.
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

    Args:
        columns: Sizes, shape (graphs, columns).
        batch_size: Graphs per batch; the last batch may have fewer.
        epochs: Number of epochs.
        rng: Random number generator.
    """
    starts, rows = np.arange(0, len(columns), batch_size), np.ascontiguousarray(columns.T)
    orders = (rng.permutation(len(columns)) for _ in range(epochs))
    return np.array([np.add.reduceat(rows.take(order, axis=1), starts, axis=1).max(axis=1) for order in orders])


def draw_totals(columns: Floats, batch_size: int, count: int, rng: np.random.Generator) -> Floats:
    """Return the totals of `count` or more full batches of shuffled epochs, shape (batches, columns)."""
    drawn = min(batch_size, len(columns))
    batches = len(columns) // drawn
    epochs = [
        rng.permutation(columns)[: batches * drawn].reshape(batches, drawn, -1).sum(axis=1)
        for _ in range(-(-count // batches))
    ]
    return np.concatenate(epochs)


def _simulate(columns: Floats, batch_size: int, seed: int) -> Floats:
    epochs = int(np.clip(_DRAWS // len(columns), _MIN_EPOCHS, _MAX_EPOCHS))
    return simulate_max(columns, batch_size, epochs, np.random.default_rng(seed))


def _totals(mean: float, std: float, maxima: Floats, analytic_max: float) -> Totals:
    # By chance the simulated mean of the maximum can be under the exact mean.
    simulated, error = max(float(maxima.mean()), mean), float(maxima.std(ddof=1) / len(maxima) ** 0.5)
    return Totals(mean, std, simulated, error, analytic_max)


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
    return np.clip(np.cumsum(_power(weights[: _CELLS + 1] / len(values), count)), 0.0, 1.0)


def _power(weights: Floats, count: int) -> Floats:
    """Convolve a distribution with itself; sizes are not negative, so the part above the top can be cut off."""
    result = weights
    for bit in f"{count:b}"[1:]:  # square and multiply
        result = _convolve(result, result)
        if bit == "1":
            result = _convolve(result, weights)
    return result


def _convolve(first: Floats, second: Floats) -> Floats:
    # numpy's transform: scipy.signal takes seconds to import. Long enough that the end does not wrap to the start.
    length = 9 * _CELLS // 4
    spectrum = np.fft.rfft(first, length)
    product = np.fft.irfft(spectrum * (spectrum if second is first else np.fft.rfft(second, length)), length)
    return np.asarray(np.maximum(product[: len(first)], 0.0), dtype=np.float64)
