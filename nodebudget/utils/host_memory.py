"""Memory of the host."""

from __future__ import annotations

from pathlib import Path


def available_memory() -> int | None:
    """Return the host memory that new programs can use, bytes; None if the system does not report it."""
    try:
        with Path("/proc/meminfo").open(encoding="ascii") as file:
            fields = dict(line.split(":", 1) for line in file)
        return int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None
