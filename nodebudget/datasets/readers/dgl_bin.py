"""DGL graph caches (.bin), as `dgl.save_graphs` writes them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from nodebudget.datasets.readers.source import CHUNK_RECORDS, Chunk, Named, Source
from nodebudget.datasets.readers.subprocess_check import ask
from nodebudget.errors import InputError
from nodebudget.utils.optional_imports import load_dgl

#: DGL's reader trusts the lengths in a file and ends the process where they are absurd, so that a process of its own
#: reads the file first, in no more memory than a whole file needs, and prints how many graphs there are.
_TRIAL = """
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
        try:
            return int(ask(_TRIAL, self.path).split()[-1])
        except (ValueError, IndexError) as error:
            raise _refusal(self.path, str(error)) from error


def decode_graphs(payload: Iterable[Any]) -> Iterator[Named]:
    """Hand on graphs."""
    for graph in payload:
        yield None, graph


def _refusal(path: Path, reason: str) -> InputError:
    shown = " ".join(reason.split())[:150]
    return InputError(f"{str(path)!r} holds no DGL graphs: {shown}", hint="make it with dgl.save_graphs")
