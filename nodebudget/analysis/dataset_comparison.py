"""Compare datasets: why one takes more memory than another at the same batch size."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import numpy.typing as npt

from nodebudget.analysis.batch_statistics import GraphCosts, Totals
from nodebudget.analysis.shapley import GRAPHS, Cause, Measure, explain, mean_sizes
from nodebudget.calibration.memory_model import Calibration
from nodebudget.datasets.size_table import SizeTable
from nodebudget.errors import InputError
from nodebudget.utils.checks import check_count
from nodebudget.utils.size_labels import size_label

Floats = npt.NDArray[np.float64]

_DRAWN = 4000  #: Batches drawn for the histogram of their totals.
_SAME = 0.005  #: Smaller changes, as a fraction, are not mentioned.


@dataclass(frozen=True, eq=False)
class Row:
    """One dataset."""

    name: str  #: Name given by the user.
    statistics: Mapping[str, Any]  #: `graphs` and statistics by column, as `SizeTable.statistics` returns them.
    totals: Mapping[str, Totals]  #: Column → totals of a batch.
    predicted_bytes: Totals | None  #: Peak of a training step, or None without a calibration.
    #: Changes from the first dataset as fractions of it (`graphs`, each column's mean per batch, and `bytes` with a
    #: calibration); None if the value of the first dataset is 0.
    difference: Mapping[str, float | None]
    #: Causes of the change of the measure, the largest first; their shares add up to the change.
    causes: tuple[Cause, ...]
    measure: str  #: The size that the causes explain.
    sizes: SizeTable  #: The sizes of its graphs.
    #: Returns totals of random batches of the size that all datasets have, shape (batches,).
    draw: Callable[[], Floats]

    @cached_property
    def drawn(self) -> Floats:
        """Totals of random batches of the size that all datasets have, shape (batches,)."""
        return self.draw()

    @property
    def sentence(self) -> str:
        """The difference from the first dataset and its causes, in one sentence."""
        measure = f"{size_label(self.measure)} per batch"
        if not self.causes:
            return f"{self.name} is the dataset that the others are compared with."
        change = self.difference[self.measure] or 0.0
        if abs(change) < _SAME:
            return f"{self.name}: the same {measure}, within half a percent."
        parts = [
            f"{cause.share:+.1%} from {cause.name} ({cause.first:.3g} → {cause.second:.3g})"
            for cause in self.causes
            if abs(cause.share) >= _SAME
        ]
        small = any(cause.name == GRAPHS for cause in self.causes)
        samples = "a dataset is smaller than a batch" if small else "the number of samples makes no difference"
        return f"{self.name}: {change:+.1%} {measure}: {', '.join(parts)}; {samples}."

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        predicted = self.predicted_bytes
        return {
            "name": self.name,
            **self.statistics,
            "per_batch": {name: asdict(totals) for name, totals in self.totals.items()},
            "predicted_bytes": None if predicted is None else asdict(predicted),
            "difference": dict(self.difference),
            "measure": self.measure,
            "causes": [asdict(cause) for cause in self.causes],
            "sentence": self.sentence,
        }


@dataclass(frozen=True, eq=False)
class Comparison:
    """Several datasets compared at one batch size."""

    batch_size: int  #: Graphs per batch.
    common: str  #: The size that all datasets have; "bytes" with a calibration.
    rows: tuple[Row, ...]  #: One row per dataset; the others are compared with the first.

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {"batch_size": self.batch_size, "datasets": [row.to_dict() for row in self.rows]}


def compare(
    tables: Sequence[tuple[str, SizeTable]], batch_size: int, *, calibration: Calibration | None = None, seed: int = 0
) -> Comparison:
    """Compare datasets at one batch size.

    Args:
        tables: Name and sizes of each dataset; the others are compared with the first.
        batch_size: Graphs per batch; a smaller dataset makes one batch.
        calibration: Predicts the memory of a training step, which is then explained instead of a size.
        seed: Random seed of the simulated epochs, 0 or more.

    Raises:
        InputError: There are no tables, a dataset is empty, the batch size is under 1, or the sizes lack a column that
            the calibration depends on.
    """
    size = check_count("batch_size", batch_size, 1)
    if not tables:
        raise InputError("no dataset to compare", hint="give one or more")
    for name, table in tables:
        if not len(table):
            raise InputError(f"the dataset {name} is empty", hint="give one with crystals")
    first = tables[0][1]
    common = Measure.of([table for _, table in tables], calibration)
    rows = [_row(name, table, first, common.name, size, calibration, seed) for name, table in tables]
    return Comparison(size, common.name, tuple(rows))


def _row(
    name: str,
    table: SizeTable,
    first: SizeTable,
    common: str,
    batch_size: int,
    calibration: Calibration | None,
    seed: int,
) -> Row:
    costs = {column: GraphCosts.of_size(table[column]) for column in table.columns}
    if calibration is not None:
        costs["bytes"] = GraphCosts.of_bytes(calibration, table)
    totals = {column: cost.describe(batch_size, seed=seed) for column, cost in costs.items()}
    predicted_bytes = totals.pop("bytes") if calibration is not None else None
    measure = Measure.of([first, table], calibration)
    return Row(
        name,
        table.statistics(),
        totals,
        predicted_bytes,
        _difference(table, first, batch_size, calibration),
        () if table is first else explain(table, first, batch_size, measure),
        measure.name,
        table,
        partial(costs[common].draw, batch_size, _DRAWN, np.random.default_rng(seed)),
    )


def _difference(
    table: SizeTable, first: SizeTable, batch_size: int, calibration: Calibration | None
) -> dict[str, float | None]:
    names = [name for name in table.columns if name in first]
    measures = [Measure(name) for name in names]
    if calibration is not None:
        measures.append(Measure("bytes", calibration))
    changes: dict[str, float | None] = {"graphs": len(table) / len(first) - 1}
    for measure in measures:
        before, after = (measure(min(batch_size, len(data)), mean_sizes(data)) for data in (first, table))
        changes[measure.name] = after / before - 1 if before else None
    return changes
