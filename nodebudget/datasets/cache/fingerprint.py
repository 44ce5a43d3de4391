"""Whether a dataset is still what it was: a fingerprint of its files that costs milliseconds.

A file is told by its length, the time of its last change in nanoseconds, and 64 KiB at 64 places, from its first bytes
to its last; up to 4 MiB it is read in full. What this can miss: a change between these places that keeps the length and
sets the time back. A thousand files or more (a folder of structures) are told by names, lengths and times alone.
A thorough fingerprint reads everything, and heeds no times.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nodebudget.errors import InputError
from nodebudget.utils.checks import check_choice

QUICK, THOROUGH = "quick", "thorough"

#: Places at which a file is looked into, and bytes at each.
_PLACES, _BYTES = 64, 2**16
#: From so many files on, their names, lengths and times have to do.
_MANY_FILES = 1000


def fingerprint(files: Sequence[Path], how: str = QUICK) -> str:
    """Return a SHA-256 that changes when one of the files does.

    Args:
        files: In the order in which they are read; one that is not there counts as such.
        how: "quick" or "thorough".

    Raises:
        InputError: A file can't be read, or `how` is something else.
    """
    check_choice("fingerprint", how, (QUICK, THOROUGH))
    digest = hashlib.sha256(f"{how} {len(files)}".encode())
    look = len(files) < _MANY_FILES or how == THOROUGH
    for path in files:
        digest.update(os.fsencode(path.name) + b"\0")
        try:
            _add(digest, path, how, look)
        except (FileNotFoundError, ValueError):
            # No file can have a name with a zero in it.
            digest.update(b"missing")
        except OSError as error:
            raise InputError(f"{str(path)!r} can't be read: {error.strerror}", hint="check it") from error
    return digest.hexdigest()


def _add(digest: Any, path: Path, how: str, look: bool) -> None:
    found = path.stat()
    digest.update(f"{found.st_size} {0 if how == THOROUGH else found.st_mtime_ns};".encode())
    # What is no plain file, a named pipe say, might be read for ever.
    if not look or not path.is_file():
        return
    with path.open("rb") as file:
        if how == THOROUGH or found.st_size <= _PLACES * _BYTES:
            while block := file.read(2**20):
                digest.update(block)
            return
        for number in range(_PLACES):
            file.seek(number * (found.st_size - _BYTES) // (_PLACES - 1))
            digest.update(file.read(_BYTES))
