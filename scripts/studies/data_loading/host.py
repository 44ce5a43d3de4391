"""Host memory of a process and all that it started."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nodebudget.utils.optional_imports import require

#: Names of shared memory among the files that a process has open.
_SHARED = ("/dev/shm/", "/memfd:")

#: Memory has settled when it changed by less than this part over so many looks, so many seconds apart.
_STILL = 0.001
_LOOKS = 4
_PAUSE = 0.15
_PATIENCE = 30.0


@dataclass(frozen=True)
class HostMemory:
    """Memory of a tree of processes, bytes.

    Attributes:
        total: What only these processes hold, each page once: anonymous memory, and shared memory.
        pss: Proportional set size, libraries included: a page that several processes map counts in parts.
        uss: Unique set size: pages that one process alone maps.
        in_flight: Shared memory that the processes have open, mapped or not: batches on their way between them.
        processes: How many processes.
    """

    total: int
    pss: int
    uss: int
    in_flight: int
    processes: int


def host_memory() -> HostMemory:
    """Measure this process and all that it started.

    The total is not just the sum of PSS, for two reasons. A batch that a worker has made waits in shared memory that
    neither side maps, so no process's PSS has it; the open files tell it. And PSS parts the pages of libraries among
    all that use them, so that it changes when another program on the machine starts; they are left out.

    Raises:
        MissingError: psutil is not there.
    """
    psutil = require("psutil")
    here = psutil.Process()
    pss = uss = own = processes = 0
    files: dict[tuple[int, int], int] = {}
    for process in (here, *here.children(recursive=True)):
        try:
            found = process.memory_full_info()
        except psutil.NoSuchProcess:
            continue
        # Only Linux tells the proportional one.
        pss, uss = pss + getattr(found, "pss", found.uss), uss + found.uss
        anonymous = _anonymous(process.pid)
        own += found.uss if anonymous is None else anonymous
        files |= _shared_files(process.pid)
        processes += 1
    in_flight = sum(files.values())
    return HostMemory(own + in_flight, pss, uss, in_flight, processes)


def _anonymous(pid: int) -> int | None:
    """Return the anonymous part of a process's PSS; None where the system does not tell."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss_Anon:")), None)


def _shared_files(pid: int) -> dict[tuple[int, int], int]:
    """Return device and inode → bytes of the shared memory that a process has open."""
    found = {}
    try:
        names = os.listdir(f"/proc/{pid}/fd")  # noqa: PTH208 - one folder of the system, many times
    except OSError:
        return {}
    for name in names:
        path = f"/proc/{pid}/fd/{name}"
        try:
            if Path(path).readlink().as_posix().startswith(_SHARED):
                about = Path(path).stat()
                found[about.st_dev, about.st_ino] = about.st_blocks * 512
        except OSError:
            continue  # closed since
    return found


def settled(look: Callable[[], Any] = host_memory) -> Any:
    """Look again and again until nothing changes any more, or for half a minute; return the last look."""
    until = time.monotonic() + _PATIENCE
    last, still = look(), 0
    while still < _LOOKS and time.monotonic() < until:
        time.sleep(_PAUSE)
        now = look()
        still = still + 1 if abs(now.total - last.total) <= _STILL * last.total else 0
        last = now
    return last
