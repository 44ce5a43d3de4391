"""Datasets in several files, one after the other: shards of any format that can be read by itself."""

from __future__ import annotations

import glob
import itertools
import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from nodebudget.datasets.readers.source import Chunk, Source
from nodebudget.errors import CrystalError, InputError

#: Names that a pattern may stand for.
_MOST = 1_000_000
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")


class Shards(Source):
    """Several sources, one after the other."""

    def __init__(self, path: Path, parts: Sequence[Source]) -> None:
        super().__init__(path)
        self._parts = parts
        kinds = {part.kind for part in parts}
        if len(kinds) > 1:
            raise InputError(f"{str(path)!r} mixes crystals and graphs", hint="name one kind of files")
        self.kind = kinds.pop()
        self.travels = all(part.travels for part in parts)
        self.files = [file for part in parts for file in part.files]

    def count(self) -> int | None:
        """Return the number of records, where every shard knows its own."""
        counts = [part.count() for part in self._parts]
        return None if None in counts else sum(count for count in counts if count is not None)

    def about(self) -> int:
        """Return about how many records there are."""
        return sum(part.about() for part in self._parts)

    def chunks(self, start: int) -> Iterator[Chunk]:
        """Yield the records from number `start` on."""
        before = 0
        for part in self._parts:
            known = part.count()
            if known is not None and before + known <= start:
                before += known
                continue
            done = max(0, start - before)
            # A shard that can't tell its length is read from its start: only so is it known where the next begins.
            end = 0 if known is None else known
            for chunk in part.chunks(0 if known is None else done):
                end = max(end, chunk.first + chunk.count)
                if chunk.first + chunk.count > done:
                    kept = chunk.after(max(0, done - chunk.first))
                    yield replace(kept, first=kept.first + before)
            before += end

    def items(self) -> Sequence[Any]:
        """Return the samples of all, in their order."""
        return _Items([part.items() for part in self._parts])


class _Items(Sequence[Any]):
    """Sequences, one after the other."""

    def __init__(self, parts: list[Sequence[Any]]) -> None:
        self._parts = parts
        self._ends = list(itertools.accumulate(len(part) for part in parts))

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: Any) -> Any:
        place = range(len(self))[index]
        which = bisect_right(self._ends, place)
        before = self._ends[which - 1] if which else 0
        try:
            return self._parts[which][place - before]
        except CrystalError as error:
            raise CrystalError(place, error.name, error.reason) from error


def expanded(pattern: str) -> list[Path]:
    """Return the files that a pattern stands for: `train-{000..099}.tar`, `part-{a,b}.jsonl`, `shards/*.parquet`.

    Those of braces stand in the order written, those of a glob in that of their names.

    Raises:
        InputError: It stands for too many, or one of them is not there.
    """
    found: list[Path] = []
    for name in _brace_names(pattern):
        matches = sorted(glob.glob(name)) if glob.has_magic(name) else [name]  # noqa: PTH207
        if not matches or not Path(matches[0]).exists():
            raise InputError(f"there is no file or folder {name!r}", hint="check the path")
        found += map(Path, matches)
    return found


def _brace_names(pattern: str) -> list[str]:
    names = [pattern]
    while match := _BRACES.search(names[0]):
        choices = _choices(match[1])
        if len(names) * len(choices) > _MOST:
            raise InputError(f"{pattern!r} stands for too many files", limit=f"{_MOST:,}", hint="name fewer")
        names = [name.replace(match[0], choice, 1) for name in names for choice in choices]
    return names


def _choices(text: str) -> Sequence[str]:
    if not (match := _RANGE.fullmatch(text)):
        return text.split(",")
    first, last = match[1], match[2]
    if abs(int(last) - int(first)) >= _MOST:
        raise InputError(f"{{{text}}} stands for too many files", limit=f"{_MOST:,}", hint="name fewer")
    step = 1 if int(first) <= int(last) else -1
    return [str(number).zfill(len(first)) for number in range(int(first), int(last) + step, step)]


def in_folder(path: Path, reads: Callable[[str], bool]) -> list[Path]:
    """Return the files of a folder whose names say that they are shards, in the order of their names."""
    return sorted(file for file in path.iterdir() if not file.name.startswith(".") and reads(file.name.lower()))
