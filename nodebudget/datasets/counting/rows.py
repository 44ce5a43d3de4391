"""Samples to rows of sizes, and rows to a table."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from nodebudget.datasets.counting.crystal import count_crystal
from nodebudget.datasets.counting.graph import count_graph, holds_graph
from nodebudget.datasets.counting.neighbors import Counts
from nodebudget.datasets.graph_settings import GraphSettings
from nodebudget.datasets.read_limits import MAX_NAME
from nodebudget.datasets.readers.source import NamedSample
from nodebudget.datasets.sample_error import SampleError
from nodebudget.datasets.size_table import STANDARD, SizeTable
from nodebudget.errors import CrystalError, InputError

#: The name of a sample, if any, and its nodes, edges and line-graph edges, or the reason why there are none.
Row = tuple["str | None", "Counts | str"]
SizeOf = Callable[[Any], Mapping[str, float]]  #: Sample → further sizes by name.
_MAX_SKIPPED = 100_000  #: In place of a number of edges that a sample does not tell; the table then has no such column.
UNKNOWN = -1

#: Samples that can be skipped whatever their share. A list of millions of reasons helps nobody.

#: Keys under which datasets name their crystals: alignn's default `id_tag` and those of other collections.
ID_KEYS = ("jid", "id", "material_id", "_oqmd_entry_id")


def entry_id(sample: Any) -> str | None:
    """Return the name of a JARVIS-style entry, or None."""
    if isinstance(sample, Mapping):
        for key in ID_KEYS:
            if isinstance(sample.get(key), (str, int)):
                return str(sample[key])
    return None


def measure_records(records: Iterable[NamedSample], settings: GraphSettings) -> list[Row]:
    """Count samples: graphs, crystals, or in their place the reason why one could not be read."""
    return [_row(name, sample, settings) for name, sample in records]


def _row(name: str | None, sample: Any, settings: GraphSettings) -> Row:
    name = name if name is not None else entry_id(sample)
    if name is not None:
        # A lone surrogate, which JSON can write and no file can hold.
        name = name.encode("utf-8", "backslashreplace").decode()
        if len(name) > MAX_NAME:
            return f"{name[:40]}…", f"its name has {len(name)} characters, over the limit of {MAX_NAME}"
    try:
        if isinstance(sample, SampleError):
            return name, str(sample)
        if holds_graph(sample):
            sizes = count_graph(sample)
            return name, (sizes["nodes"], sizes.get("edges", UNKNOWN), sizes.get("line_edges", UNKNOWN))
        return name, count_crystal(sample, settings)
    except SampleError as error:
        return name, str(error)


class Rows:
    """The rows of a table, collected one by one, in 24 bytes each and what their names take.

    `on_error` is "raise" or "skip"; `named`: samples without a name are named by their number even where none has one.
    """

    def __init__(self, on_error: str, named: bool, size_of: SizeOf | None = None) -> None:
        self._on_error, self._named, self._size_of = on_error, named, size_of
        self._counts = [array("q") for _ in STANDARD]
        self._further: dict[str, list[float]] = {}
        self._names = _Names()
        self._skipped: list[dict[str, Any]] = []
        #: Number of samples added, skipped ones included.
        self.seen = 0

    def add(self, row: Row, sample: Any = None) -> None:
        """Add the next sample's row; raise a CrystalError over a reason where errors are to be raised."""
        index, self.seen = self.seen, self.seen + 1
        name, counts = row
        if isinstance(counts, str):
            self._skip(index, str(index) if name is None and self._named else name or "", counts)
            return
        if self._size_of is not None:
            self._add_further(index, self._size_of(sample))
        for column, value in zip(self._counts, counts, strict=True):
            column.append(value)
        self._named = self._named or name is not None
        self._names.append(str(index) if name is None else name)

    def table(self, settings: Mapping[str, Any]) -> SizeTable:
        """Return the rows as a table; raise an InputError where all samples were skipped."""
        if not self._counts[0]:
            raise InputError(
                f"not one of {self.seen} samples could be read, the first for this reason: "
                f"{self._skipped[0]['reason']}",
                hint="check that this is the dataset that you mean",
            )
        record = dict(settings)
        if self._skipped:
            skipped = [entry["index"] for entry in self._skipped]
            record |= {"skipped": self._skipped, "indices": np.delete(np.arange(self.seen), skipped).tolist()}
        columns: dict[str, Any] = {
            name: np.frombuffer(values, dtype=np.int64) for name, values in zip(STANDARD, self._counts, strict=True)
        }
        columns = {name: values for name, values in columns.items() if values.min() != UNKNOWN}
        columns |= {name: np.asarray(values) for name, values in self._further.items()}
        return SizeTable(columns, self._names.array() if self._named else None, record)

    def _add_further(self, index: int, sizes: Mapping[str, float]) -> None:
        if self._counts[0] and sizes.keys() != self._further.keys():
            raise InputError(
                f"sample {index} has the sizes {', '.join((*STANDARD, *sizes))}",
                limit=f"those before it have {', '.join((*STANDARD, *self._further))}",
                hint="give every sample the same sizes",
            )
        for name, value in sizes.items():
            self._further.setdefault(name, []).append(value)

    def _skip(self, index: int, name: str, reason: str) -> None:
        if self._on_error == "raise":
            raise CrystalError(index, name, reason)
        self._skipped.append({"index": index, "name": name, "reason": reason})
        if len(self._skipped) > max(_MAX_SKIPPED, len(self._counts[0])):
            raise InputError(
                f"most of the first {self.seen:,} samples can't be read, the last for this reason: {reason}",
                limit=f"half of them, once {_MAX_SKIPPED:,} are skipped",
                hint="check that this is the dataset that you mean",
            )


class _Names:
    """Many names in little memory: their text, and where each ends."""

    def __init__(self) -> None:
        self._text, self._ends, self._longest = bytearray(), array("q"), 1

    def append(self, name: str) -> None:
        self._text += name.encode()
        self._ends.append(len(self._text))
        self._longest = max(self._longest, len(name))

    def array(self) -> npt.NDArray[np.str_]:
        names = np.empty(len(self._ends), dtype=f"U{self._longest}")
        start = 0
        for place, end in enumerate(self._ends):
            names[place] = self._text[start:end].decode()
            start = end
        return names
