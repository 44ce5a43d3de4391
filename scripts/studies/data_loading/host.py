"""Host memory of a process and all its child processes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nodebudget.utils.optional_imports import require

#: Where the shared memory is among the open files of a process.
_SHARED = ("/dev/shm/", "/memfd:")

#: Memory is stable when it changed by less than this fraction over four measurements, seconds apart.
_STABLE = 0.001
_MEASUREMENTS = 4
_PAUSE = 0.15
_TIMEOUT = 30.0


@dataclass(frozen=True)
class HostMemory:
    """Memory of a tree of processes, bytes.

    Attributes:
        total: Anonymous memory and shared memory of these processes, each page once.
        pss: Proportional set size, libraries included: a page that n processes map counts 1/n for each.
        uss: Unique set size: pages that a single process maps.
        in_flight: Shared memory that the processes have open, mapped or not: batches in transit between them.
        processes: Number of processes.
    """

    total: int
    pss: int
    uss: int
    in_flight: int
    processes: int


def host_memory() -> HostMemory:
    """Measure this process and all its child processes.

    The sum of PSS would be wrong for two reasons. A batch that a worker has finished is in shared memory that no
    process maps, so PSS misses it; the sizes of the open files include it. And PSS divides the pages of libraries among
    all their users, so it changes when another program on the machine starts; libraries are therefore left out.

    Raises:
        MissingError: psutil is not installed.
    """
    psutil = require("psutil")
    current = psutil.Process()
    pss = uss = private = processes = 0
    files: dict[tuple[int, int], int] = {}
    for process in (current, *current.children(recursive=True)):
        try:
            info = process.memory_full_info()
        except psutil.NoSuchProcess:
            continue
        # Only Linux reports PSS.
        pss, uss = pss + getattr(info, "pss", info.uss), uss + info.uss
        anonymous = _anonymous(process.pid)
        private += info.uss if anonymous is None else anonymous
        files |= _shared_files(process.pid)
        processes += 1
    in_flight = sum(files.values())
    return HostMemory(private + in_flight, pss, uss, in_flight, processes)


def _anonymous(pid: int) -> int | None:
    """Return the anonymous part of a process's PSS; None if the system does not report it."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss_Anon:")), None)


def _shared_files(pid: int) -> dict[tuple[int, int], int]:
    """Return device and inode → bytes of the shared memory that a process has open."""
    sizes = {}
    try:
        names = os.listdir(f"/proc/{pid}/fd")  # noqa: PTH208 - one folder of the system, many times
    except OSError:
        return {}
    for name in names:
        path = f"/proc/{pid}/fd/{name}"
        try:
            if Path(path).readlink().as_posix().startswith(_SHARED):
                about = Path(path).stat()
                sizes[about.st_dev, about.st_ino] = about.st_blocks * 512
        except OSError:
            continue  # closed since
    return sizes


def stable_memory(measure: Callable[[], Any] = host_memory) -> Any:
    """Measure until the total no longer changes, for up to half a minute; return the last measurement."""
    deadline = time.monotonic() + _TIMEOUT
    last, unchanged = measure(), 0
    while unchanged < _MEASUREMENTS and time.monotonic() < deadline:
        time.sleep(_PAUSE)
        current = measure()
        unchanged = unchanged + 1 if abs(current.total - last.total) <= _STABLE * last.total else 0
        last = current
    return last
