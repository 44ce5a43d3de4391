"""ASE's trajectories (.traj), read with numpy: JSON and raw arrays of numbers, of which nothing can run."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from nodebudget.datasets.counting.structures import jarvis_entry
from nodebudget.datasets.read_limits import ReadLimits
from nodebudget.datasets.readers.source import Chunk, LazyItems, NamedSample, RecordSource, chunked, refusing
from nodebudget.datasets.sample_error import SampleError
from nodebudget.errors import InputError

_DAMAGE = (OSError, ValueError, TypeError, KeyError, RecursionError, struct.error, OverflowError)
#: Start of the format ULM, in which ASE writes its trajectories; then a tag, a version, the number of frames and where
#: the list of their places is.
_MAGIC = b"- of Ulm"
_HEAD = struct.Struct("<8s16sqqq")
#: Types of numbers that a trajectory has.
_TYPES = ("int32", "int64", "float32", "float64", "bool")
#: What makes a structure.
_PARTS = ("numbers", "positions", "cell", "pbc")


class Trajectory(RecordSource):
    """The frames of a .traj file. Those that do not say otherwise have the atoms, cell and boundaries of the first."""

    def __init__(self, path: Path, read_limits: ReadLimits) -> None:
        super().__init__(path, read_limits)
        size = path.stat().st_size
        with refusing(path, "an ASE trajectory", _DAMAGE), path.open("rb") as file:
            head = file.read(_HEAD.size)
            if not head.startswith(_MAGIC):
                raise InputError(
                    f"{str(path)!r} is not a trajectory as ASE writes it today",
                    limit="a file that starts with '- of Ulm'",
                    hint="where it is one of before 2016, convert it: python -m ase.io.trajectory FILE",
                )
            _, _, _, count, place = _HEAD.unpack(head)
            if not 0 <= count <= size // 8 or not 0 <= place <= size - 8 * count:
                raise ValueError("the list of its frames is not in the file: it is cut")
            file.seek(place)
            self._places = np.frombuffer(file.read(8 * count), "<i8")
            self._first = self._structure(file, 0, {}) if count else {}

    def count(self) -> int:
        return len(self._places)

    def chunks(self, start: int) -> Iterator[Chunk]:
        with refusing(self.path, "an ASE trajectory", _DAMAGE), self.path.open("rb") as file:
            records = (self._record(file, index) for index in range(start, len(self._places)))
            yield from chunked(records, start, decode_structure)

    def items(self) -> Sequence[Any]:
        """Return the frames as JARVIS-style dicts, each read when it is asked for."""
        return LazyItems(len(self._places), self._read)

    def _read(self, index: int) -> NamedSample:
        with refusing(self.path, "an ASE trajectory", _DAMAGE), self.path.open("rb") as file:
            return decode_structure(self._record(file, index)[0])

    def _record(self, file: BinaryIO, index: int) -> tuple[tuple[str | None, Any], int]:
        try:
            structure = self._structure(file, index, self._first)
        except SampleError as error:
            return (None, error), 0
        return (None, structure), sum(np.asarray(value).nbytes for value in structure.values())

    def _structure(self, file: BinaryIO, index: int, first: dict[str, Any]) -> dict[str, Any]:
        file.seek(int(self._places[index]))
        (length,) = struct.unpack("<q", file.read(8))
        if not 0 <= length <= self.read_limits.max_record:
            raise SampleError(self.read_limits.too_large(length))
        frame = json.loads(file.read(length))
        parts = {
            name: self._array(file, frame[f"{name}."]["ndarray"]) if f"{name}." in frame else frame[name]
            for name in _PARTS
            if name in frame or f"{name}." in frame
        }
        return {**first, **parts}

    def _array(self, file: BinaryIO, about: Any) -> Any:
        shape, kind, place = about
        dtype = np.dtype(kind if kind in _TYPES else "V0")
        size = math.prod(shape) * dtype.itemsize
        if not dtype.itemsize or min(shape, default=0) < 0:
            raise ValueError(f"an array of {kind} of the shape {shape}"[:200])
        if size > self.read_limits.max_record:
            raise SampleError(self.read_limits.too_large(size))
        file.seek(place)
        return np.frombuffer(file.read(size), dtype.newbyteorder("<")).reshape(shape)


def decode_structure(record: tuple[str | None, Any]) -> NamedSample:
    """Make a JARVIS-style dict of a name and a structure."""
    name, structure = record
    if isinstance(structure, SampleError):
        return name, structure
    try:
        entry = jarvis_entry(structure)
    except SampleError as error:
        return name, error
    return name, entry if name is None else {"jid": name, **entry}
