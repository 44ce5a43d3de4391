"""DGL graph caches (.bin), as `dgl.save_graphs` writes them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

from nodebudget.datasets.readers.source import CHUNK_RECORDS, Chunk, NamedSample, RecordSource, chunked, refusing
from nodebudget.datasets.readers.subprocess_check import run_check
from nodebudget.utils.optional_imports import load_dgl

#: DGL's reader trusts the lengths in a file and ends the process where they are absurd. So a process of its own reads
#: the file first, in no more memory than a complete file needs, and prints the number of graphs.
_CHECK = """
import os, resource, dgl
try:
    pages = int(open("/proc/self/statm").read().split()[0])
    limit = pages * resource.getpagesize() + 2**30 + 20 * os.path.getsize(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
except (OSError, ValueError):
    pass
print(len(dgl.load_graphs(sys.argv[1])[0]))
"""


class DglBin(RecordSource):
    """The graphs of a .bin file."""

    kind = "graphs"
    picklable = False

    def count(self) -> int:
        return self._count

    def chunks(self, start: int) -> Iterator[Chunk]:
        for first in range(start, self._count, CHUNK_RECORDS):
            graphs = self._load(range(first, min(first + CHUNK_RECORDS, self._count)))
            yield from chunked(((graph, 0) for graph in graphs), first, _unnamed)

    def items(self) -> Sequence[Any]:
        """Return the graphs; all are in memory."""
        return self._load(range(self._count))

    def _load(self, numbers: Sequence[int]) -> list[Any]:
        dgl = load_dgl()
        with refusing(self.path, "DGL graphs", (dgl.DGLError, OSError, ValueError, RuntimeError)):
            graphs: list[Any] = dgl.load_graphs(str(self.path), list(numbers))[0]
        return graphs

    @cached_property
    def _count(self) -> int:
        load_dgl()
        with refusing(self.path, "DGL graphs", (ValueError, IndexError)):
            return int(run_check(_CHECK, self.path).split()[-1])


def _unnamed(graph: Any) -> NamedSample:
    return None, graph
