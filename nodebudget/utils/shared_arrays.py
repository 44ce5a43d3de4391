"""Arrays that one process of a machine works out and writes, and that the others map.

A lock says who works them out. The system gives it back when its holder ends, however it ends, and the next in line
takes over: nobody waits for a process that is gone.
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

#: Seconds that who made arrays before is ahead of the others, so that it makes the next ones too, which is cheaper.
_AHEAD = 0.5

#: Seconds between two looks in the meantime.
_PAUSE = 0.01

#: Of what a process wrote so many files stay, for those that are a step behind.
_KEPT = 2

#: What was written and not removed yet, and by which process.
_written: dict[Path, int] = {}

_log = logging.getLogger("nodebudget")


class SharedArrays:
    """Arrays by name, in a folder.

    Args:
        folder: On a disk of this machine, or in its memory (`/dev/shm`); made where it is not there.
        name: What is shared: the same in all processes that share it.

    Raises:
        InputError: The folder can't be made or written, or files in it can't be locked.
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
        """Return arrays: mapped where they are in the folder, else made here, while the others wait.

        Args:
            key: Which ones.
            make: Works them out, alike in every process.
        """
        path = self._folder / f"nodebudget-{self._name}-{key}.npz"
        if not self._mine:
            self._let_go_ahead(path)
        found = _map(path)
        if found is None:
            with self._locked():
                found = _map(path) or self._write(path, make())
        return found

    def _let_go_ahead(self, path: Path) -> None:
        """Wait a little for a process that made others."""
        if not any(self._folder.glob(f"nodebudget-{self._name}-*.npz")):
            return
        deadline = time.monotonic() + _AHEAD
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
            # Each process can do without.
            _log.warning("a plan is not shared, each process makes its own: %s", error)
            return arrays
        if os.getpid() not in _written.values():
            # Unlike atexit's, it is called at the end of multiprocessing's processes too.
            Finalize(None, _remove_all, exitpriority=0)
        _written[path] = os.getpid()
        self._mine.append(path)
        while len(self._mine) > _KEPT:
            # Who has mapped it keeps it.
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
