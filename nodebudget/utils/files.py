"""Reading files of bounded size, and writing files whole or not at all."""

from __future__ import annotations

import csv
import os
import tokenize
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from nodebudget.errors import InputError
from nodebudget.utils.byte_units import format_bytes

#: What readers raise on files that are cut, altered or of another format; numpy parses an array's header as Python.
DAMAGE = (
    *(OSError, ValueError, KeyError, TypeError, EOFError, OverflowError, MemoryError, csv.Error, zipfile.BadZipFile),
    *(zlib.error, NotImplementedError, RuntimeError, AttributeError, SyntaxError, tokenize.TokenError),
)

#: Bytes that any archive of arrays may unpack to, and how many times its own size a larger one may.
_MAX_UNPACKED, _MAX_RATIO = 2**30, 200

TEXT = 64 * 2**20  #: Bytes of a text file that is read as a whole; parsed JSON can take twenty times as much.


def read_text(path: str | os.PathLike[str], *, max_bytes: int = TEXT) -> str:
    """Read a UTF-8 text; raise a ValueError where it has over `max_bytes` bytes, or is not UTF-8."""
    with Path(path).open("rb") as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise ValueError(f"it has over {format_bytes(max_bytes)}, more than such a file takes")
    return content.decode("utf-8")


def check_archive(file: BinaryIO) -> None:
    """Raise a ValueError over what is not an .npz archive or unpacks to far more than its size; go back to its start.

    Readers take no more bytes of a member than its header says, so the sizes in the headers bound the memory.
    """
    if not zipfile.is_zipfile(file):
        raise ValueError("not an .npz archive")
    packed = file.seek(0, os.SEEK_END)
    with zipfile.ZipFile(file) as archive:
        check_members(archive)
        size = sum(member.file_size for member in archive.infolist())
    check_unpacked(size, packed)
    file.seek(0)


def check_members(archive: zipfile.ZipFile) -> None:
    """Raise a ValueError over an archive whose members have comments, which numpy does not write.

    A comment with a damaged length spans the members after it, whose arrays would silently be missing.
    """
    for member in archive.infolist():
        if member.comment:
            raise ValueError(f"damaged after its member {member.filename[:80]!r}")


def check_unpacked(size: int, packed: int) -> None:
    """Raise a ValueError over a file of `packed` bytes that unpacks to far more, `size` bytes."""
    if size > max(_MAX_UNPACKED, _MAX_RATIO * packed):
        limit = f"{format_bytes(_MAX_UNPACKED)} and {_MAX_RATIO} times its size"
        raise ValueError(f"it unpacks to {format_bytes(size)}, over {limit}")


def check_output(path: str | os.PathLike[str], *, force: bool) -> Path:
    """Return the path of an output; raise an InputError, before the work starts, where it can't be written.

    That is where it exists and `force` is not set, is a folder, or its folder is missing or read-only.
    """
    target = Path(path)
    if target.is_dir():
        raise InputError(f"{str(target)!r} is a folder", hint="name a file in it")
    if target.exists() and not force:
        raise InputError(f"{str(target)!r} exists", hint="pass --force to overwrite it, or choose another name")
    if not target.parent.is_dir():
        raise InputError(f"there is no folder {str(target.parent)!r}", hint="make it, or choose another place")
    if not os.access(target.parent, os.W_OK):
        raise InputError(f"the folder {str(target.parent)!r} can't be written", hint="choose another place")
    return target


def write_whole(path: str | os.PathLike[str], write: Callable[[BinaryIO], object], *, force: bool) -> Path:
    """Write a temporary file in the same folder, then rename it, so that the file is whole or does not change.

    `write` is called with a binary file that is open for writing. Raises an InputError as `check_output` does, and when
    the disk is full.
    """
    import secrets  # imports OpenSSL, which commands that write nothing do without

    target = check_output(path, force=force)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
    try:
        with temporary.open("xb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    except OSError as error:
        raise InputError(
            f"{str(target)!r} could not be written: {error.strerror or error}",
            hint="free some space or choose another place",
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
    return target
