"""What every reader of a dataset offers: its records in order, in chunks that can be sent to worker processes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from nodebudget.datasets.read_limits import ReadLimits
from nodebudget.datasets.sample_error import SampleError
from nodebudget.errors import CrystalError, InputError, NodeBudgetError, first_line

#: Records of a chunk: some 50 ms of work, so that sending them costs little beside it.
CHUNK_RECORDS = 128
#: Bytes at which a chunk is complete, so that large records never add up in memory.
CHUNK_BYTES = 4 * 2**20
#: Bytes of a typical crystal: one of a dozen atoms takes a kilobyte or two.
_TYPICAL_RECORD = 1500

#: A sample (a crystal or a graph) with its name, None where the reader has none. In place of a sample that can't be
#: read there is a `SampleError`.
NamedSample = tuple["str | None", Any]


@dataclass(frozen=True)
class Chunk:
    """Consecutive records of a dataset.

    Attributes:
        first: Number of the first.
        count: How many.
        payload: What is sent to the worker: raw bytes rather than parsed crystals, so that workers do the parsing.
        decode: Payload → samples, one by one; can be pickled.
        size: Approximate bytes of the payload.
    """

    first: int
    count: int
    payload: Any
    decode: Callable[[Any], Iterable[NamedSample]]
    size: int

    def skip(self, number: int) -> Chunk:
        """Return the chunk without its first records; its payload must be a list."""
        if not number:
            return self
        return replace(self, first=self.first + number, count=self.count - number, payload=self.payload[number:])


class RecordSource(ABC):
    """A dataset on disk that can be read from front to back.

    Attributes:
        path: What the user named.
        read_limits: Sizes above which it is refused.
        kind: "crystals" or "graphs".
        files: The files that are read, by which a change of the dataset is detected.
        picklable: Whether chunks can be sent to other processes; otherwise this one decodes them.
        named: Whether samples without a name are named by their number.
    """

    kind = "crystals"
    picklable = True
    named = True

    def __init__(self, path: Path, read_limits: ReadLimits | None = None) -> None:
        self.path, self.read_limits = path, read_limits or ReadLimits()
        self.files: Sequence[Path] = [path]

    def count(self) -> int | None:
        """Return the number of records, or None where only reading all of them tells."""
        return None

    def estimated_count(self) -> int:
        """Return the approximate number of records."""
        count = self.count()
        return sum(file.stat().st_size for file in self.files) // _TYPICAL_RECORD if count is None else count

    @abstractmethod
    def chunks(self, start: int) -> Iterator[Chunk]:
        """Yield the records from number `start` on; raise an InputError where the data is damaged."""

    def items(self) -> Sequence[Any]:
        """Return the samples for access in any order; reading a broken one raises a CrystalError.

        Raises:
            InputError: The dataset can only be read from front to back.
        """
        raise InputError(
            f"{str(self.path)!r} can only be read from front to back, which is enough to measure it but not to train",
            limit="an unpacked .jsonl, .tar, .parquet, .db or folder can be read in any order",
            hint="unpack it",
        )


class LazyItems(Sequence[Any]):
    """Samples in any order, each read when it is asked for.

    `read` takes the number of a sample. It opens its file each time, and so works in forked and spawned processes and
    in threads.
    """

    def __init__(self, count: int, read: Callable[[int], NamedSample]) -> None:
        self._count, self._read = count, read

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:
        number = range(self._count)[index]
        name, sample = self._read(number)
        if isinstance(sample, SampleError):
            raise CrystalError(number, name or "", str(sample))
        return sample


def chunked(records: Iterable[tuple[Any, int]], first: int, decode: Callable[[Any], NamedSample]) -> Iterator[Chunk]:
    """Group records, each with its approximate number of bytes, into chunks; `first` is the number of the first.

    `decode` is a function of a module, so that it can be pickled.
    """
    payload: list[Any] = []
    size, decode_all = 0, partial(map, decode)
    for record, length in records:
        payload.append(record)
        size += length
        if len(payload) == CHUNK_RECORDS or size >= CHUNK_BYTES:
            yield Chunk(first, len(payload), payload, decode_all, size)
            first, payload, size = first + len(payload), [], 0
    if payload:
        yield Chunk(first, len(payload), payload, decode_all, size)


@contextmanager
def refusing(path: Path, format_name: str, errors: tuple[type[Exception], ...]) -> Generator[None, None, None]:
    """Raise an InputError, with the reason, where a reader raises one of these errors over a file."""
    try:
        yield
    except NodeBudgetError:
        raise
    except errors as error:
        raise InputError(
            f"{str(path)!r} can't be read as {format_name}: {first_line(error)}", hint="check that the file is complete"
        ) from error
