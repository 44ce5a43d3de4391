"""Files that once did to a reader what no file may, and some that were made to: a value or one error comes of each."""

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
        # What libraries say of absurd numbers.
        warnings.simplefilter("ignore")
        feed(READERS[path.parent.name], path.read_bytes(), tmp_path)
    assert seen == []


def test_every_file_has_a_reader() -> None:
    assert FILES
    assert {path.parent.name for path in FILES} <= READERS.keys()
