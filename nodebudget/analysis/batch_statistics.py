"""Totals of random batches: their distribution, and the worst batch of a shuffled epoch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nodebudget.calibration.memory_model import Calibration
from nodebudget.datasets.size_table import SizeTable
from nodebudget.errors import InputError

Floats = npt.NDArray[np.float64]

#: Cells of the grid that a distribution is worked out on.
_CELLS = 2**13

#: Graphs drawn in a simulation where only a mean is asked for, and how many epochs that may be.
_DRAWS, _FEWEST, _MOST = 20_000_000, 20, 400


@dataclass(frozen=True)
class Totals:
    """What batches of a fixed number of graphs hold of one size.

    Attributes:
        mean: Mean total of a full batch.
        std: Its standard deviation, drawn without replacement.
        worst: Mean of the largest total of a shuffled epoch, simulated; not under `mean`, which it can't be in truth.
        worst_error: Standard error of `worst`.
        worst_by_distribution: The same from the distribution of sums, without a simulation.
    """

    mean: float
    std: float
    worst: float
    worst_error: float
    worst_by_distribution: float

    def to_dict(self) -> dict[str, float]:
        """Return plain values for JSON."""
        return dict(self.__dict__)


def check_batch_size(batch_size: object) -> int:
    """Return a batch size, or refuse it.

    Raises:
        InputError: It is no whole number, or under 1.
    """
    if isinstance(batch_size, bool) or not isinstance(batch_size, (int, np.integer)) or batch_size < 1:
        raise InputError(
            f"a batch size of {batch_size!r}", limit="a whole number, 1 or more", hint="give the batch size of your run"
        )
    return int(batch_size)


def describe_totals(columns: npt.ArrayLike, batch_size: int, *, seed: int = 0) -> list[Totals]:
    """Describe the totals of batches of shuffled epochs.

    Args:
        columns: Sizes, shape (graphs, columns).
        batch_size: Graphs a batch; the last batch of an epoch has what is left.
        seed: Of the simulation.

    Returns:
        One entry a column.
    """
    values = np.asarray(columns, dtype=np.float64)
    epochs = _epochs(len(values))
    seen = simulate_worst(values, batch_size, epochs, np.random.default_rng(seed))
    error = seen.std(axis=0, ddof=1) / epochs**0.5
    found = []
    for place in range(values.shape[1]):
        mean, std = moments(values[:, place], batch_size)
        expected = expected_worst(values[:, place], batch_size)
        worst = max(float(seen[:, place].mean()), mean)
        found.append(Totals(mean, std, worst, float(error[place]), expected))
    return found


@dataclass(frozen=True, eq=False)
class GraphBytes:
    """What each graph adds to the peak of a step, by each affine piece of a calibration.

    The peak of a batch is the largest over the pieces of what is fixed and what its graphs add, and the worst peak of
    an epoch the largest over the pieces of the worst totals.

    Attributes:
        values: Bytes, shape (graphs, pieces).
        fixed: Bytes of a step without any graph, shape (pieces,).
        floor: Bytes of the smallest step.
    """

    values: Floats
    fixed: Floats
    floor: float

    @classmethod
    def of(cls, calibration: Calibration, sizes: SizeTable) -> GraphBytes:
        """Work it out.

        Raises:
            InputError: The sizes lack a column that the calibration depends on.
        """
        values = [calibration.graph_bytes(sizes, place) for place in range(len(calibration.affine))]
        fixed = np.array([piece["fixed"] for piece in calibration.affine])
        return cls(np.stack(values, axis=1), fixed, calibration.floor)

    def peaks(self, totals: Floats) -> Floats:
        """Return the peak of each batch, shape (batches,), of its totals by piece, shape (batches, pieces)."""
        return np.asarray(np.maximum((totals + self.fixed).max(axis=1), self.floor), dtype=np.float64)

    def describe(self, batch_size: int, *, seed: int = 0) -> Totals:
        """Describe the peaks of batches: mean and spread by the piece that holds for a mean batch."""
        epochs = _epochs(len(self.values))
        seen = self.peaks(simulate_worst(self.values, batch_size, epochs, np.random.default_rng(seed)))
        means, stds = zip(*(moments(column, batch_size) for column in self.values.T), strict=True)
        main = int(np.argmax(np.array(means) + self.fixed))
        mean = float(self.peaks(np.array([means]))[0])
        return Totals(
            mean,
            stds[main],
            max(float(seen.mean()), mean),
            float(seen.std(ddof=1) / epochs**0.5),
            self.expected_worst(batch_size),
        )

    def expected_worst(self, batch_size: int) -> float:
        """Return the mean of the worst peak of an epoch, from the distribution of sums of each piece."""
        worst = [[expected_worst(column, batch_size) for column in self.values.T]]
        return float(self.peaks(np.array(worst))[0])


def moments(values: Floats, batch_size: int) -> tuple[float, float]:
    """Return mean and standard deviation of the total of `batch_size` graphs drawn without replacement.

    B μ and σ √B √((N - B) / (N - 1)): Cochran, Sampling Techniques, theorem 2.2.

    Args:
        values: One size, shape (graphs,).
        batch_size: Graphs a batch; at most all.
    """
    drawn = min(batch_size, len(values))
    return drawn * float(values.mean()), float(values.std()) * drawn**0.5 * _finite(len(values), drawn)


def exceedance_probability(values: Floats, batch_size: int, limit: float) -> float:
    """Return the probability that an epoch of shuffled batches has one whose total is over `limit`.

    The distribution of one total is that of independent draws, with its spread narrowed to that of draws without
    replacement; the batches of an epoch are taken as independent.

    Args:
        values: One size, not negative, shape (graphs,).
        batch_size: Graphs a batch.
        limit: In the unit of `values`.
    """
    graphs, drawn = len(values), min(batch_size, len(values))
    mean, narrow = drawn * float(values.mean()), _finite(graphs, drawn)
    if not narrow or not values.std():
        return float(mean > limit)
    if limit < mean:
        return 1.0
    inside = _cumulative(values, drawn, mean + (limit - mean) / narrow)[-1]
    return float(1 - inside ** (graphs // drawn))


def expected_worst(values: Floats, batch_size: int) -> float:
    """Return the mean of the largest total of an epoch's full batches, from the distribution of sums.

    E[max] = ∫ (1 - F(x)^K) dx for K batches whose totals are distributed as F.

    Args:
        values: One size, not negative, shape (graphs,).
        batch_size: Graphs a batch.
    """
    graphs, drawn = len(values), min(batch_size, len(values))
    mean, narrow = drawn * float(values.mean()), _finite(graphs, drawn)
    if not narrow or not values.std():
        return mean
    highest = float(values.max())
    top = min(drawn * highest, mean + 12 * float(values.std()) * drawn**0.5 + 2 * highest)
    below = _cumulative(values, drawn, top)
    above = 1 - below ** (graphs // drawn)
    free: float = (float(above.sum()) - float(above[0] + above[-1]) / 2) * top / _CELLS
    # No batch is larger than the largest graphs together.
    largest = float(np.partition(values, graphs - drawn)[graphs - drawn :].sum())
    return max(mean, min(mean + (free - mean) * narrow, largest))


def simulate_worst(columns: Floats, batch_size: int, epochs: int, rng: np.random.Generator) -> Floats:
    """Shuffle and batch a dataset; return the largest total of each column in each epoch, shape (epochs, columns).

    Args:
        columns: Sizes, shape (graphs, columns).
        batch_size: Graphs a batch; the last one has what is left.
        epochs: How often.
        rng: Where randomness comes from.
    """
    starts = np.arange(0, len(columns), batch_size)
    return np.array(
        [np.add.reduceat(columns[rng.permutation(len(columns))], starts).max(axis=0) for _ in range(epochs)]
    )


def draw_totals(columns: Floats, batch_size: int, count: int, rng: np.random.Generator) -> Floats:
    """Return totals of at least `count` full batches of shuffled epochs, shape (batches, columns)."""
    drawn = min(batch_size, len(columns))
    whole = len(columns) // drawn
    epochs = [
        rng.permutation(columns)[: whole * drawn].reshape(whole, drawn, -1).sum(axis=1)
        for _ in range(-(-count // whole))
    ]
    return np.concatenate(epochs)


def _epochs(graphs: int) -> int:
    return int(np.clip(_DRAWS // graphs, _FEWEST, _MOST))


def _finite(graphs: int, drawn: int) -> float:
    """Return how much narrower totals are because no graph is drawn twice."""
    return math.sqrt((graphs - drawn) / (graphs - 1)) if graphs > 1 else 0.0


def _cumulative(values: Floats, count: int, top: float) -> Floats:
    """Return P(total ≤ x) of `count` independent draws at x = 0, h, …, top, shape (cells + 1,)."""
    places = values[values <= top] * (_CELLS / top)
    below = np.floor(places).astype(np.int64)
    share = places - below
    # Split between the two nearest cells, so that the grid leaves the mean as it is.
    weights = np.bincount(below, 1 - share, minlength=_CELLS + 2) + np.bincount(below + 1, share, minlength=_CELLS + 2)
    return np.clip(np.cumsum(_power(weights[: _CELLS + 1] / len(values), count)), 0.0, 1.0)


def _power(weights: Floats, count: int) -> Floats:
    """Convolve a distribution with itself; sizes are not negative, so what is cut off at the top never comes back."""
    result: Any = None
    while count:
        if count & 1:
            result = weights if result is None else _product(result, weights)
        count >>= 1
        if count:
            weights = _product(weights, weights)
    return np.asarray(result, dtype=np.float64)


def _product(one: Floats, other: Floats) -> Floats:
    # numpy's transform: scipy.signal takes seconds to import. Long enough that the end does not wrap to the start.
    length = 9 * _CELLS // 4
    product = np.fft.irfft(np.fft.rfft(one, length) * np.fft.rfft(other, length), length)
    return np.maximum(product[: len(one)], 0.0)
