"""Samples to rows of sizes, and rows to a table."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from nodebudget.datasets.counting.crystal import count_crystal
from nodebudget.datasets.counting.graph import count_graph, is_graph
from nodebudget.datasets.counting.neighbors import Counts, UnusableError
from nodebudget.datasets.graph_settings import GraphSettings
from nodebudget.datasets.read_limits import NAME
from nodebudget.datasets.readers.source import Named
from nodebudget.datasets.size_table import STANDARD, SizeTable
from nodebudget.errors import CrystalError, InputError

#: The name of a sample, where it has one, and its nodes, edges and line-graph edges, or the reason why there are none.
Row = tuple["str | None", "Counts | str"]
SizeOf = Callable[[Any], Mapping[str, float]]

#: Samples that can be left out whatever their share is. A list of millions of reasons helps nobody.
_SKIPPED = 100_000

#: Keys under which datasets name their crystals, as alignn's `id_tag` knows them and others use them.
ID_KEYS = ("jid", "id", "material_id", "_oqmd_entry_id")


def entry_id(sample: Any) -> str | None:
    """Return the name of a JARVIS-style entry, or None."""
    if isinstance(sample, Mapping):
        for key in ID_KEYS:
            if isinstance(sample.get(key), (str, int)):
                return str(sample[key])
    return None


def measure_records(records: Iterable[Named], settings: GraphSettings) -> list[Row]:
    """Count samples: graphs, crystals, or in their place the reason why one could not be read."""
    return [_row(name, sample, settings) for name, sample in records]


def _row(name: str | None, sample: Any, settings: GraphSettings) -> Row:
    known = name if name is not None else entry_id(sample)
    if known is None:
        return None, _counts(sample, settings)
    # A lone surrogate, which JSON can write and no file can hold.
    clean = known.encode("utf-8", "backslashreplace").decode()
    if len(clean) > NAME:
        return f"{clean[:40]}…", f"its name has {len(clean)} characters, over the limit of {NAME}"
    return clean, _counts(sample, settings)


def _counts(sample: Any, settings: GraphSettings) -> Counts | str:
    try:
        if isinstance(sample, UnusableError):
            return str(sample)
        if is_graph(sample) or isinstance(sample, (tuple, list)):
            found = count_graph(sample)
            return found["nodes"], found["edges"], found["line_edges"]
        return count_crystal(sample, settings)
    except UnusableError as error:
        return str(error)


class Rows:
    """The rows of a table, collected one by one, in 24 bytes each and what their names take.

    Args:
        on_error: What happens to a sample without sizes: "raise" or "skip".
        named: Whether samples without a name are named by their number; otherwise only where others have names.
        size_of: Sample → further sizes.
    """

    def __init__(self, on_error: str, named: bool, size_of: SizeOf | None = None) -> None:
        self._on_error, self._named, self._size_of = on_error, named, size_of
        self._counts = [array("q") for _ in STANDARD]
        self._further: dict[str, list[float]] = {}
        self._names = _Names()
        self._skipped: list[dict[str, Any]] = []
        #: How many samples were seen.
        self.seen = 0

    def add(self, row: Row, sample: Any = None) -> None:
        """Take the next sample's row.

        Raises:
            CrystalError: The row is a reason and errors are to be raised.
            InputError: `size_of` gave other columns than before, or far too many samples have no sizes.
        """
        index, self.seen = self.seen, self.seen + 1
        name, counts = row
        if isinstance(counts, str):
            self._skip(index, name if name is not None or not self._named else str(index), counts)
            return
        if self._size_of is not None:
            self._extend(index, self._size_of(sample))
        for column, value in zip(self._counts, counts, strict=True):
            column.append(value)
        self._named = self._named or name is not None
        self._names.append(str(index) if name is None else name)

    def table(self, settings: Mapping[str, Any]) -> SizeTable:
        """Return what was collected.

        Raises:
            InputError: Not one sample was kept.
        """
        if not self._counts[0]:
            first = self._skipped[0]
            raise InputError(
                f"not one of {self.seen} samples could be read, the first for this reason: {first['reason']}",
                hint="check that this is the dataset that you mean",
            )
        record = dict(settings)
        if self._skipped:
            left_out = [entry["index"] for entry in self._skipped]
            record |= {"skipped": self._skipped, "indices": np.delete(np.arange(self.seen), left_out).tolist()}
        columns: dict[str, Any] = {
            name: np.frombuffer(values, dtype=np.int64) for name, values in zip(STANDARD, self._counts, strict=True)
        }
        columns |= {name: np.asarray(values) for name, values in self._further.items()}
        return SizeTable(columns, self._names.array() if self._named else None, record)

    def _extend(self, index: int, further: Mapping[str, float]) -> None:
        if self._counts[0] and further.keys() != self._further.keys():
            raise InputError(
                f"sample {index} has the sizes {', '.join((*STANDARD, *further))}",
                limit=f"those before it have {', '.join((*STANDARD, *self._further))}",
                hint="give every sample the same sizes",
            )
        for name, value in further.items():
            self._further.setdefault(name, []).append(value)

    def _skip(self, index: int, name: str | None, reason: str) -> None:
        if self._on_error == "raise":
            raise CrystalError(index, name or "", reason)
        self._skipped.append({"index": index, "name": name or "", "reason": reason})
        if len(self._skipped) > max(_SKIPPED, len(self._counts[0])):
            raise InputError(
                f"most of the first {self.seen:,} samples can't be read, the last for this reason: {reason}",
                limit=f"half of them, once {_SKIPPED:,} are left out",
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
        found = np.empty(len(self._ends), dtype=f"U{self._longest}")
        start = 0
        for place, end in enumerate(self._ends):
            found[place] = self._text[start:end].decode()
            start = end
        return found
