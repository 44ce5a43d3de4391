"""Readers with damaged files of their kinds: a value or one error comes of each, and nothing else is done.

Those of datasets in one file are in tests/datasets/test_hostile_files.py.
"""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path

import pytest
from feeding import feed, watched
from hostile import READERS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

#: Pieces that formats give a meaning to, or that numbers and texts can't be.
TOKENS = (
    *(
        b"",
        b"\0",
        b"\n",
        b",",
        b'"',
        b"[",
        b"]",
        b"{",
        b"}",
        b"[" * 2000,
        b"\xff\xfe",
        b"\x1b[2J",
        b"../",
        b"/dev/zero",
    ),
    *(b"-1", b"0", b"1e400", b"NaN", b"-Infinity", b"null", b"true", b"9" * 30, b"9" * 5000, b"1e-300", b'"\\ud800"'),
)
#: Each of these takes a tenth of a second.
SLOW = {"diagnose", "xyz", "cache", "cif"}
ELSEWHERE = {"json", "jsonl", "json_zip", "json_zipped", "tar", "tar_files", "ase", "parquet"}


@st.composite
def damaged(draw: st.DrawFn, seeds: list[bytes]) -> bytes:
    """A file with some places overwritten, cut out, doubled, or cut off."""
    content = draw(st.sampled_from(seeds))
    for _ in range(draw(st.integers(1, 4))):
        start, length = draw(st.integers(0, len(content))), draw(st.integers(0, 40))
        piece = draw(st.sampled_from(TOKENS) | st.binary(max_size=8))
        kind = draw(st.sampled_from(["put in", "overwrite", "cut off", "double"]))
        if kind == "put in":
            content = content[:start] + piece + content[start:]
        elif kind == "overwrite":
            content = content[:start] + piece + content[start + max(length, len(piece)) :]
        elif kind == "cut off":
            content = content[:start]
        else:
            content = content[: start + length] + content[start:]
    return content


@pytest.fixture(scope="module")
def folder():
    with tempfile.TemporaryDirectory() as made:
        yield Path(made)


@pytest.mark.parametrize("name", sorted(READERS.keys() - ELSEWHERE))
def test_a_value_or_one_error(name: str, folder: Path) -> None:
    reader = READERS[name]
    place = folder / name
    place.mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        seeds = reader.seeds()
        for content in seeds:
            feed(reader, content, place)
    most = settings().max_examples // (10 if name in SLOW else 4)

    @settings(max_examples=max(most, 5), suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
    @given(damaged(seeds) | st.binary(max_size=200))
    def holds(content: bytes) -> None:
        with warnings.catch_warnings(), watched(place) as seen:
            # What libraries say of absurd numbers.
            warnings.simplefilter("ignore")
            feed(reader, content, place)
        assert seen == []

    holds()
