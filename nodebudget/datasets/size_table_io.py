"""Sizes on disk as arrays: `.npz`, `.csv` and `.parquet`. What they mean is for `nodebudget.datasets.size_table`."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from nodebudget.utils.files import check_archive, check_unpacked
from nodebudget.utils.mapped_arrays import map_arrays, write_arrays
from nodebudget.utils.optional_imports import require

Column = npt.NDArray[Any]

#: Version of the arrays in an `.npz`. Version 1 had no number in it.
SCHEMA_VERSION = 2

#: Arrays of an `.npz` that are no column: how the sizes came about, as JSON; and the version.
SETTINGS, VERSION = "_settings", "_version"

#: Characters of a graph's name: an array keeps all names as wide as the longest.
NAME = 256

#: Rows that are parsed at once: as Python objects a number takes ten times what it takes in an array.
_BLOCK = 2**16


@dataclass(frozen=True, eq=False)
class Stored:
    """What a file of sizes holds.

    Attributes:
        columns: Name → array, all of one length in a sound file.
        ids: Names of the graphs, or None.
        settings: How the sizes came about.
    """

    columns: Mapping[str, Column]
    ids: npt.NDArray[np.str_] | None = None
    settings: Any = field(default_factory=dict)


def write_npz(stored: Stored, file: BinaryIO) -> None:
    """Write compressed arrays."""
    np.savez_compressed(file, **_arrays(stored))


def write_flat(stored: Stored, file: BinaryIO) -> None:
    """Write arrays that `map_npz` can map."""
    write_arrays(file, _arrays(stored))


def write_csv(stored: Stored, file: BinaryIO) -> None:
    """Write a line a graph."""
    text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
    rows = _rows(stored)
    writer = csv.writer(text)
    writer.writerow(rows)
    writer.writerows(zip(*rows.values(), strict=True))
    text.detach()


def write_parquet(stored: Stored, file: BinaryIO) -> None:
    """Write a row a graph.

    Raises:
        MissingError: pyarrow is not there.
    """
    require("pyarrow.parquet").write_table(require("pyarrow").table(_rows(stored)), file)


def read_npz(path: Path) -> Stored:
    """Read the arrays.

    Raises:
        ValueError, or another of `nodebudget.utils.files.DAMAGE`: It is no such file.
    """
    # Opened here, because numpy leaves a file open that turns out to be no archive.
    with path.open("rb") as file:
        check_archive(file)
        archive = np.load(file, allow_pickle=False)
        arrays = {name: archive[name] for name in archive.files}
    return _stored(arrays)


def map_npz(path: Path) -> Stored:
    """Map the arrays of an uncompressed file: see `read_npz`."""
    return _stored(map_arrays(path))


def read_csv(path: Path) -> Stored:
    """Read a header and a line a graph. A column without any value is left out: that size is not known.

    Raises:
        ValueError, csv.Error: It is no such table.
    """
    with path.open(encoding="utf-8", newline="") as text:
        lines = csv.reader(text)
        head = next(lines, [])
        _refuse_twins(head)
        parts: dict[str, list[Column | None]] = {name: [] for name in head}
        while block := list(islice(lines, _BLOCK)):
            if any(len(row) != len(head) for row in block):
                raise ValueError("rows of unequal length")
            for place, name in enumerate(head):
                values = [row[place] for row in block]
                parts[name].append(_names(values) if name == "id" else _numbers(name, values))
    packed = path.stat().st_size
    joined = {name: _joined(name, arrays, packed) for name, arrays in parts.items()}
    ids = joined.pop("id", None)
    return Stored({name: values for name, values in joined.items() if values is not None}, ids)


def read_parquet(path: Path) -> Stored:
    """Read a row a graph. A column without any value is left out: that size is not known.

    Raises:
        ValueError, or another of `nodebudget.utils.files.DAMAGE`: It is no such table.
        MissingError: pyarrow is not there.
    """
    parquet, packed = require("pyarrow.parquet"), path.stat().st_size
    schema = parquet.read_schema(path)
    names = schema.names
    _refuse_twins(names)
    # Names stay in their dictionary until their length is known: one that stands once in the file can be in every row.
    # Not mapped into memory: a file that is cut while it is read would end the process.
    texts = [name for name in names if name == "id" and _is_text(schema.field(name).type)]
    with parquet.ParquetFile(path, memory_map=False, read_dictionary=texts) as file:
        groups = [file.metadata.row_group(index) for index in range(file.num_row_groups)]
        values = file.metadata.num_rows * len(names)
        check_unpacked(max(sum(group.total_byte_size for group in groups), 8 * values), packed)
        table = file.read()
    found = {name: table.column(name) for name in names}
    ids = _arrow_names(found.pop("id"), packed) if "id" in found else None
    known = {name: column for name, column in found.items() if not len(column) or column.null_count < len(column)}
    return Stored({name: np.asarray(column.to_numpy()) for name, column in known.items()}, ids)


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
        raise ValueError("its version is no number")
    if not 1 <= version[0] <= SCHEMA_VERSION:
        raise ValueError(f"its version is {version[0]}, this nodebudget reads 1 to {SCHEMA_VERSION}")
    settings = arrays.pop(SETTINGS, None)
    ids = arrays.pop("id", None)
    return Stored(arrays, ids, {} if settings is None else json.loads(settings.tobytes()))


def _rows(stored: Stored) -> dict[str, Sequence[Any]]:
    head = {} if stored.ids is None else {"id": stored.ids.tolist()}
    return {**head, **{name: values.tolist() for name, values in stored.columns.items()}}


def _refuse_twins(names: Sequence[str]) -> None:
    name, count = max(Counter(names).items(), key=lambda pair: pair[1], default=("", 0))
    if count > 1:
        raise ValueError(f"{count} columns are named {name!r}")


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


def _names(values: list[str]) -> Column:
    _check_length(max(map(len, values)))
    return np.asarray(values, dtype=np.str_)


def _check_length(longest: int) -> None:
    if longest > NAME:
        raise ValueError(f"an id has {longest:,} characters, over the limit of {NAME}")


def _joined(name: str, parts: list[Column | None], packed: int) -> Column | None:
    known = [part for part in parts if part is not None]
    if not parts:
        return np.empty(0, np.str_ if name == "id" else np.int64)
    if not known:
        return None
    if len(known) < len(parts):
        raise ValueError(f"column {name!r}: some of its rows are empty")
    if name == "id":
        check_unpacked(sum(map(len, known)) * max(part.itemsize for part in known), packed)
    return np.concatenate(known)


def _arrow_names(column: Any, packed: int) -> npt.NDArray[np.str_]:
    """Return names, in whatever form they are."""
    types, compute = require("pyarrow").types, require("pyarrow.compute")
    if types.is_integer(column.type):
        return np.asarray(column.to_numpy(), dtype=np.str_)
    if not (types.is_dictionary(column.type) and _is_text(column.type.value_type)):
        raise ValueError(f"ids are of type {str(column.type)[:40]}, not texts or whole numbers")
    parts = []
    for chunk in column.chunks:
        longest = compute.max(compute.utf8_length(chunk.dictionary)).as_py() or 0
        _check_length(longest)
        check_unpacked(4 * longest * len(column), packed)
        # One that is missing is empty.
        known = np.asarray([*chunk.dictionary.to_pylist(), ""], dtype=np.str_)
        parts.append(known[chunk.indices.fill_null(len(known) - 1).to_numpy()])
    return np.concatenate(parts) if parts else np.empty(0, np.str_)


def _is_text(kind: Any) -> bool:
    types = require("pyarrow").types
    return bool(types.is_string(kind) or types.is_large_string(kind))
