"""Arrays that one process of a machine computes and writes, and that the others map into memory.

A lock decides which process computes them. The system releases it when its holder ends, also when that is killed, and
the next process takes over.
"""

from __future__ import annotations

import fcntl
import logging
import os
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any

import numpy.typing as npt

from nodebudget.errors import InputError
from nodebudget.utils.files import write_whole
from nodebudget.utils.mapped_arrays import map_arrays, write_arrays

Arrays = dict[str, npt.NDArray[Any]]

#: Seconds that the others wait for the process that computed arrays before: it computes the next ones faster.
_WAIT = 0.5

_PAUSE = 0.01  #: Seconds between two checks for the file.
_KEEP = 2  #: A process keeps so many of the files that it wrote, for processes that are a step behind.
_written: dict[Path, int] = {}  #: Files that were written and not removed yet, and the process that wrote each.

_log = logging.getLogger("nodebudget")


class SharedArrays:
    """Arrays by name, in a folder on a disk of this machine, or in its memory (`/dev/shm`); made if it is missing.

    The name is the same in all processes that share them. Raises an InputError where the folder can't be made or
    written, or files in it can't be locked.
    """

    def __init__(self, folder: str | os.PathLike[str], name: str) -> None:
        self._folder, self._name = Path(folder).absolute(), name
        self._mine: list[Path] = []
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with self._locked():
                pass
        except OSError as error:
            raise InputError(
                f"plans can't be shared in {str(folder)!r}: {error.strerror or error}",
                limit="a folder that can be written, where files can be locked",
                hint="choose one on a disk of this machine, or under /dev/shm",
            ) from error

    def get(self, key: str, make: Callable[[], Arrays]) -> Arrays:
        """Return arrays: mapped if they are in the folder, else made by this process, while the others wait.

        Every process would make the same arrays for the same key.
        """
        path = self._folder / f"nodebudget-{self._name}-{key}.npz"
        if not self._mine:
            self._wait_for(path)
        arrays = _map(path)
        if arrays is None:
            with self._locked():
                arrays = _map(path) or self._write(path, make())
        return arrays

    def _wait_for(self, path: Path) -> None:
        """Wait a little if another process made arrays before."""
        if not any(self._folder.glob(f"nodebudget-{self._name}-*.npz")):
            return
        deadline = time.monotonic() + _WAIT
        while not path.exists() and time.monotonic() < deadline:
            time.sleep(_PAUSE)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        file = os.open(self._folder / f"nodebudget-{self._name}.lock", os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
        finally:
            os.close(file)

    def _write(self, path: Path, arrays: Arrays) -> Arrays:
        try:
            write_whole(path, lambda file: write_arrays(file, arrays), force=True)
        except InputError as error:
            _log.warning("a plan is not shared, and each process computes it: %s", error)
            return arrays
        if os.getpid() not in _written.values():
            # Unlike an atexit function, it also runs at the end of processes that multiprocessing started.
            Finalize(None, _remove_all, exitpriority=0)
        _written[path] = os.getpid()
        self._mine.append(path)
        while len(self._mine) > _KEEP:
            # Processes that have mapped it keep its pages.
            _remove(self._mine.pop(0))
        return _map(path) or arrays


def _map(path: Path) -> Arrays | None:
    try:
        return map_arrays(path)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return None


def _remove(path: Path) -> None:
    _written.pop(path, None)
    path.unlink(missing_ok=True)


def _remove_all() -> None:
    for path, process in list(_written.items()):
        if process == os.getpid():
            _remove(path)
