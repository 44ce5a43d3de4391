"""How large each graph of a dataset is: the one thing that every later step starts from."""

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

from nodebudget.datasets import size_table_io as sizefiles
from nodebudget.errors import InputError
from nodebudget.utils.files import DAMAGE, write_whole
from nodebudget.utils.mapped_arrays import check_mappable

Column = npt.NDArray[Any]

#: Columns with a meaning of their own, in the order in which they are shown.
STANDARD = ("nodes", "edges", "line_edges")

#: Names that files of sizes and statistics give another meaning.
_RESERVED = {"graphs", "id", sizefiles.SETTINGS, sizefiles.VERSION}

#: Suffixes of files of sizes.
SUFFIXES = (".npz", ".csv", ".parquet")


@dataclass(frozen=True, eq=False)
class SizeTable:
    """One row a graph, one column a size.

    Attributes:
        columns: Name → array of shape (graphs,), int64 where the sizes are whole numbers, else float64.
            `nodes` is always there; `edges`, `line_edges` (edges of the line graph) and any further
            (`tokens`, say) where they are known.
        ids: Names of the graphs, shape (graphs,), or None.
        settings: How the sizes came about (graph settings, source), for the record.
    """

    columns: Mapping[str, Column]
    ids: npt.NDArray[np.str_] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        clean = {name: _checked(name, values) for name, values in self.columns.items()}
        for reserved in _RESERVED & clean.keys():
            raise InputError(f"a column {reserved!r}", limit="that name means something else here", hint="rename it")
        if "nodes" not in clean:
            raise InputError("sizes without a column 'nodes'", hint="give the number of nodes of every graph")
        length = len(clean["nodes"])
        for name, values in clean.items():
            if len(values) != length:
                raise InputError(
                    f"column {name!r} has {len(values)} rows",
                    limit=f"column 'nodes' has {length}",
                    hint="give every column one row a graph",
                )
        if self.ids is not None and len(self.ids) != length:
            raise InputError(f"{len(self.ids)} ids", limit=f"{length} graphs", hint="give one id a graph, or none")
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
                hint="measure the dataset again with what makes that column, or leave it out",
            ) from None

    def __contains__(self, name: str) -> bool:
        return name in self.columns

    def take(self, indices: npt.ArrayLike) -> SizeTable:
        """Return the rows at `indices` (shape (k,)), in that order."""
        chosen = np.asarray(indices, dtype=np.intp)
        ids = None if self.ids is None else self.ids[chosen]
        settings = dict(self.settings)
        if "indices" in settings:
            settings["indices"] = [settings["indices"][row] for row in chosen]
        return SizeTable({k: v[chosen] for k, v in self.columns.items()}, ids, settings)

    def with_column(self, name: str, values: npt.ArrayLike) -> SizeTable:
        """Return the table with one more column, or another one of that name.

        Raises:
            InputError: The values are no sizes of these graphs.
        """
        return SizeTable({**self.columns, name: cast(Column, values)}, self.ids, self.settings)

    def totals(self, indices: npt.ArrayLike) -> dict[str, float]:
        """Return the sizes of the batch that `indices` make: sums, plus `graphs`."""
        chosen = np.asarray(indices, dtype=np.intp)
        return {"graphs": len(chosen), **{k: v[chosen].sum().item() for k, v in self.columns.items()}}

    def statistics(self) -> dict[str, Any]:
        """Return `graphs`, and for each column `mean median min max std total` (std of the population)."""
        return {"graphs": len(self), **{name: _describe(self[name]) for name in self.columns}}

    def fingerprint(self) -> str:
        """Return a SHA-256 of the sizes; two tables with the same sizes in the same order have the same."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        digest = hashlib.sha256(str(len(self)).encode())
        for name in sorted(self.columns):
            digest.update(name.encode())
            digest.update(np.ascontiguousarray(self.columns[name]).data)
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
        npz = sizefiles.write_npz if compress else sizefiles.write_flat
        writers = {".npz": npz, ".csv": sizefiles.write_csv, ".parquet": sizefiles.write_parquet}
        writer = writers.get(Path(path).suffix.lower())
        if writer is None:
            raise _unknown_suffix(path)
        stored = sizefiles.Stored(self.columns, self.ids, self.settings)
        return write_whole(path, lambda file: writer(stored, file), force=force)

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, mmap: bool = False) -> SizeTable:
        """Read a table that `save` wrote, or any `.csv`/`.parquet` with a column `nodes`.

        Args:
            path: The file.
            mmap: Map an `.npz` that was saved with `compress=False` instead of reading it: for many millions of
                graphs, whose sizes all processes of a machine then share. The file must not be changed in place,
                and its checksums are not looked at.

        Raises:
            InputError: The file is missing, truncated, holds something else, or can't be mapped.
            MissingError: `.parquet` without pyarrow.
        """
        npz = sizefiles.map_npz if mmap else sizefiles.read_npz
        readers = {".npz": npz, ".csv": sizefiles.read_csv, ".parquet": sizefiles.read_parquet}
        reader = readers.get(Path(path).suffix.lower())
        if reader is None:
            raise _unknown_suffix(path)
        if not Path(path).is_file():
            raise InputError(f"there is no file {str(path)!r}", hint="check the path")
        if mmap:
            check_mappable(path)
        try:
            stored = reader(Path(path))
            table = cls(stored.columns, stored.ids, stored.settings)
            _check_settings(stored.settings, len(table))
            return table
        except InputError as error:
            what = f"{str(path)!r} holds no sizes: {error.what}"
            raise InputError(what, limit=error.limit, hint="measure the dataset again") from error
        except DAMAGE as error:
            raise InputError(
                f"{str(path)!r} holds no sizes: {' '.join(str(error).split())[:200]}",
                limit="columns id, nodes, edges, line_edges and any further",
                hint="make it with 'nodebudget measure DATA -o sizes.npz'",
            ) from error


def _unknown_suffix(path: object) -> InputError:
    return InputError(
        f"{str(path)!r} is no file of sizes", limit=f"suffix {', '.join(SUFFIXES)}", hint="choose one of these suffixes"
    )


def _checked(name: str, values: npt.ArrayLike) -> Column:
    array = np.asarray(values)
    if array.ndim != 1 or array.dtype.kind not in "iufb":
        raise InputError(
            f"column {name!r} is not a list of numbers", limit="one number a graph", hint="give a one-dimensional array"
        )
    if array.dtype.kind == "f":
        if not np.isfinite(array).all():
            row = int(np.flatnonzero(~np.isfinite(array))[0])
            raise InputError(
                f"column {name!r}, row {row}: {array[row]}",
                limit="sizes are finite",
                hint="measure that graph again, or leave it out",
            )
        if (array == np.floor(array)).all() and (np.abs(array) < 2**53).all():
            array = array.astype(np.int64)
        else:
            array = array.astype(np.float64, copy=False)
    elif array.size and array.max() > np.iinfo(np.int64).max:
        raise InputError(
            f"column {name!r} has a value of {array.max()}", limit="at most 2^63 - 1", hint="give it in a larger unit"
        )
    else:
        array = array.astype(np.int64, copy=False)
    if array.size and array.min() < 0:
        row = int(np.argmin(array))
        raise InputError(
            f"column {name!r}, row {row}: {array[row]}",
            limit="sizes are 0 or more",
            hint="measure that graph again, or leave it out",
        )
    if array.size and array.sum(dtype=np.float64) >= 2.0**63:
        raise InputError(f"the total of column {name!r} is over 2^63", hint="check the unit of that column")
    array = array.view()
    array.flags.writeable = False
    return array


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
    """Refuse settings that what uses sizes could not use."""
    if not isinstance(settings, dict):
        raise ValueError("its settings are no names and values")
    indices, skipped = settings.get("indices"), settings.get("skipped", [])
    if indices is not None and not (
        isinstance(indices, list)
        and len(indices) == rows
        and all(type(index) is int and index >= 0 for index in indices)
    ):
        raise ValueError("its indices are not one a graph")
    keys = {"index", "name", "reason"}
    if not (isinstance(skipped, list) and all(isinstance(entry, dict) and keys <= entry.keys() for entry in skipped)):
        raise ValueError("its list of skipped crystals is none")
