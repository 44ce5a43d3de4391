"""Datasets in several files, one after the other: shards of any format that can be read alone."""

from __future__ import annotations

import glob
import itertools
import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from nodebudget.datasets.readers.source import Chunk, LazyItems, NamedSample, RecordSource
from nodebudget.datasets.sample_error import SampleError
from nodebudget.errors import CrystalError, InputError

#: Names that a pattern may expand to.
_MAX_NAMES = 1_000_000
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d{1,18})\.\.(\d{1,18})")


class Shards(RecordSource):
    """Several sources, one after the other."""

    def __init__(self, path: Path, parts: Sequence[RecordSource]) -> None:
        super().__init__(path)
        self._parts = parts
        self._items: list[Sequence[Any]] = []
        self._ends: list[int] = []
        kinds = {part.kind for part in parts}
        if len(kinds) > 1:
            raise InputError(f"{str(path)!r} mixes crystals and graphs", hint="name files of one of the two")
        self.kind = kinds.pop()
        self.picklable = all(part.picklable for part in parts)
        self.files = [file for part in parts for file in part.files]

    def count(self) -> int | None:
        counts = [part.count() for part in self._parts]
        return None if None in counts else sum(count for count in counts if count is not None)

    def estimated_count(self) -> int:
        return sum(part.estimated_count() for part in self._parts)

    def chunks(self, start: int) -> Iterator[Chunk]:
        before = 0
        for part in self._parts:
            count, done = part.count(), max(0, start - before)
            if count is not None and count <= done:
                before += count
                continue
            # A shard of unknown length is read from its start: only then is it known where the next begins.
            end = count or 0
            for chunk in part.chunks(0 if count is None else done):
                end = max(end, chunk.first + chunk.count)
                if end > done:
                    rest = chunk.skip(max(0, done - chunk.first))
                    yield replace(rest, first=rest.first + before)
            before += end

    def items(self) -> Sequence[Any]:
        self._items = [part.items() for part in self._parts]
        self._ends = list(itertools.accumulate(map(len, self._items)))
        return LazyItems(self._ends[-1], self._read)

    def _read(self, number: int) -> NamedSample:
        part = bisect_right(self._ends, number)
        try:
            return None, self._items[part][number - (self._ends[part - 1] if part else 0)]
        except CrystalError as error:
            return error.name, SampleError(error.reason)


def expanded(pattern: str) -> list[Path]:
    """Return the files that a pattern stands for: `train-{000..099}.tar`, `part-{a,b}.jsonl`, `shards/*.parquet`.

    Braces expand in the order written, globs in the order of names. (The package braceexpand expands a range before
    its length can be checked: `{0..99999999}` takes 4 GB.)
    """
    files: list[Path] = []
    for name in _expanded_braces(pattern):
        matches = sorted(glob.glob(name)) if glob.has_magic(name) else [name]  # noqa: PTH207
        if not matches or not Path(matches[0]).exists():
            raise InputError(f"{name!r} does not exist", hint="check the path")
        files += map(Path, matches)
    return files


def _expanded_braces(pattern: str) -> list[str]:
    names = [pattern]
    while match := _BRACES.search(names[0]):
        choices, count = match[1].split(","), match[1].count(",") + 1
        if bounds := _RANGE.fullmatch(match[1]):
            first, last = int(bounds[1]), int(bounds[2])
            count = abs(last - first) + 1
        if len(names) * count > _MAX_NAMES:
            raise InputError(f"{pattern!r} stands for too many files", limit=f"{_MAX_NAMES:,}", hint="name fewer")
        if bounds:
            step = 1 if first <= last else -1
            choices = [str(number).zfill(len(bounds[1])) for number in range(first, last + step, step)]
        names = [name.replace(match[0], choice, 1) for name in names for choice in choices]
    return names


def in_folder(path: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """Return the files of a folder that have one of the suffixes, in the order of their names."""
    files = (file for file in path.iterdir() if not file.name.startswith("."))
    return sorted(file for file in files if file.name.lower().endswith(suffixes))
