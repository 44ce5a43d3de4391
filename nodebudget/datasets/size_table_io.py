"""Sizes on disk as arrays: `.npz`, `.csv` and `.parquet`. Their meaning is checked by `nodebudget.datasets.size_table`.

Readers raise a ValueError, or another of `nodebudget.utils.files.DAMAGE`, over files that are not such tables.
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from nodebudget.datasets.read_limits import MAX_NAME
from nodebudget.utils.files import check_archive, check_unpacked
from nodebudget.utils.mapped_arrays import map_arrays, write_arrays
from nodebudget.utils.optional_imports import require

Column = npt.NDArray[Any]

SCHEMA_VERSION = 2  #: Version of the arrays in an `.npz`. Version 1 had no number in it.

#: Arrays of an `.npz` that are not columns: how the sizes were measured, as JSON; and the version.
SETTINGS, VERSION = "_settings", "_version"

_BLOCK = 2**16  #: Rows that are parsed at once: as a Python object a number takes ten times what it takes in an array.
#: Column of a `.csv` or `.parquet` with each row's place in the dataset, where crystals were skipped.
INDEX = "_index"
#: Arrays of the metadata.npz beside fairchem's datasets, and what they are here.
_FAIRCHEM = {"natoms": "nodes", "neighbors": "edges"}


class Stored(NamedTuple):
    """The content of a size table on disk: columns by name, names of the graphs or None, and settings."""

    columns: Mapping[str, Column]
    ids: npt.NDArray[np.str_] | None = None
    settings: Any = {}  # noqa: RUF012 - never changed


def write_npz(stored: Stored, file: BinaryIO) -> None:
    """Write compressed arrays."""
    np.savez_compressed(file, **_arrays(stored))


def write_flat(stored: Stored, file: BinaryIO) -> None:
    """Write arrays that `map_npz` can map."""
    write_arrays(file, _arrays(stored))


def write_csv(stored: Stored, file: BinaryIO) -> None:
    """Write one line per graph."""
    text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
    rows = _lists(stored)
    writer = csv.writer(text)
    writer.writerow(rows)
    writer.writerows(zip(*rows.values(), strict=True))
    text.detach()


def write_parquet(stored: Stored, file: BinaryIO) -> None:
    """Write one row per graph; needs pyarrow."""
    require("pyarrow.parquet").write_table(require("pyarrow").table(_lists(stored)), file)


def read_npz(path: Path) -> Stored:
    """Read the arrays."""
    # Opened here, because numpy leaves a file open that turns out not to be an archive.
    with path.open("rb") as file:
        check_archive(file)
        archive = np.load(file, allow_pickle=False)
        if "natoms" in archive.files and "nodes" not in archive.files:
            # fairchem's metadata.npz, of which further arrays may be of another length.
            return _stored({ours: archive[name] for name, ours in _FAIRCHEM.items() if name in archive.files})
        arrays = {name: archive[name] for name in archive.files}
    return _stored(arrays)


def map_npz(path: Path) -> Stored:
    """Map the arrays of an uncompressed file into memory."""
    return _stored(map_arrays(path))


def read_csv(path: Path) -> Stored:
    """Read a header and one line per graph. A column without any value is left out: that size was not counted."""
    with path.open(encoding="utf-8", newline="") as text:
        lines = csv.reader(text)
        head = next(lines, [])
        _check_unique(head)
        parts: dict[str, list[Column | None]] = {name: [] for name in head}
        while block := list(islice(lines, _BLOCK)):
            if any(len(row) != len(head) for row in block):
                raise ValueError("rows of unequal length")
            for place, name in enumerate(head):
                values = [row[place] for row in block]
                if name == "id":
                    _check_length(max(map(len, values)))
                parts[name].append(np.asarray(values, np.str_) if name == "id" else _numbers(name, values))
    size = path.stat().st_size
    columns = {name: _joined(name, arrays, size) for name, arrays in parts.items()}
    ids = columns.pop("id", None)
    return _with_indices({name: values for name, values in columns.items() if values is not None}, ids)


def read_parquet(path: Path) -> Stored:
    """Read one row per graph. A column without any value is left out: that size was not counted. Needs pyarrow."""
    parquet, size = require("pyarrow.parquet"), path.stat().st_size
    schema = parquet.read_schema(path)
    names = schema.names
    _check_unique(names)
    # Names stay in their dictionary until their length is checked: one that is once in the file can be in every row.
    # Not mapped into memory: a file that is cut while it is read would end the process.
    texts = [name for name in names if name == "id" and _is_text(schema.field(name).type)]
    with parquet.ParquetFile(path, memory_map=False, read_dictionary=texts) as file:
        groups = [file.metadata.row_group(index) for index in range(file.num_row_groups)]
        values = file.metadata.num_rows * len(names)
        check_unpacked(max(sum(group.total_byte_size for group in groups), 8 * values), size)
        table = file.read()
    columns = {name: table.column(name) for name in names}
    ids = _arrow_names(columns.pop("id"), size) if "id" in columns else None
    counted = {name: column for name, column in columns.items() if not len(column) or column.null_count < len(column)}
    return _with_indices({name: np.asarray(column.to_numpy()) for name, column in counted.items()}, ids)


def _arrays(stored: Stored) -> dict[str, Any]:
    arrays: dict[str, Any] = dict(stored.columns)
    if stored.ids is not None:
        arrays["id"] = stored.ids
    arrays[SETTINGS] = np.frombuffer(json.dumps(dict(stored.settings)).encode(), dtype=np.uint8)
    arrays[VERSION] = np.array([SCHEMA_VERSION])
    return arrays


def _stored(arrays: dict[str, Column]) -> Stored:
    version = arrays.pop(VERSION, np.array([1]))
    if version.shape != (1,) or version.dtype.kind != "i":
        raise ValueError("its version is not a number")
    if not 1 <= version[0] <= SCHEMA_VERSION:
        raise ValueError(f"its version is {version[0]}, this nodebudget reads 1 to {SCHEMA_VERSION}")
    settings = arrays.pop(SETTINGS, None)
    ids = arrays.pop("id", None)
    return Stored(arrays, ids, {} if settings is None else json.loads(settings.tobytes()))


def _lists(stored: Stored) -> dict[str, Sequence[Any]]:
    ids = {} if stored.ids is None else {"id": stored.ids.tolist()}
    indices = {INDEX: stored.settings["indices"]} if "indices" in stored.settings else {}
    return ids | {name: values.tolist() for name, values in stored.columns.items()} | indices


def _with_indices(columns: dict[str, Column], ids: npt.NDArray[np.str_] | None) -> Stored:
    indices = columns.pop(INDEX, None)
    return Stored(columns, ids, {} if indices is None else {"indices": indices.tolist()})


def _check_unique(names: Sequence[str]) -> None:
    name, count = max(Counter(names).items(), key=lambda pair: pair[1], default=("", 0))
    if count > 1:
        raise ValueError(f"{count} columns are named {name!r}")


def _check_length(longest: int) -> None:
    if longest > MAX_NAME:
        raise ValueError(f"an id has {longest:,} characters, over the limit of {MAX_NAME}")


def _numbers(name: str, values: list[str]) -> Column | None:
    """Return whole numbers, or others; None where all are empty."""
    if not any(values):
        return None
    try:
        return np.array([int(value) for value in values], dtype=np.int64)
    except (ValueError, OverflowError):
        try:
            return np.array([float(value) for value in values])
        except ValueError as error:
            raise ValueError(f"column {name!r}: {error}") from None


def _joined(name: str, parts: list[Column | None], size: int) -> Column | None:
    if not parts:
        return np.empty(0, np.str_ if name == "id" else np.int64)
    arrays = [part for part in parts if part is not None]
    if not arrays:
        return None
    if len(arrays) < len(parts):
        raise ValueError(f"column {name!r}: some of its rows are empty")
    if name == "id":
        check_unpacked(sum(map(len, arrays)) * max(part.itemsize for part in arrays), size)
    return np.concatenate(arrays)


def _arrow_names(column: Any, size: int) -> npt.NDArray[np.str_]:
    types, compute = require("pyarrow").types, require("pyarrow.compute")
    if types.is_integer(column.type):
        return np.asarray(column.to_numpy(), dtype=np.str_)
    if not (types.is_dictionary(column.type) and _is_text(column.type.value_type)):
        raise ValueError(f"ids are of type {str(column.type)[:40]}, not texts or whole numbers")
    parts = []
    for chunk in column.chunks:
        longest = compute.max(compute.utf8_length(chunk.dictionary)).as_py() or 0
        _check_length(longest)
        check_unpacked(4 * longest * len(column), size)
        # A missing name is empty.
        names = np.asarray([*chunk.dictionary.to_pylist(), ""], dtype=np.str_)
        parts.append(names[chunk.indices.fill_null(len(names) - 1).to_numpy()])
    return np.concatenate(parts) if parts else np.empty(0, np.str_)


def _is_text(kind: Any) -> bool:
    types = require("pyarrow").types
    return bool(types.is_string(kind) or types.is_large_string(kind))
