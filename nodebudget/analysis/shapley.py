"""Why a mean batch of one dataset holds more than one of another, as Shapley values of its factors."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from nodebudget.calibration.memory_model import Calibration
from nodebudget.datasets.size_table import STANDARD, SizeTable
from nodebudget.utils.size_labels import per_unit, size_label

GRAPHS = "graphs per batch"  #: The one cause that depends on the number of samples.


@dataclass(frozen=True)
class Cause:
    """One cause of a difference."""

    name: str  #: "nodes per graph", "edges per node", "line-graph edges per edge", "graphs per batch".
    first: float  #: Its value in the first dataset.
    second: float  #: Its value in the second dataset.
    share: float  #: Its contribution to the difference, as a fraction of the value of the first dataset.


@dataclass(frozen=True)
class Measure:
    """The quantity of a mean batch that is compared."""

    name: str  #: A size column, or "bytes": the predicted peak of a training step.
    calibration: Calibration | None = None  #: Predicts bytes.

    @classmethod
    def of(cls, tables: Sequence[SizeTable], calibration: Calibration | None) -> Measure:
        """Return bytes if there is a calibration, else the last standard size that all datasets have."""
        if calibration is not None:
            return cls("bytes", calibration)
        return cls([name for name in STANDARD if all(name in table for table in tables)][-1])

    def __call__(self, graphs: float, means: Mapping[str, float]) -> float:
        """Return it for a batch of `graphs` graphs with these mean sizes."""
        if self.calibration is None:
            return graphs * means[self.name]
        sizes = {name: graphs * mean for name, mean in means.items()}
        return float(self.calibration.predict_bytes(graphs=graphs, **sizes))


def mean_sizes(table: SizeTable) -> dict[str, float]:
    """Return the mean of each column."""
    return {name: float(table[name].mean()) for name in table.columns}


def explain(
    second: SizeTable, first: SizeTable, batch_size: int, measure: Measure, second_batch_size: int | None = None
) -> tuple[Cause, ...]:
    """Attribute the difference of two datasets to its causes, the largest first.

    A mean batch is a product: graphs × nodes per graph × edges per node × line-graph edges per edge. Each factor
    is changed from its value in the first dataset to that in the second, in every order, and its effects are averaged:
    the Shapley value, whose parts add up exactly. The number of samples is no factor, unless a dataset is smaller than
    a batch. The batch size of the second dataset is by default that of the first.
    """
    # Column → the column that it is a multiple of; None: of the graphs.
    columns = [name for name in (*STANDARD, *second.columns) if name in second and name in first]
    standard = [name for name in STANDARD if name in columns]
    chain = {**dict.fromkeys(columns), **dict(zip(standard, [None, *standard], strict=False))}
    before, after = _factors(first, batch_size, chain), _factors(second, second_batch_size or batch_size, chain)

    def measured(changed: frozenset[str]) -> float:
        factors = {name: (after if name in changed else before)[name] for name in before}
        means: dict[str, float] = {}
        for name, base in chain.items():
            means[name] = factors[name] * (1.0 if base is None else means[base])
        return measure(factors["graphs"], means)

    reference = measured(frozenset())
    shares = shapley_values(measured, [name for name in before if before[name] != after[name]])
    labels = {name: f"{size_label(name)} {per_unit(base or 'graphs')}" for name, base in chain.items()}
    causes = [
        Cause(labels.get(name, GRAPHS), before[name], after[name], shares.get(name, 0.0) / (reference or math.inf))
        for name in before
        if name != "graphs" or before[name] != after[name]
    ]
    return tuple(sorted(causes, key=lambda cause: -abs(cause.share)))


def _factors(table: SizeTable, batch_size: int, chain: Mapping[str, str | None]) -> dict[str, float]:
    means = mean_sizes(table)
    factors = {"graphs": float(min(batch_size, len(table)))}
    for name, base in chain.items():
        divisor = 1.0 if base is None else means[base]
        factors[name] = means[name] / divisor if divisor else 0.0
    return factors


def shapley_values(value: Callable[[frozenset[str]], float], names: Sequence[str]) -> dict[str, float]:
    """Attribute `value` of all names, less that of none, to each name: the mean over all orders of what it adds.

    See Shapley, A Value for n-Person Games, 1953. `value` is called once for each subset.
    """
    value = functools.cache(value)
    orders = list(itertools.permutations(names))
    shares = dict.fromkeys(names, 0.0)
    for order in orders:
        for place, name in enumerate(order):
            before = frozenset(order[:place])
            shares[name] += (value(before | {name}) - value(before)) / len(orders)
    return shares
