"""Versioned JSON records on disk, with the versions, date and command that made them."""

from __future__ import annotations

import datetime
import json
import os
import platform
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nodebudget.errors import RecordError
from nodebudget.utils.files import TEXT, read_text, write_whole
from nodebudget.utils.optional_imports import installed
from nodebudget.utils.version import __version__

_PACKAGES = ("torch", "dgl", "alignn", "torch-geometric", "jarvis-tools", "numpy")


def provenance() -> dict[str, Any]:
    """Return versions, date and command of this process."""
    versions = {name: installed(name) for name in _PACKAGES}
    return {
        "nodebudget": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: version for name, version in versions.items() if version},
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
    }


def write_record(
    path: str | os.PathLike[str], kind: str, version: int, body: Mapping[str, Any], *, force: bool = False
) -> Path:
    """Write a record, whole or not at all, as `nodebudget.utils.files.write_whole` does."""
    record = {"kind": kind, "schema_version": version, **body}
    text = json.dumps(record, indent=2, allow_nan=False) + "\n"
    return write_whole(path, lambda file: file.write(text.encode()), force=force)


def read_record(path: str | os.PathLike[str], kind: str, newest: int, *, max_bytes: int = TEXT) -> dict[str, Any]:
    """Read a record of a kind, of the newest schema version that can be read or an older one.

    Raises:
        RecordError: The file is missing, too large, not JSON, of another kind, or of a version that can't be read.
    """
    shown = str(path)
    try:
        text = read_text(path, max_bytes=max_bytes)
    except (OSError, ValueError) as error:
        reason = "not a text" if isinstance(error, UnicodeDecodeError) else getattr(error, "strerror", None) or error
        raise RecordError(f"{shown!r} can't be read: {reason}", hint="check the path") from error
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RecordError(f"{shown!r} is not JSON: {error}", hint="check that the file is complete") from error
    return check_record(record, shown, kind, newest)


def check_record(record: Any, shown: str, kind: str, newest: int) -> dict[str, Any]:
    """Return a parsed record, or refuse its kind or version as `read_record` does; `shown` names it in errors."""
    if not isinstance(record, dict) or record.get("kind") != kind:
        other = record.get("kind") if isinstance(record, dict) else None
        raise RecordError(
            f"{shown!r} is not a file of kind {kind!r} (its kind is {other!r})", hint="check that it is the right file"
        )
    version = record.get("schema_version")
    if not isinstance(version, int) or not 1 <= version <= newest:
        raise RecordError(
            f"{shown!r} has schema version {version!r}",
            limit=f"this nodebudget {__version__} reads 1 to {newest}",
            hint="make the record again, or install the nodebudget that wrote it",
        )
    return record
