"""Datasets side by side: why one takes more memory than another at the same batch size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nodebudget.analysis.batch_statistics import GraphBytes, Totals, check_batch_size, describe_totals, draw_totals
from nodebudget.analysis.shapley import GRAPHS, Cause, Measure, explain, mean_sizes
from nodebudget.calibration.memory_model import Calibration
from nodebudget.datasets.size_table import SizeTable
from nodebudget.errors import InputError
from nodebudget.utils.size_labels import size_label

Floats = npt.NDArray[np.float64]

#: Batches drawn for the picture of their totals.
_DRAWN = 4000

#: Changes under this are none.
_SAME = 0.005


@dataclass(frozen=True, eq=False)
class Row:
    """One dataset.

    Attributes:
        name: What the user calls it.
        statistics: `graphs` and statistics by column, as `SizeTable.statistics` gives them.
        totals: Column → what a batch holds of it.
        predicted_bytes: Peak of a training step, or None without a calibration.
        difference: Change against the first dataset, as a fraction of what that has: `graphs`, each column's
            mean a batch, and `bytes` with a calibration; None where the first has nothing of it.
        causes: What the change of the measure is made of, the largest first: the shares add up to it.
        measure: What the causes explain.
        sizes: Its table.
        drawn: What random batches hold of the size that all datasets have, shape (batches,), for a picture.
    """

    name: str
    statistics: Mapping[str, Any]
    totals: Mapping[str, Totals]
    predicted_bytes: Totals | None
    difference: Mapping[str, float | None]
    causes: tuple[Cause, ...]
    measure: str
    sizes: SizeTable
    drawn: Floats

    @property
    def sentence(self) -> str:
        """What explains the difference from the first dataset, in one sentence."""
        what = f"{size_label(self.measure)} per batch"
        if not self.causes:
            return f"{self.name} is what the others are compared with."
        change = self.difference[self.measure] or 0.0
        if abs(change) < _SAME:
            return f"{self.name}: as many {what}, within half a percent."
        parts = [
            f"{cause.share:+.1%} by {cause.name} ({cause.first:.3g} → {cause.here:.3g})"
            for cause in self.causes
            if abs(cause.share) >= _SAME
        ]
        small = any(cause.name == GRAPHS for cause in self.causes)
        samples = "one has less than a batch" if small else "the number of samples has no part in it"
        return f"{self.name}: {change:+.1%} {what}: {', '.join(parts)}; {samples}."

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        predicted = self.predicted_bytes
        return {
            "name": self.name,
            **self.statistics,
            "a_batch": {name: totals.to_dict() for name, totals in self.totals.items()},
            "predicted_bytes": None if predicted is None else predicted.to_dict(),
            "difference": dict(self.difference),
            "measure": self.measure,
            "causes": [dict(cause.__dict__) for cause in self.causes],
            "sentence": self.sentence,
        }


@dataclass(frozen=True, eq=False)
class Comparison:
    """Datasets side by side.

    Attributes:
        batch_size: Graphs a batch.
        common: The size that all datasets have, for a picture: "bytes" with a calibration.
        rows: One a dataset; the first is what the others are compared with.
    """

    batch_size: int
    common: str
    rows: tuple[Row, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {"batch_size": self.batch_size, "datasets": [row.to_dict() for row in self.rows]}


def compare(
    tables: Sequence[tuple[str, SizeTable]], batch_size: int, *, calibration: Calibration | None = None, seed: int = 0
) -> Comparison:
    """Compare datasets at one batch size.

    Args:
        tables: Name and sizes of each dataset; the first is what the others are compared with.
        batch_size: Graphs a batch; a smaller dataset makes one batch.
        calibration: With it, the memory of a training step is predicted, and explained instead of a size.
        seed: Of the simulated epochs, 0 or more.

    Raises:
        InputError: No dataset, an empty one, a batch size under 1, or sizes without a column that the calibration
            depends on.
    """
    size = check_batch_size(batch_size)
    if not tables:
        raise InputError("no dataset to compare", hint="name one or more")
    for name, table in tables:
        if not len(table):
            raise InputError(f"{name} has no crystals", hint="give a dataset that has")
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
    columns = np.stack([table[column].astype(np.float64) for column in table.columns], axis=1)
    totals = describe_totals(columns, batch_size, seed=seed)
    graphs = None if calibration is None else GraphBytes.of(calibration, table)
    measure = Measure.of([first, table], calibration)
    rng = np.random.default_rng(seed)
    if graphs is None:
        drawn = draw_totals(table[common].astype(np.float64)[:, None], batch_size, _DRAWN, rng)[:, 0]
    else:
        drawn = graphs.peaks(draw_totals(graphs.values, batch_size, _DRAWN, rng))
    return Row(
        name,
        table.statistics(),
        dict(zip(table.columns, totals, strict=True)),
        None if graphs is None else graphs.describe(batch_size, seed=seed),
        _difference(table, first, batch_size, calibration),
        () if table is first else explain(table, first, batch_size, measure),
        measure.name,
        table,
        drawn,
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
        there, here = (measure(min(batch_size, len(data)), mean_sizes(data)) for data in (first, table))
        changes[measure.name] = here / there - 1 if there else None
    return changes
