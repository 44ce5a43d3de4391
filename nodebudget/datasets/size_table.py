"""How large each graph of a dataset is: the input of every later step."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from nodebudget.datasets import size_table_io
from nodebudget.errors import InputError, first_line
from nodebudget.utils.files import DAMAGE, write_whole
from nodebudget.utils.mapped_arrays import check_mappable

Column = npt.NDArray[Any]

#: Columns with a meaning of their own, in the order in which they are shown.
STANDARD = ("nodes", "edges", "line_edges")

#: Names that have another meaning in files of sizes and in statistics.
_RESERVED = {"graphs", "id", size_table_io.SETTINGS, size_table_io.VERSION, size_table_io.INDEX}

SUFFIXES = (".npz", ".csv", ".parquet")  #: Suffixes of size tables on disk.


@dataclass(frozen=True, eq=False)
class SizeTable:
    """One row per graph, one column per size.

    Attributes:
        columns: Name → array of shape (graphs,), int64 where the sizes are whole numbers, else float64.
            Always with `nodes`; with `edges`, `line_edges` (edges of the line graph) and any further column
            (`tokens`, say) where they were counted.
        ids: Names of the graphs, shape (graphs,), or None.
        settings: How the sizes were measured (graph settings, source), for the record.

    Raises:
        InputError: A column is not finite numbers of 0 or more, the lengths differ, or there is no column `nodes`.
    """

    columns: Mapping[str, Column]
    ids: npt.NDArray[np.str_] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        clean = {name: _checked(name, values) for name, values in self.columns.items()}
        for reserved in _RESERVED & clean.keys():
            raise InputError(f"a column {reserved!r}", limit="that name is reserved", hint="rename it")
        if "nodes" not in clean:
            raise InputError("sizes without a column 'nodes'", hint="give the number of nodes of every graph")
        length = len(clean["nodes"])
        for name, values in clean.items():
            if len(values) != length:
                raise InputError(
                    f"column {name!r} has {len(values)} rows",
                    limit=f"column 'nodes' has {length}",
                    hint="give every column one row per graph",
                )
        if self.ids is not None and len(self.ids) != length:
            raise InputError(f"{len(self.ids)} ids", limit=f"{length} graphs", hint="give one id per graph, or none")
        object.__setattr__(self, "columns", clean)

    @classmethod
    def from_counts(
        cls,
        nodes: npt.ArrayLike,
        edges: npt.ArrayLike | None = None,
        line_edges: npt.ArrayLike | None = None,
        *,
        ids: Iterable[str] | None = None,
        settings: Mapping[str, Any] | None = None,
        **further: npt.ArrayLike,
    ) -> SizeTable:
        """Make a table of known counts, each of shape (graphs,).

        Raises:
            InputError: A count is negative, not finite or not a number, or the lengths differ.
        """
        given = {"nodes": nodes, "edges": edges, "line_edges": line_edges, **further}
        columns = {name: cast(Column, values) for name, values in given.items() if values is not None}
        names = None if ids is None else np.asarray(list(ids), dtype=np.str_)
        return cls(columns, names, dict(settings or {}))

    def __len__(self) -> int:
        return len(self.columns["nodes"])

    def __getitem__(self, name: str) -> Column:
        try:
            return self.columns[name]
        except KeyError:
            raise InputError(
                f"the sizes have no column {name!r}",
                limit=f"they have {', '.join(self.columns)}",
                hint="measure the dataset again with what counts that column, or leave it out",
            ) from None

    def __contains__(self, name: str) -> bool:
        return name in self.columns

    def take(self, indices: npt.ArrayLike) -> SizeTable:
        """Return some rows, in the order given; each still knows which crystal of the measured dataset it is.

        Args:
            indices: Numbers of rows, shape (k,), or a mask of shape (graphs,).

        Raises:
            InputError: The mask is not one value per graph, or there is no such row.
        """
        chosen = self._rows(indices)
        ids = None if self.ids is None else self.ids[chosen]
        settings = dict(self.settings)
        if "indices" in settings:
            settings["indices"] = [settings["indices"][row] for row in chosen]
        return SizeTable({k: v[chosen] for k, v in self.columns.items()}, ids, settings)

    def _rows(self, indices: npt.ArrayLike) -> npt.NDArray[np.intp]:
        chosen, rows = np.asarray(indices), len(self)
        if chosen.dtype == np.bool_:
            if chosen.shape != (rows,):
                raise InputError(f"a mask of shape {chosen.shape}", limit=f"{rows} graphs", hint="give one per graph")
            return np.flatnonzero(chosen)
        if chosen.size and not (chosen.dtype.kind in "iu" and -rows <= chosen.min() and chosen.max() < rows):
            raise InputError("not rows of this table", limit=f"whole numbers below {rows}", hint="check the indices")
        return chosen.astype(np.intp)

    def with_column(self, name: str, values: npt.ArrayLike) -> SizeTable:
        """Return the table with a column (shape (graphs,)) added or replaced.

        Raises:
            InputError: The values are not sizes of these graphs.
        """
        return SizeTable({**self.columns, name: cast(Column, values)}, self.ids, self.settings)

    def totals(self, indices: npt.ArrayLike) -> dict[str, float]:
        """Return the sizes of a batch of the graphs at `indices`: sums, plus `graphs`."""
        chosen = np.asarray(indices, dtype=np.intp)
        return {"graphs": len(chosen), **{k: v[chosen].sum().item() for k, v in self.columns.items()}}

    def statistics(self) -> dict[str, Any]:
        """Return `graphs`, and for each column `mean median min max std total` (std of the population)."""
        return {"graphs": len(self), **{name: _describe(self[name]) for name in self.columns}}

    def fingerprint(self) -> str:
        """Return a SHA-256 of the sizes; the same for two tables with the same sizes of the same rows of a dataset."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        digest = hashlib.sha256(str(len(self)).encode())
        for name in sorted(self.columns):
            digest.update(name.encode())
            digest.update(np.ascontiguousarray(self.columns[name]).data)
        if "indices" in self.settings:
            digest.update(np.asarray(self.settings["indices"], dtype="<i8").tobytes())
        return digest.hexdigest()

    def save(self, path: str | os.PathLike[str], *, force: bool = False, compress: bool = True) -> Path:
        """Write the table as `.npz`, `.csv` or `.parquet`, by the suffix.

        Args:
            path: Where it goes.
            force: Overwrite an existing file.
            compress: False leaves an `.npz` uncompressed, so that `load(path, mmap=True)` can map it.

        Raises:
            InputError: Another suffix, or the file exists and `force` is not set.
            MissingError: `.parquet` without pyarrow.
        """
        npz = size_table_io.write_npz if compress else size_table_io.write_flat
        writers = {".npz": npz, ".csv": size_table_io.write_csv, ".parquet": size_table_io.write_parquet}
        writer = writers[check_suffix(path)]
        stored = size_table_io.Stored(self.columns, self.ids, self.settings)
        return write_whole(path, lambda file: writer(stored, file), force=force)

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, mmap: bool = False) -> SizeTable:
        """Read a table that `save` wrote, or any `.csv`/`.parquet` with a column `nodes`.

        Args:
            path: The file.
            mmap: Map an `.npz` that was saved with `compress=False` instead of reading it: for many millions of
                graphs, whose sizes all processes of a machine then share. The file must not be changed in place,
                and its checksums are not verified.

        Raises:
            InputError: The file is missing, truncated, not a size table, or can't be mapped.
            MissingError: `.parquet` without pyarrow.
        """
        npz = size_table_io.map_npz if mmap else size_table_io.read_npz
        readers = {".npz": npz, ".csv": size_table_io.read_csv, ".parquet": size_table_io.read_parquet}
        reader = readers[check_suffix(path)]
        if not Path(path).is_file():
            raise InputError(f"{str(path)!r} does not exist, or is not a file", hint="check the path")
        if mmap:
            check_mappable(path)
        try:
            stored = reader(Path(path))
            table = cls(*stored)
            _check_settings(stored.settings, len(table))
            return table
        except InputError as error:
            what = f"{str(path)!r} is not a size table: {error.what}"
            raise InputError(what, limit=error.limit, hint="measure the dataset again") from error
        except DAMAGE as error:
            raise InputError(
                f"{str(path)!r} is not a size table: {first_line(error)}",
                limit="columns id, nodes, edges, line_edges and any further",
                hint="make it with 'nodebudget measure DATA -o sizes.npz'",
            ) from error


def check_suffix(path: str | os.PathLike[str]) -> str:
    """Return the suffix of a size table's path, in lower case; raise an InputError over any other."""
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise InputError(
            f"{str(path)!r} is not a size table",
            limit=f"suffix {', '.join(SUFFIXES)}",
            hint="choose one of these suffixes",
        )
    return suffix


def _checked(name: str, values: npt.ArrayLike) -> Column:
    array = np.asarray(values)
    if array.ndim != 1 or array.dtype.kind not in "iufb":
        raise InputError(
            f"column {name!r} is not a list of numbers",
            limit="one number per graph",
            hint="give a one-dimensional array",
        )
    if array.dtype.kind == "f":
        if not (finite := np.isfinite(array)).all():
            _refuse_row(name, array, int(np.argmin(finite)), "sizes are finite")
        whole = (array == np.floor(array)).all() and (np.abs(array) < 2**53).all()
        array = array.astype(np.int64) if whole else array.astype(np.float64, copy=False)
    elif array.size and array.max() > np.iinfo(np.int64).max:
        raise InputError(
            f"column {name!r} has a value of {array.max()}", limit="2^63 - 1 or less", hint="give it in a larger unit"
        )
    else:
        array = array.astype(np.int64, copy=False)
    if array.size and array.min() < 0:
        _refuse_row(name, array, int(np.argmin(array)), "sizes are 0 or more")
    if array.size and array.sum(dtype=np.float64) >= 2.0**63:
        raise InputError(f"the total of column {name!r} is over 2^63", hint="check the unit of that column")
    array = array.view()
    array.flags.writeable = False
    return array


def _refuse_row(name: str, array: Column, row: int, limit: str) -> None:
    raise InputError(
        f"column {name!r}, row {row}: {array[row]}", limit=limit, hint="measure that graph again, or leave it out"
    )


def _describe(values: Column) -> dict[str, float]:
    if not len(values):
        return dict.fromkeys(("mean", "median", "min", "max", "std", "total"), 0)
    return {
        "mean": float(values.mean()),
        "median": float(np.median(values)),
        "min": values.min().item(),
        "max": values.max().item(),
        "std": float(values.std()),
        "total": values.sum().item(),
    }


def _check_settings(settings: Any, rows: int) -> None:
    """Raise a ValueError over settings that users of the sizes could not read."""
    if not isinstance(settings, dict):
        raise ValueError("its settings are not names and values")
    indices, skipped = settings.get("indices"), settings.get("skipped", [])
    if indices is not None and not (
        isinstance(indices, list)
        and len(indices) == rows
        and all(type(index) is int and index >= 0 for index in indices)
    ):
        raise ValueError("its indices are not one per graph")
    keys = {"index", "name", "reason"}
    if not (isinstance(skipped, list) and all(isinstance(entry, dict) and keys <= entry.keys() for entry in skipped)):
        raise ValueError("its list of skipped crystals can't be read")
