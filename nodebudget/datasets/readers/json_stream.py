"""JSON of crystals, lists and lines, read bit by bit."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

from nodebudget.datasets.counting.neighbors import UnusableError
from nodebudget.datasets.read_limits import Bounds
from nodebudget.datasets.readers.source import Named
from nodebudget.errors import InputError

#: Bytes to read at once.
_BLOCK = 2**18
#: Blank lines that may follow each other.
_BLANK = 100_000
#: What may follow a part of a number, the end of the window among it.
_OF_A_NUMBER = ("", *".eE+-0123456789")
_SPACE = re.compile(r"[ \t\r\n]*")
#: What other JSON than a list starts with.
_OTHERS = {"{": "dict", '"': "str", "t": "bool", "f": "bool", "n": "null", **dict.fromkeys("-0123456789", "number")}


class NoListError(ValueError):
    """JSON of another kind, which is the message."""


def elements(file: BinaryIO, bounds: Bounds) -> Iterator[str]:
    """Yield the text of each element of a JSON list, with no more than one and a block of the file in memory.

    Raises:
        NoListError: It is other JSON.
        ValueError: It is no JSON, or is cut.
        RecursionError: An element is nested too deep.
        InputError: An element is over the bounds.
    """
    window = _Window(file)
    opening = window.peek()
    if opening in _OTHERS:
        raise NoListError(_OTHERS[opening])
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
        yield window.element(number, bounds)
        number += 1
    window.place += 1
    if window.peek():
        raise ValueError("Extra data after the list")


class _Window:
    """A part of a text; what lies before `place` is done."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        start = file.read(_BLOCK)
        self._decoder = codecs.getincrementaldecoder(json.detect_encoding(start))("surrogatepass")
        self._decode = json.JSONDecoder().raw_decode
        self._ended = not start
        self.text = self._decoder.decode(start, final=self._ended)
        self.place = 0

    def peek(self) -> str:
        """Go on to the next character that is no space and return it; "" at the end."""
        while True:
            match = _SPACE.match(self.text, self.place)
            self.place = match.end() if match else self.place
            if self.place < len(self.text):
                return self.text[self.place]
            if self._ended:
                return ""
            self._more()

    def element(self, number: int, bounds: Bounds) -> str:
        """Return the text of the element that starts here, and go on behind it."""
        while True:
            end, reason = self._end_of_element(number)
            # Of a number that goes on behind the window, a part is a number too.
            if end >= 0 and (self._ended or self.text[end : end + 1] not in _OF_A_NUMBER):
                found = self.text[self.place : end]
                self._check(len(found), number, bounds)
                self.place = end
                return found
            if self._ended:
                raise ValueError(f"entry {number}: {reason}")
            self._check(len(self.text) - self.place, number, bounds)
            self._more()

    def _end_of_element(self, number: int) -> tuple[int, str]:
        try:
            return self._decode(self.text, self.place)[1], ""
        except json.JSONDecodeError as error:
            return -1, error.msg
        except RecursionError:
            raise RecursionError(f"entry {number} is nested too deep") from None

    def _more(self) -> None:
        # As much again as there is, so that elements that have to be tried again cost no more than twice.
        block = self._file.read(max(_BLOCK, len(self.text) - self.place))
        self._ended = not block
        self.text = self.text[self.place :] + self._decoder.decode(block, final=self._ended)
        self.place = 0

    def _check(self, size: int, number: int, bounds: Bounds) -> None:
        if size > bounds.record:
            raise InputError(f"entry {number} of the list: {bounds.too_large(size)}", hint="is it a list of crystals?")


def lines(file: BinaryIO, bounds: Bounds) -> Iterator[tuple[bytes | UnusableError, int, int]]:
    """Yield each line that is not blank, with its length and where it starts; in place of one over the bounds, why.

    Raises:
        ValueError: Blank lines, as a bomb has them, take no end.
    """
    place = blank = 0
    while line := file.readline(bounds.record + 1):
        start, size = place, len(line)
        long = size > bounds.record and not line.endswith(b"\n")
        rest = line
        while long and rest and not rest.endswith(b"\n"):
            rest = file.readline(_BLOCK)
            size += len(rest)
        place += size
        if long:
            yield UnusableError(bounds.too_large(size)), 0, start
        elif not line.isspace():
            blank = 0
            yield line, size, start
        else:
            blank += 1
            if blank > _BLANK:
                raise ValueError(f"{_BLANK} blank lines follow each other")


def decode_json(payload: Iterable[str | bytes | UnusableError]) -> Iterator[Named]:
    """Parse entries."""
    for text in payload:
        yield None, _parsed(text)


def _parsed(text: str | bytes | UnusableError) -> Any:
    if isinstance(text, UnusableError):
        return text
    try:
        return json.loads(text)
    except RecursionError:
        return UnusableError("its JSON is nested too deep")
    except ValueError as error:
        return UnusableError(f"it is no JSON: {' '.join(str(error).split())[:150]}")
