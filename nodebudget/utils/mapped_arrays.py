"""Uncompressed `.npz` archives whose arrays are mapped into memory instead of read; `np.load` reads them too.

Processes of a machine that map the same file share its pages, and unused pages take no memory.
"""

from __future__ import annotations

import math
import os
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from nodebudget.errors import InputError
from nodebudget.utils.files import check_members

Array = npt.NDArray[Any]

#: Offsets of arrays are multiples of so many bytes: numpy copies a column that is not aligned before each use.
_ALIGNED = 64

#: Bytes of a member's header in a zip archive, and of the 64-bit sizes that Python's zipfile adds.
_HEADER, _ZIP64 = 30, 20

_PADDING = 0xD935  #: Identifier of an extra field that is padding, as in Android's zipalign.


def write_arrays(file: BinaryIO, arrays: Mapping[str, Array]) -> None:
    """Write arrays, not of objects, to an empty file so that `map_arrays` can map them, and `np.load` read them."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            member = zipfile.ZipInfo(f"{name}.npy")
            gap = -(file.tell() + _HEADER + len(member.filename.encode()) + _ZIP64 + 4) % _ALIGNED
            member.extra = struct.pack("<HH", _PADDING, gap) + bytes(gap)
            with archive.open(member, "w", force_zip64=True) as part:
                np.lib.format.write_array(part, np.ascontiguousarray(array), allow_pickle=False)


def check_mappable(path: str | os.PathLike[str]) -> None:
    """Raise an InputError over a file that can't be mapped: another one than `.npz`, or a compressed one."""
    if Path(path).suffix.lower() != ".npz" or _is_compressed(path):
        raise InputError(
            f"{str(path)!r} can't be mapped into memory",
            limit="an uncompressed .npz",
            hint="load it without mmap=True, and save it with compress=False",
        )


def _is_compressed(path: str | os.PathLike[str]) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist())
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError):
        return False  # not an archive, or a damaged one: its reader says so


def map_arrays(path: str | os.PathLike[str]) -> dict[str, Array]:
    """Map the arrays of an uncompressed `.npz`, read-only. The file must not be changed, but may be replaced.

    Raises one of `nodebudget.utils.files.DAMAGE` where it is not such a file, or is cut or damaged.
    """
    with Path(path).open("rb") as file, zipfile.ZipFile(file) as archive:
        check_members(archive)
        return {member.filename.removesuffix(".npy"): _map(file, member) for member in archive.infolist()}


def _map(file: BinaryIO, member: zipfile.ZipInfo) -> Array:
    if member.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{member.filename!r} is compressed")
    file.seek(member.header_offset)
    head = file.read(_HEADER)
    if len(head) < _HEADER or head[:4] != b"PK\x03\x04":
        raise ValueError(f"{member.filename!r} has no header at its offset")
    file.seek(sum(struct.unpack("<HH", head[26:])), os.SEEK_CUR)
    shape, kind = _read_header(file)
    start, size = file.tell(), math.prod(shape) * kind.itemsize
    if kind.hasobject or len(shape) != 1:
        raise ValueError(f"{member.filename!r} is not a one-dimensional array of numbers or names")
    if size < 0 or start + size > os.fstat(file.fileno()).st_size:
        raise ValueError(f"{member.filename!r} is longer than the file")
    # An empty range can't be mapped.
    return np.memmap(file, kind, "r", start, shape) if size else np.empty(shape, kind)


def _read_header(file: BinaryIO) -> tuple[tuple[int, ...], np.dtype[Any]]:
    try:
        first = np.lib.format.read_magic(file) == (1, 0)
        read = np.lib.format.read_array_header_1_0 if first else np.lib.format.read_array_header_2_0
        shape, _, kind = read(file)
    except Exception as error:
        # numpy parses the header as Python, whose parser raises many types of errors.
        raise ValueError(f"an array's header can't be read: {error}") from error
    return shape, kind
