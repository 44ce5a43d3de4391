"""Whether a dataset has changed: a fingerprint of its files that costs milliseconds.

A file is identified by its length, the time of its last change in nanoseconds, and 64 KiB at 64 places, from its first
bytes to its last; up to 4 MiB it is read in full. Not detected: a change between these places that keeps the length and
sets the time back. Of a thousand files or more (a folder of structures), only names, lengths and times count.
A thorough fingerprint reads everything, and ignores times.
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

_PLACES, _BYTES = 64, 2**16  #: Places at which a file is read, and bytes at each.
_MANY_FILES = 1000  #: From this many files on, only their names, lengths and times count.


def fingerprint(files: Sequence[Path], how: str = QUICK) -> str:
    """Return a SHA-256 that changes when one of the files, their order or `how` ("quick" or "thorough") does."""
    check_choice("fingerprint", how, (QUICK, THOROUGH))
    digest = hashlib.sha256(f"{how} {len(files)}".encode())
    read_content = len(files) < _MANY_FILES or how == THOROUGH
    for path in files:
        digest.update(os.fsencode(path.name) + b"\0")
        try:
            _add(digest, path, how, read_content)
        except (FileNotFoundError, ValueError):
            # No file can have a name with a zero in it.
            digest.update(b"missing")
        except OSError as error:
            raise InputError(f"{str(path)!r} can't be read: {error.strerror}", hint="check it") from error
    return digest.hexdigest()


def _add(digest: Any, path: Path, how: str, read_content: bool) -> None:
    status = path.stat()
    digest.update(f"{status.st_size} {0 if how == THOROUGH else status.st_mtime_ns};".encode())
    # A named pipe might be read forever.
    if not read_content or not path.is_file():
        return
    with path.open("rb") as file:
        if how == THOROUGH or status.st_size <= _PLACES * _BYTES:
            while block := file.read(2**20):
                digest.update(block)
            return
        for number in range(_PLACES):
            file.seek(number * (status.st_size - _BYTES) // (_PLACES - 1))
            digest.update(file.read(_BYTES))
