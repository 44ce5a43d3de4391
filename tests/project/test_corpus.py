"""Files that once broke a reader, found or made by hand: readers now return a value or raise one error."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
from feeding import feed, watched
from hostile import READERS
from paths import CORPUS

FILES = sorted(path for path in CORPUS.glob("*/*") if path.is_file())


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_a_value_or_one_error(path: Path, tmp_path: Path) -> None:
    with warnings.catch_warnings(), watched(tmp_path) as seen:
        # Libraries warn of absurd numbers.
        warnings.simplefilter("ignore")
        feed(READERS[path.parent.name], path.read_bytes(), tmp_path)
    assert seen == []


def test_every_file_has_a_reader() -> None:
    assert FILES
    assert {path.parent.name for path in FILES} <= READERS.keys()
