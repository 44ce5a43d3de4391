"""Structures in a JSON document of any size: where they are is read off its beginning, then they come one by one.

ijson refuses the NaN that Python writes and runs out of memory on deep nesting, so values are cut out with Python's own
decoder.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, BinaryIO

from nodebudget.datasets.counting.structures import SIGNS, STRUCTURE_KEYS, is_structure
from nodebudget.datasets.read_limits import FREE, ReadLimits
from nodebudget.errors import InputError

#: Bytes to read at once.
_BLOCK = 2**18
#: What may follow a part of a number; the end of the window among it.
_NUMBER_GOES_ON = ("", *".eE+-0123456789")
_SPACE = re.compile(r"[ \t\r\n]*")
#: For the keys of a dict.
_KEY = ReadLimits(max_record=2**16)
#: Lists and dicts in each other above the first structure.
_MAX_DEPTH = 12
#: Keys of a list or dict of all entries, beside which there are others.
_WRAPPERS = (
    "data",
    "entries",
    "structures",
    "materials",
    "results",
    "docs",
    "frames",
    "samples",
    "crystals",
    "dataset",
)
#: What a key of a structure in its entry ends with.
_ENDINGS = (*STRUCTURE_KEYS, "crystal", "initial", "final", "relaxed")
#: First characters of JSON that is not a number.
_KINDS = {"[": "list", "{": "dict", '"': "str", "t": "bool", "f": "bool", "n": "null"}
#: Entries of ASE's JSON databases that are not rows.
_NOT_ROWS = ("ids", "nextid")


@dataclass(frozen=True)
class Layout:
    """Where the entries of a document are.

    Attributes:
        path: One step for each list or dict around an entry: the key to follow, or None to go through all.
        columns: Names of the values of an entry that is a list.
        column: Place of the structure in an entry that is a list.
    """

    path: tuple[str | None, ...]
    columns: tuple[str, ...] = ()
    column: int = 0

    def row(self, values: Sequence[Any]) -> dict[str, Any]:
        """Return an entry that is a list as a dict."""
        if len(self.columns) == len(values):
            return dict(zip(self.columns, values, strict=True))
        return {"structure": values[self.column]} if self.column < len(values) else {}


def find_layout(file: BinaryIO, read_limits: ReadLimits) -> Layout | str:
    """Return where the entries are, by the first structure of a document, or what it is where there is none.

    Raises a ValueError or RecursionError over broken JSON.
    """
    search = _Search(Window(file), read_limits)
    path, opening = None, search.window.peek()
    with suppress(_TooFarError):
        path = search.first(())
    if path is None:
        return Layout((None,)) if search.empty else _KINDS.get(opening, "number")
    if len(path) > 2 and path[0] == "data" and isinstance(path[-1], int) and isinstance(path[-2], int):
        # As pandas splits a table.
        return Layout((path[0], *([None] * (len(path) - 2))), search.columns, path[-1])
    last = path[-1] if path else 0
    in_list = len(path) > 1 and isinstance(path[-2], int)
    is_key = isinstance(last, str) and (last == read_limits.structures or last.lower().endswith(_ENDINGS))
    named = is_key or (in_list and isinstance(last, str))
    around = path[:-1] if named else path
    fixed = (*_WRAPPERS, *STRUCTURE_KEYS, read_limits.structures)
    return Layout(tuple(step if isinstance(step, str) and step in fixed else None for step in around))


def records(file: BinaryIO, layout: Layout, read_limits: ReadLimits) -> Iterator[tuple[str | None, str]]:
    """Yield the text of each entry, with the key that it has in a dict, and no more than one and a block in memory.

    Raises a ValueError or RecursionError over broken JSON, and an InputError over an entry that is too large.
    """
    window = Window(file)
    window.peek()
    for number, name in enumerate(_walk(window, layout.path, None)):
        yield name, window.element(number, read_limits)
    if window.peek():
        raise ValueError("Extra data after the list")


def elements(file: BinaryIO, read_limits: ReadLimits) -> Iterator[str]:
    """Yield the text of each element of a JSON list."""
    return (text for _, text in records(file, Layout((None,)), read_limits))


def _walk(window: Window, path: tuple[str | None, ...], name: str | None) -> Iterator[str | None]:
    """Yield the name of each entry, where it starts."""
    if not path or window.peek() not in ("[", "{"):
        yield name  # also of what is not as the others: whoever reads the entry says so
        return
    is_dict = window.peek() == "{"
    for key in window.children():
        if is_dict and (path[0] not in (None, key) or (path[0] is None and len(path) == 1 and key in _NOT_ROWS)):
            window.skip()
        else:
            yield from _walk(window, path[1:], key if isinstance(key, str) and path[0] is None else name)


class _TooFarError(Exception):
    """No structure in as much of a document as is searched."""


class _Search:
    """Looks for the first structure of a document."""

    def __init__(self, window: Window, read_limits: ReadLimits) -> None:
        self.window, self._read_limits = window, read_limits
        self.columns: tuple[str, ...] = ()
        #: Nothing is in the document.
        self.empty = False

    def first(self, path: tuple[str | int, ...]) -> tuple[str | int, ...] | None:
        """Return the path of the first structure in the value at the window, or None, and move behind it."""
        window = self.window
        mark = window.peek()
        if mark not in ("[", "{") or len(path) > _MAX_DEPTH:
            text = window.element(0, self._read_limits)
            return path if mark == '"' and "_cell_length_a" in text and is_structure(json.loads(text)) else None
        if window.count > FREE:
            raise _TooFarError
        keys: set[str | int] = set()
        for key in window.children():
            keys.add(key)
            if key == (self._read_limits.structures or "atoms") and mark == "{":
                return (*path, key)
            if mark == "{" and any(sign <= keys for sign in SIGNS):
                return path
            if not path and key == "columns" and window.peek() == "[":
                self.columns = tuple(map(str, json.loads(window.element(0, self._read_limits))))
            elif (place := self.first((*path, key))) is not None:
                return place
        self.empty = mark == "[" and not path and not keys
        return None


class Window:
    """The part of a text that is in memory; what lies before `place` is done."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        start = file.read(_BLOCK)
        self._decoder = codecs.getincrementaldecoder(json.detect_encoding(start))("surrogatepass")
        self._decode = json.JSONDecoder().raw_decode
        self._ended = not start
        self.text = self._decoder.decode(start, final=self._ended)
        self.place, self.count = 0, len(start)

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

    def skip(self) -> None:
        """Move behind the value at `place`, however large it is."""
        if self.peek() in ("[", "{"):
            for _ in self.children():
                self.skip()
        else:
            self.element(0, ReadLimits())

    def children(self) -> Iterator[str | int]:
        """Move through the list or dict at `place`: yield the key or number of each value, which is then read."""
        closing = {"[": "]", "{": "}"}[self.peek()]
        self.place += 1
        number = 0
        while (mark := self.peek()) != closing:
            if number:
                if mark != ",":
                    raise ValueError(f"entry {number - 1} is not followed by a comma or the end of the list")
                self.place += 1
                self.peek()
            key: str | int = number
            if closing == "}":
                key = json.loads(self.element(number, _KEY))
                if not isinstance(key, str) or self.peek() != ":":
                    raise ValueError(f"entry {number} of a dict has no name")
                self.place += 1
                self.peek()
            yield key
            number += 1
        self.place += 1

    def element(self, number: int, read_limits: ReadLimits) -> str:
        """Return the text of the element that starts at `place`, and move behind it."""
        while True:
            end, reason = self._end_of_element(number)
            # Part of a number that continues behind the window is a number too.
            complete = end >= 0 and (self._ended or self.text[end : end + 1] not in _NUMBER_GOES_ON)
            size = (end if complete else len(self.text)) - self.place
            if size > read_limits.max_record and (complete or not self._ended):
                raise InputError(
                    f"entry {number} of the list: {read_limits.too_large(size)}", hint="is it a file of crystals?"
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
        self.count += len(block)
        self.text = self.text[self.place :] + self._decoder.decode(block, final=self._ended)
        self.place = 0
