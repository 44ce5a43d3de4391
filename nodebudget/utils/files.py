"""Files are written whole or not at all."""

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

#: What readers raise on files that are cut, altered or of another kind; numpy reads an array's header as Python source.
DAMAGE = (
    *(OSError, ValueError, KeyError, TypeError, EOFError, OverflowError, MemoryError, csv.Error),
    *(
        zipfile.BadZipFile,
        zlib.error,
        NotImplementedError,
        RuntimeError,
        AttributeError,
        SyntaxError,
        tokenize.TokenError,
    ),
)

#: Bytes that any archive of arrays may unpack to, and how many times its own size a larger one may.
_FREE, _TIMES = 2**30, 200

#: Bytes of a text that is read as a whole; parsed, JSON can take twenty times as much.
TEXT = 64 * 2**20


def read_text(path: str | os.PathLike[str], *, most: int = TEXT, errors: str = "strict") -> str:
    """Read a text of bounded length.

    Args:
        path: The file.
        most: Bytes that it may have.
        errors: What becomes of bytes that are no UTF-8, as `bytes.decode` takes it.

    Raises:
        OSError: It can't be read.
        ValueError: It is larger, or no UTF-8 (UnicodeDecodeError).
    """
    with Path(path).open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"it has over {format_bytes(most)}, which is more than such a file takes")
    return content.decode("utf-8", errors)


def check_archive(file: BinaryIO) -> None:
    """Refuse what is no .npz archive, and one that unpacks to far more than it is; leave the file at its start.

    What members say of their size is what is read of them at most, so that it bounds the memory that they take.

    Raises:
        ValueError: It is no archive, or unpacks to too much.
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
    """Refuse an archive whose members have comments, which numpy does not write.

    Where the length of one is damaged, it holds the entries after it, and their arrays would silently be missing.

    Raises:
        ValueError: A member has one.
    """
    for member in archive.infolist():
        if member.comment:
            raise ValueError(f"damaged after its member {member.filename[:80]!r}")


def check_unpacked(size: int, packed: int) -> None:
    """Refuse a file of `packed` bytes that takes `size` bytes of memory, where that is far more.

    Raises:
        ValueError: It is.
    """
    if size > max(_FREE, _TIMES * packed):
        raise ValueError(f"it unpacks to {format_bytes(size)}, over {format_bytes(_FREE)} and {_TIMES} times its size")


def check_output(path: str | os.PathLike[str], *, force: bool) -> Path:
    """Make sure, before the work starts, that a result can be written there.

    Raises:
        InputError: The file exists and `force` is not set, it is a folder, or its folder is missing or
            can't be written.
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
    """Write a file beside its final place, then move it there in one step.

    Args:
        path: Where the file goes.
        write: Called with a binary file that is open for writing.
        force: Overwrite an existing file.

    Returns:
        The path.

    Raises:
        InputError: See `check_output`; also when the disk is full or the folder can't be written.
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
