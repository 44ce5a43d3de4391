"""Rows of an unfinished measurement on disk, so that an interrupted measurement continues where it stopped."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any

from nodebudget.datasets.counting.rows import Row
from nodebudget.errors import CrystalError
from nodebudget.utils.jsonl import JsonLines

_HEADER = {"kind": "nodebudget sizes, part", "schema_version": 1}  #: The kind and version in the header.

#: Where an unreadable crystal ends a measurement, fewer rows than these are removed: measuring them again is quick.
_MIN_ROWS = 1000


class MeasureCheckpoint:
    """A file of JSON lines with checksums: a header with what the rows belong to, then one line per chunk of rows.

    The identity is what the rows depend on (data, graph settings); without `resume` the file is started over.

    Raises:
        RecordError: The file belongs to something else.
        InputError: It can't be written, or another process is writing it.
    """

    def __init__(self, path: str | os.PathLike[str], identity: Mapping[str, Any], *, resume: bool = True) -> None:
        self._lines = JsonLines(path, checksums=True, sync_seconds=1.0, max_line=2**24)
        self._lines.open(lock=True)
        header = {**_HEADER, **identity}
        hint = "run the same command as before, or start over with --no-resume (resume=False)"
        self._num_rows = 0
        try:
            self._start = self._lines.check_header(header, "measurement", hint) if resume else 0
            if not self._start:
                self._lines.truncate(0)
                self._lines.append(header)
                self._start = self._lines.size()
        except BaseException:
            self._lines.close()
            raise

    def __enter__(self) -> MeasureCheckpoint:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        is_empty = kind is not None and self._lines.size() == self._start
        if is_empty or (isinstance(error, CrystalError) and self._num_rows < _MIN_ROWS):
            self.remove()
        self._lines.close()

    def rows(self) -> Iterator[list[Row]]:
        """Yield the rows in the file, a chunk at a time; what follows a damaged line is dropped."""
        end = self._start
        for entry, offset in self._lines.read(self._start):
            is_next = entry is not None and entry.get("first") == self._num_rows
            rows = _rows(entry.get("rows")) if entry is not None and is_next else None
            if rows is None:
                break
            end, self._num_rows = offset, self._num_rows + len(rows)
            yield rows
        self._lines.truncate(end)

    def add(self, first: int, rows: Sequence[Row]) -> None:
        """Append the rows of a chunk, the first of which is row `first` of the dataset."""
        plain = [[name, counts] if isinstance(counts, str) else [name, *counts] for name, counts in rows]
        self._lines.append({"first": first, "rows": plain})
        self._num_rows = first + len(rows)

    def remove(self) -> None:
        """Remove the file."""
        self._lines.path.unlink(missing_ok=True)


def _rows(values: Any) -> list[Row] | None:
    """Return the rows of a line, or None where they are none."""
    try:
        rows = [_row(*row) for row in values]
    except TypeError:
        return None
    return None if None in rows else [row for row in rows if row is not None]


def _row(name: Any, *counts: Any) -> Row | None:
    if name is not None and not isinstance(name, str):
        return None
    if len(counts) == 1 and isinstance(counts[0], str):
        return name, counts[0]
    if len(counts) == 3 and all(isinstance(count, int) and 0 <= count < 2**63 for count in counts):
        nodes, edges, line_edges = counts
        return name, (int(nodes), int(edges), int(line_edges))
    return None
