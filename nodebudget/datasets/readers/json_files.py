"""JARVIS-style JSON, streamed: a list of entries (.json, also .gz and .zip), or one entry per line (.jsonl, .jsonl.gz).

ijson refuses the NaN that Python writes and runs out of memory on deep nesting, so the elements of a list are cut out
with Python's own decoder.
"""

from __future__ import annotations

import codecs
import gzip
import json
import re
import zipfile
import zlib
from array import array
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from nodebudget.datasets.read_limits import ReadLimits, unpacked
from nodebudget.datasets.readers.source import Chunk, LazyItems, NamedSample, RecordSource, chunked, refusing
from nodebudget.datasets.sample_error import SampleError
from nodebudget.errors import InputError, first_line

LIST_SUFFIXES = (".json", ".json.gz", ".zip")
LINE_SUFFIXES = (".jsonl", ".jsonl.gz", ".ndjson", ".ndjson.gz")

#: What decompressors and JSON parsers raise on files that are cut, altered or of another kind.
_DAMAGE = (OSError, EOFError, zlib.error, zipfile.BadZipFile, RuntimeError, NotImplementedError, ValueError)
#: Entries of a list among which one must have 'atoms'.
_CHECKED = 100
#: Bytes to read at once.
_BLOCK = 2**18
#: Consecutive blank lines at which a file is refused.
_MAX_BLANK = 100_000
#: What may follow a part of a number; the end of the window among it.
_NUMBER_GOES_ON = ("", *".eE+-0123456789")
_SPACE = re.compile(r"[ \t\r\n]*")
#: First characters of JSON other than a list.
_OTHERS = {"{": "dict", '"': "str", "t": "bool", "f": "bool", "n": "null", **dict.fromkeys("-0123456789", "number")}


class JsonList(RecordSource):
    """A JSON list of dicts with `atoms`."""

    def __init__(self, path: Path, read_limits: ReadLimits) -> None:
        super().__init__(path, read_limits)
        first = [parse_json(text) for text in islice(self._texts(), _CHECKED)]
        if first and not any(isinstance(entry, dict) and "atoms" in entry for entry in first):
            raise InputError(
                f"no entry of {str(self.path)!r} has 'atoms'",
                limit="a list of dicts with 'atoms'",
                hint="name the key of the structures 'atoms'",
            )

    def chunks(self, start: int) -> Iterator[Chunk]:
        sized = ((text, len(text)) for text in islice(self._texts(), start, None))
        yield from chunked(sized, start, decode_json)

    def items(self) -> Sequence[Any]:
        """Return the entries; all are in memory."""
        return [parse_json(text) for text in self._texts()]

    def _texts(self) -> Iterator[str]:
        with _opened(self.path, self.read_limits) as file:
            try:
                yield from elements(file, self.read_limits)
            except NotAListError as error:
                raise InputError(
                    f"{str(self.path)!r} holds a {error}",
                    limit="a list of dicts with 'atoms', as JARVIS has it",
                    hint="make it such a list, or name it .jsonl if it has one object per line",
                ) from error


class JsonLines(RecordSource):
    """One JSON object per line: a dict with `atoms`, or such atoms. Blank lines don't count."""

    def __init__(self, path: Path, read_limits: ReadLimits) -> None:
        super().__init__(path, read_limits)
        self._starts = array("q")

    def chunks(self, start: int) -> Iterator[Chunk]:
        with _opened(self.path, self.read_limits) as file:
            records = islice(lines(file, self.read_limits), start, None)
            yield from chunked(((line, size) for line, size, _ in records), start, decode_json)

    def items(self) -> Sequence[Any]:
        """Return the entries, each read when it is asked for; not of a packed file."""
        if self.path.suffix.lower() == ".gz":
            return super().items()
        with _opened(self.path, self.read_limits) as file:
            # 8 bytes per line in memory.
            self._starts = array("q", (start for _, _, start in lines(file, self.read_limits)))
        return LazyItems(len(self._starts), self._read)

    def _read(self, index: int) -> NamedSample:
        with self.path.open("rb") as file:
            file.seek(self._starts[index])
            return decode_json(file.readline(self.read_limits.max_record + 1))


@contextmanager
def _opened(path: Path, read_limits: ReadLimits) -> Generator[BinaryIO, None, None]:
    with refusing(path, "JSON", _DAMAGE), path.open("rb") as raw:
        if path.suffix.lower() == ".gz":
            with gzip.GzipFile(fileobj=raw) as packed, unpacked(packed, path, read_limits) as file:
                yield file
        elif path.suffix.lower() == ".zip":
            with zipfile.ZipFile(raw) as archive, archive.open(_only_json(archive, path)) as member:
                yield unpacked(member, path, read_limits)
        else:
            yield raw


def _only_json(archive: zipfile.ZipFile, path: Path) -> str:
    names = [name for name in archive.namelist() if name.endswith(".json") and not name.startswith("__MACOSX")]
    if len(names) != 1:
        raise InputError(
            f"{str(path)!r} holds {len(names)} .json files",
            limit="exactly one",
            hint="unpack it and name the file that you mean",
        )
    return names[0]


class NotAListError(ValueError):
    """JSON of another type, which is the message."""


def elements(file: BinaryIO, read_limits: ReadLimits) -> Iterator[str]:
    """Yield the text of each element of a JSON list, with no more than one and a block of the file in memory.

    Raises a NotAListError over other JSON, a ValueError or RecursionError over broken JSON, and an InputError over an
    element that is too large.
    """
    window = _Window(file)
    opening = window.peek()
    if opening in _OTHERS:
        raise NotAListError(_OTHERS[opening])
    if opening != "[":
        raise ValueError("Expecting value")
    window.place += 1
    number = 0
    while (mark := window.peek()) != "]":
        if number:
            if mark != ",":
                raise ValueError(f"entry {number - 1} is not followed by a comma or the end of the list")
            window.place += 1
            window.peek()
        yield window.element(number, read_limits)
        number += 1
    window.place += 1
    if window.peek():
        raise ValueError("Extra data after the list")


class _Window:
    """The part of a text that is in memory; what lies before `place` is done."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        start = file.read(_BLOCK)
        self._decoder = codecs.getincrementaldecoder(json.detect_encoding(start))("surrogatepass")
        self._decode = json.JSONDecoder().raw_decode
        self._ended = not start
        self.text = self._decoder.decode(start, final=self._ended)
        self.place = 0

    def peek(self) -> str:
        """Move to the next character that is not a space and return it; "" at the end."""
        while True:
            match = _SPACE.match(self.text, self.place)
            self.place = match.end() if match else self.place
            if self.place < len(self.text):
                return self.text[self.place]
            if self._ended:
                return ""
            self._extend()

    def element(self, number: int, read_limits: ReadLimits) -> str:
        """Return the text of the element that starts at `place`, and move behind it."""
        while True:
            end, reason = self._end_of_element(number)
            # Part of a number that continues behind the window is a number too.
            complete = end >= 0 and (self._ended or self.text[end : end + 1] not in _NUMBER_GOES_ON)
            size = (end if complete else len(self.text)) - self.place
            if size > read_limits.max_record and (complete or not self._ended):
                raise InputError(
                    f"entry {number} of the list: {read_limits.too_large(size)}", hint="is it a list of crystals?"
                )
            if complete:
                text = self.text[self.place : end]
                self.place = end
                return text
            if self._ended:
                raise ValueError(f"entry {number}: {reason}")
            self._extend()

    def _end_of_element(self, number: int) -> tuple[int, str]:
        try:
            return self._decode(self.text, self.place)[1], ""
        except json.JSONDecodeError as error:
            return -1, error.msg
        except RecursionError:
            raise RecursionError(f"entry {number} is nested too deep") from None

    def _extend(self) -> None:
        # By as much as there is, so that elements that are decoded again cost no more than twice.
        block = self._file.read(max(_BLOCK, len(self.text) - self.place))
        self._ended = not block
        self.text = self.text[self.place :] + self._decoder.decode(block, final=self._ended)
        self.place = 0


def lines(file: BinaryIO, read_limits: ReadLimits) -> Iterator[tuple[bytes | SampleError, int, int]]:
    """Yield each line that is not blank, its length and its start in bytes; in place of one over the limit, why."""
    place = blank = 0
    while line := file.readline(read_limits.max_record + 1):
        start, size = place, len(line)
        too_long = size > read_limits.max_record and not line.endswith(b"\n")
        rest = line
        while too_long and rest and not rest.endswith(b"\n"):
            rest = file.readline(_BLOCK)
            size += len(rest)
        place += size
        if too_long:
            yield SampleError(read_limits.too_large(size)), 0, start
        elif not line.isspace():
            blank = 0
            yield line, size, start
        else:
            blank += 1
            if blank > _MAX_BLANK:  # as a bomb has them
                raise ValueError(f"{_MAX_BLANK} blank lines follow each other")


def decode_json(text: str | bytes | SampleError) -> NamedSample:
    """Parse an entry; its name is in it."""
    return None, parse_json(text)


def parse_json(text: str | bytes | SampleError) -> Any:
    """Return what a JSON text holds, or a `SampleError`."""
    if isinstance(text, SampleError):
        return text
    try:
        return json.loads(text)
    except RecursionError:
        return SampleError("its JSON is nested too deep")
    except ValueError as error:
        return SampleError(f"it is not JSON: {first_line(error)}")
