"""What every reader of a dataset offers: its records, in order, in pieces that can be sent to a worker."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nodebudget.errors import InputError

#: Records that a worker takes at once: some 50 ms of work, so that sending them costs little beside it.
CHUNK_RECORDS = 128
#: Bytes after which a chunk is full, so that large records never add up in memory.
CHUNK_BYTES = 4 * 2**20

#: A record as a worker sees it: its name where the reader knows one, and the sample (a crystal, a graph) or, in its
#: place, an `UnusableError` that says why there is none.
Named = tuple["str | None", Any]


@dataclass(frozen=True)
class Chunk:
    """Some records that follow each other.

    Attributes:
        first: Number of the first in the dataset.
        count: How many there are.
        payload: What travels to the worker: raw bytes rather than parsed crystals, so that workers do the parsing.
        decode: Makes the records of the payload, one by one. A function of a module, so that it can be sent.
        size: About how many bytes the payload has.
    """

    first: int
    count: int
    payload: Any
    decode: Callable[[Any], Iterable[Named]]
    size: int

    def after(self, number: int) -> Chunk:
        """Return the chunk without its first records; of a chunk whose payload is a list."""
        if not number:
            return self
        return replace(self, first=self.first + number, count=self.count - number, payload=self.payload[number:])


class Source(ABC):
    """A dataset on disk that can be read from front to back.

    Attributes:
        path: What the user named.
        kind: "crystals" or "graphs".
        files: The files that it is read from, for telling whether it has changed.
        travels: Whether chunks can be sent to other processes; otherwise this one decodes them.
    """

    kind = "crystals"
    travels = True

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files: Sequence[Path] = [path]

    def count(self) -> int | None:
        """Return how many records there are, or None where only reading tells."""
        return None

    def about(self) -> int:
        """Return about how many records there are."""
        known = self.count()
        # A crystal of a dozen atoms takes a kilobyte or two.
        return known if known is not None else sum(file.stat().st_size for file in self.files) // 1500

    @abstractmethod
    def chunks(self, start: int) -> Iterator[Chunk]:
        """Yield the records from number `start` on.

        Raises:
            InputError: The data is damaged.
        """

    def items(self) -> Sequence[Any]:
        """Return the samples for access in any order; what can't be read raises a CrystalError when it is asked for.

        Raises:
            InputError: This can only be read from front to back.
        """
        raise InputError(
            f"{str(self.path)!r} can only be read from front to back, which is enough to measure it but not to train",
            limit="an unpacked .jsonl, .tar, .parquet, .db or folder can be read in any order",
            hint="unpack it",
        )


def grouped(
    records: Iterable[tuple[Any, int]], first: int, decode: Callable[[list[Any]], Iterable[Named]]
) -> Iterator[Chunk]:
    """Put records together into chunks.

    Args:
        records: Each with about how many bytes it has.
        first: Number of the first.
        decode: Takes a list of them.
    """
    payload: list[Any] = []
    size = 0
    for record, length in records:
        payload.append(record)
        size += length
        if len(payload) == CHUNK_RECORDS or size >= CHUNK_BYTES:
            yield Chunk(first, len(payload), payload, decode, size)
            first, payload, size = first + len(payload), [], 0
    if payload:
        yield Chunk(first, len(payload), payload, decode, size)
