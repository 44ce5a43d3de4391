"""Samples to rows of sizes, and rows to a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from nodebudget.errors import CrystalError, InputError
from nodebudget.measure.crystals import count_crystal
from nodebudget.measure.graphs import count_graph, is_graph
from nodebudget.measure.neighbors import UnusableError
from nodebudget.measure.settings import GraphSettings
from nodebudget.sizes import SizeTable

#: The sizes of a sample, or the reason why there are none.
Row = dict[str, Any] | str
SizeOf = Callable[[Any], Mapping[str, float]]

#: Keys under which datasets name their crystals, as alignn's `id_tag` knows them and others use them.
_ID_KEYS = ("jid", "id", "material_id", "_oqmd_entry_id")


def entry_id(sample: Any) -> str | None:
    """Return the name of a JARVIS-style entry, or None."""
    if isinstance(sample, Mapping):
        for key in _ID_KEYS:
            if isinstance(sample.get(key), (str, int)):
                return str(sample[key])
    return None


def measure_sample(sample: Any, settings: GraphSettings) -> Row:
    """Count one sample: a graph, a crystal, or the error of the reader that could not read it."""
    if isinstance(sample, CrystalError):
        return sample.reason
    try:
        if is_graph(sample) or isinstance(sample, (tuple, list)):
            return dict(count_graph(sample))
        nodes, edges, line_edges = count_crystal(sample, settings)
    except UnusableError as error:
        return str(error)
    return {"nodes": nodes, "edges": edges, "line_edges": line_edges}


class Rows:
    """The rows of a table, collected one by one.

    Args:
        on_error: What happens to a sample without sizes: "raise" or "skip".
        ids: Names of the samples, where the reader knows them.
        size_of: Sample → further sizes.
    """

    def __init__(self, on_error: str, ids: list[str] | None, size_of: SizeOf | None) -> None:
        self._on_error, self._names, self._size_of = on_error, ids, size_of
        self._columns: dict[str, list[Any]] = {}
        self._indices: list[int] = []
        self._ids: list[str] = []
        self._named = ids is not None
        self._skipped: list[dict[str, Any]] = []
        self._seen = 0

    def add(self, sample: Any, row: Row) -> None:
        """Take the next sample's row.

        Raises:
            CrystalError: The row is a reason and errors are to be raised.
            InputError: `size_of` gave other columns than before.
        """
        index, self._seen = self._seen, self._seen + 1
        found = self._names[index] if self._names is not None else entry_id(sample)
        if isinstance(row, str):
            self._skip(index, found or "", row)
            return
        if self._size_of is not None:
            row = {**row, **self._size_of(sample)}
        if self._indices and row.keys() != self._columns.keys():
            raise InputError(
                f"sample {index} has the sizes {', '.join(row)}",
                limit=f"those before it have {', '.join(self._columns)}",
                hint="give every sample the same sizes",
            )
        for name, value in row.items():
            self._columns.setdefault(name, []).append(value)
        self._indices.append(index)
        self._named = self._named or found is not None
        self._ids.append(found if found is not None else str(index))

    def table(self, settings: Mapping[str, Any]) -> SizeTable:
        """Return what was collected.

        Raises:
            InputError: Not one sample was kept.
        """
        if not self._indices:
            first = self._skipped[0]
            raise InputError(
                f"not one of {self._seen} samples could be read, the first for this reason: {first['reason']}",
                hint="check that this is the dataset that you mean",
            )
        record = dict(settings)
        if self._skipped:
            record |= {"skipped": self._skipped, "indices": self._indices}
        ids = np.asarray(self._ids, dtype=np.str_) if self._named else None
        return SizeTable({name: np.asarray(values) for name, values in self._columns.items()}, ids, record)

    def _skip(self, index: int, name: str, reason: str) -> None:
        if self._on_error == "raise":
            raise CrystalError(index, name, reason)
        self._skipped.append({"index": index, "name": name, "reason": reason})
