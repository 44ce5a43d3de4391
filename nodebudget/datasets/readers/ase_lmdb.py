"""ASE databases in LMDB files (.aselmdb), as fairchem has them: compressed JSON, of which nothing can run."""

from __future__ import annotations

import functools
import os
import zlib
from array import array
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nodebudget.datasets.read_limits import ReadLimits
from nodebudget.datasets.readers.json_files import decode_json
from nodebudget.datasets.readers.source import Chunk, LazyItems, NamedSample, RecordSource, chunked, refusing
from nodebudget.datasets.readers.subprocess_check import run_check
from nodebudget.datasets.sample_error import SampleError
from nodebudget.errors import InputError
from nodebudget.utils.optional_imports import require

#: Touches all records and prints the first bytes of one. LMDB maps the file into memory, trusts what it says and ends
#: the process where that is wrong; so a process of its own does this first.
CHECK = """
import lmdb
with lmdb.open(sys.argv[1], readonly=True, lock=False, subdir=False) as environment:
    with environment.begin(buffers=True) as transaction:
        start = b""
        for key, value in transaction.cursor():
            start = start or (bytes(key).isdigit() and bytes(value[:2]))
            bytes(value[-1:])
print((start or b"").hex() or "empty")
"""
#: First bytes of what zlib wrote.
_COMPRESSED = ("7801", "785e", "789c", "78da")


def holds_pickles(path: Path) -> bool:
    """Return whether the records of an LMDB file are something else than compressed JSON: pickles, as a rule.

    Raises:
        InputError: It is not an LMDB, or damaged.
    """
    require("lmdb")
    with refusing(path, "an LMDB", (ValueError,)):
        start = run_check(CHECK, path).split()[-1]
    return start not in (*_COMPRESSED, "empty")


class AseLmdb(RecordSource):
    """The rows of an .aselmdb, in the order of their ids, which are their names."""

    def __init__(self, path: Path, read_limits: ReadLimits) -> None:
        super().__init__(path, read_limits)
        if holds_pickles(path):
            raise InputError(f"the records of {str(path)!r} are not compressed JSON", hint="is it an .aselmdb?")
        with self._transaction() as transaction:
            keys = (bytes(key) for key, _ in transaction.cursor())
            self._ids = array("q", sorted(int(key) for key in keys if key.isdigit() and len(key) < 19))

    def count(self) -> int:
        return len(self._ids)

    def chunks(self, start: int) -> Iterator[Chunk]:
        with self._transaction() as transaction:
            records = (self._record(transaction, number) for number in self._ids[start:])
            sized = ((record, len(record[1]) if isinstance(record[1], bytes) else 0) for record in records)
            yield from chunked(sized, start, functools.partial(_decode_row, read_limits=self.read_limits))

    def items(self) -> Sequence[Any]:
        """Return the rows as JARVIS-style dicts with their key-value pairs, each read when it is asked for."""
        return LazyItems(len(self._ids), self._read)

    def _read(self, index: int) -> NamedSample:
        with self._transaction() as transaction:
            return _decode_row(self._record(transaction, self._ids[index]), self.read_limits)

    def _record(self, transaction: Any, number: int) -> tuple[str, bytes | SampleError | None]:
        content = transaction.get(str(number).encode())
        if content is not None and len(content) > self.read_limits.max_record:
            return str(number), SampleError(self.read_limits.too_large(len(content)))
        return str(number), content

    @contextmanager
    def _transaction(self) -> Generator[Any, None, None]:
        with (
            refusing(self.path, "an LMDB", (require("lmdb").Error, OSError)),
            _environment(self.path).begin() as opened,
        ):
            yield opened


#: Open files by path, each with what it was: LMDB can't open one twice, and it may not cross into another process.
_OPEN: dict[str, tuple[tuple[int, ...], Any]] = {}


def _environment(path: Path) -> Any:
    about, name = path.stat(), str(path.resolve())
    identity = (about.st_dev, about.st_ino, about.st_mtime_ns, about.st_size, os.getpid())
    if name in _OPEN and _OPEN[name][0] != identity:
        _, environment = _OPEN.pop(name)
        environment.close()
    if name not in _OPEN:
        _OPEN[name] = identity, require("lmdb").open(name, readonly=True, lock=False, subdir=False)
    return _OPEN[name][1]


def _decode_row(record: tuple[str, bytes | SampleError | None], read_limits: ReadLimits) -> NamedSample:
    name, content = record
    if content is None or isinstance(content, SampleError):
        return name, content or SampleError("the database has no such row any more")
    try:
        unpack = zlib.decompressobj()
        text = unpack.decompress(content, read_limits.max_record + 1)
    except zlib.error as error:
        return name, SampleError(f"its row can't be unpacked: {error}")
    if len(text) > read_limits.max_record:
        return name, SampleError(read_limits.too_large(len(text)))
    return decode_json((name, text))
