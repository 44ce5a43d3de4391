"""Feeding bytes to a reader, and watching what is done meanwhile.

What may come of it is a value, or one NodeBudgetError whose text is safe to show.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nodebudget.errors import NodeBudgetError
from nodebudget.measure import parquet, trial


@dataclass(frozen=True)
class Reader:
    """How a kind of file is read.

    Attributes:
        file: Name of the file.
        read: Reads it.
        seeds: Contents that it takes.
        wrap: Makes the file of what is fed to it, so that damage gets past checksums.
    """

    file: str
    read: Callable[[Path], object]
    seeds: Callable[[], list[bytes]]
    wrap: Callable[[bytes], bytes] = bytes


def feed(reader: Reader, content: bytes, folder: Path) -> str | None:
    """Read a file of this content in a folder; return what the error said, or None where there was none.

    Raises:
        AssertionError: The error's text could do something to a terminal.
        Exception: Whatever the reader lets through.
    """
    path = folder / reader.file
    path.write_bytes(reader.wrap(content))
    try:
        reader.read(path)
    except NodeBudgetError as error:
        said = str(error)
    else:
        return None
    assert said.isprintable(), ascii(said)
    return said


@contextmanager
def watched(folder: Path) -> Iterator[list[str]]:
    """List what is done meanwhile that no reader may do: writing elsewhere, unpickling, starting programs, the net."""
    seen: list[str] = []
    _WATCHERS.append((folder, seen))
    if len(_WATCHERS) == 1 and not _HOOKED:
        _HOOKED.append(True)
        sys.addaudithook(_on_event)
    try:
        yield seen
    finally:
        _WATCHERS.pop()


_WATCHERS: list[tuple[Path, list[str]]] = []
#: Audit hooks can't be taken away again.
_HOOKED: list[bool] = []
#: What Python and libraries keep for themselves when they are imported.
_CACHES = ("__pycache__", "matplotlib")
#: A process of its own that looks into a file which could end this one: just this program may be started.
_TRIAL = [sys.executable, "-W", "ignore", "-c", trial.HEAD + parquet.TRIAL]
_FORBIDDEN = ("pickle.", "subprocess.", "os.system", "os.exec", "os.posix_spawn", "socket.connect", "socket.send")
_CHANGES = ("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.chmod", "os.link", "os.symlink")


def _on_event(event: str, arguments: tuple[Any, ...]) -> None:
    if not _WATCHERS:
        return
    folder, seen = _WATCHERS[-1]
    if event == "subprocess.Popen" and list(arguments[1])[:5] == _TRIAL:
        return
    if event.startswith(_FORBIDDEN):
        seen.append(f"{event} {arguments!r:.200}")
    elif event in _CHANGES or (event == "open" and _writes(arguments)):
        place = str(arguments[0])
        if not place.startswith((str(folder), tempfile.gettempdir())) and not any(cache in place for cache in _CACHES):
            seen.append(f"{event} {place!r}")


def _writes(arguments: tuple[Any, ...]) -> bool:
    path, mode, flags = arguments
    return isinstance(path, (str, bytes)) and (bool(set(mode or "") & set("wax+")) or bool((flags or 0) & 3))
