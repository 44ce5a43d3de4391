"""DGL graph caches (.bin), as `dgl.save_graphs` writes them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from nodebudget.errors import InputError
from nodebudget.frameworks import load_dgl
from nodebudget.measure.source import CHUNK_RECORDS, Chunk, Named, Source

#: DGL's reader trusts the lengths in a file and ends the process where they are absurd, so that a process of its own
#: reads the file first, in no more memory than a whole file needs, and prints how many graphs there are. Its modules
#: come from where this process has them: Python would look in the current folder first, where a dataset may lie.
_TRIAL = """
import sys
sys.path[:] = sys.argv[2:]
import os, resource, dgl
try:
    pages = int(open("/proc/self/statm").read().split()[0])
    most = pages * resource.getpagesize() + 2**30 + 20 * os.path.getsize(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
except (OSError, ValueError):
    pass
print(len(dgl.load_graphs(sys.argv[1])[0]))
"""


class DglBin(Source):
    """The graphs of a .bin file."""

    kind = "graphs"
    travels = False

    def count(self) -> int | None:
        """Return the number of graphs."""
        return self._count

    def chunks(self, start: int) -> Iterator[Chunk]:
        """Yield the graphs from number `start` on."""
        for first in range(start, self._count, CHUNK_RECORDS):
            numbers = list(range(first, min(first + CHUNK_RECORDS, self._count)))
            yield Chunk(first, len(numbers), self._load(numbers), decode_graphs, 0)

    def items(self) -> Sequence[Any]:
        """Return the graphs; all are in memory."""
        return self._load(list(range(self._count)))

    def _load(self, numbers: list[int]) -> list[Any]:
        dgl = load_dgl()
        try:
            graphs: list[Any] = dgl.load_graphs(str(self.path), numbers)[0]
        except (dgl.DGLError, OSError, ValueError, RuntimeError) as error:
            raise _refusal(self.path, str(error)) from error
        return graphs

    @cached_property
    def _count(self) -> int:
        load_dgl()
        command = [sys.executable, "-W", "ignore", "-c", _TRIAL, str(self.path), *sys.path]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0 and done.stdout.split()[-1:]:
            return int(done.stdout.split()[-1])
        said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        # What the C++ runtime says of an abort; else the last line of a traceback.
        aborted = [line for line in said if line.startswith("what():")]
        raised = [line for line in said if "Error: " in line]
        raise _refusal(self.path, (aborted or raised or said or [f"DGL ended with {done.returncode}"])[-1])


def decode_graphs(payload: Iterable[Any]) -> Iterator[Named]:
    """Hand on graphs."""
    for graph in payload:
        yield None, graph


def _refusal(path: Path, reason: str) -> InputError:
    shown = " ".join(reason.split())[:150]
    return InputError(f"{str(path)!r} holds no DGL graphs: {shown}", hint="make it with dgl.save_graphs")
