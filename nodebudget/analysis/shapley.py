"""Why a mean batch of one dataset holds more than one of another."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from nodebudget.calibration.memory_model import Calibration
from nodebudget.datasets.size_table import STANDARD, SizeTable
from nodebudget.utils.size_labels import per_unit, size_label

#: The one cause that has to do with the number of samples.
GRAPHS = "graphs per batch"


@dataclass(frozen=True)
class Cause:
    """One cause of a difference.

    Attributes:
        name: "nodes per graph", "edges per node", "line-graph edges per edge", "graphs per batch".
        first: Its value in the first dataset.
        here: Its value in this one.
        share: What it adds to the difference, as a fraction of what the first dataset has.
    """

    name: str
    first: float
    here: float
    share: float


@dataclass(frozen=True)
class Measure:
    """What is compared, of a mean batch.

    Attributes:
        name: A size column, or "bytes": the predicted peak of a training step.
        calibration: What predicts bytes.
    """

    name: str
    calibration: Calibration | None = None

    @classmethod
    def of(cls, tables: Sequence[SizeTable], calibration: Calibration | None) -> Measure:
        """Take bytes where there is a calibration, else the last standard size that all datasets have."""
        if calibration is not None:
            return cls("bytes", calibration)
        return cls([name for name in STANDARD if all(name in table for table in tables)][-1])

    def __call__(self, graphs: float, means: Mapping[str, float]) -> float:
        """Return it for a batch of `graphs` graphs of these mean sizes."""
        if self.calibration is None:
            return graphs * means[self.name]
        sizes = {name: graphs * mean for name, mean in means.items()}
        return float(self.calibration.predict_bytes(graphs=graphs, **sizes))


def mean_sizes(table: SizeTable) -> dict[str, float]:
    """Return the mean of each column."""
    return {name: float(table[name].mean()) for name in table.columns}


def explain(table: SizeTable, first: SizeTable, batch_size: int, measure: Measure) -> tuple[Cause, ...]:
    """Part a difference among its causes, the largest first.

    A mean batch is a product: graphs × nodes per graph × edges per node × line-graph edges per edge. Each factor
    is changed from its value in the first dataset to that in this one, in every order, and its effects are averaged:
    the Shapley value (Shapley, A Value for n-Person Games, 1953), whose parts add up exactly. The number of samples
    is no factor, except in a dataset of less than a batch.

    Args:
        table: Sizes of this dataset.
        first: Sizes of the one that it is compared with.
        batch_size: Graphs a batch.
        measure: What to explain.
    """
    columns = [name for name in (*STANDARD, *table.columns) if name in table and name in first]
    chain = _chain(list(dict.fromkeys(columns)))
    there, here = (_factors(data, batch_size, chain) for data in (first, table))

    def measured(factors: Mapping[str, float]) -> float:
        means = _sizes(factors, chain)
        return measure(factors["graphs"], means)

    base = measured(there)
    parts = _shapley(measured, there, here)
    causes = [
        Cause(_name(name, chain), there[name], here[name], parts[name] / base if base else 0.0)
        for name in there
        if name != "graphs" or there[name] != here[name]
    ]
    return tuple(sorted(causes, key=lambda cause: -abs(cause.share)))


def _chain(columns: list[str]) -> dict[str, str | None]:
    """Return for each column the one that it is a multiple of; None: of the graphs."""
    known = [name for name in STANDARD if name in columns]
    before = dict(zip(known, [None, *known], strict=False))
    return {name: before.get(name) for name in columns}


def _factors(table: SizeTable, batch_size: int, chain: Mapping[str, str | None]) -> dict[str, float]:
    means = mean_sizes(table)
    factors = {"graphs": float(min(batch_size, len(table)))}
    for name, before in chain.items():
        whole = 1.0 if before is None else means[before]
        factors[name] = means[name] / whole if whole else 0.0
    return factors


def _sizes(factors: Mapping[str, float], chain: Mapping[str, str | None]) -> dict[str, float]:
    sizes: dict[str, float] = {}
    for name, before in chain.items():
        sizes[name] = factors[name] * (1.0 if before is None else sizes[before])
    return sizes


def _shapley(
    measure: Callable[[Mapping[str, float]], float], before: Mapping[str, float], after: Mapping[str, float]
) -> dict[str, float]:
    moving = [name for name in before if before[name] != after[name]]
    parts = dict.fromkeys(before, 0.0)
    for order in itertools.permutations(moving):
        values = dict(before)
        last = measure(values)
        for name in order:
            values[name] = after[name]
            now = measure(values)
            parts[name] += (now - last) / math.factorial(len(moving))
            last = now
    return parts


def _name(column: str, chain: Mapping[str, str | None]) -> str:
    if column == "graphs":
        return GRAPHS
    return f"{size_label(column)} {per_unit(chain[column] or 'graphs')}"
