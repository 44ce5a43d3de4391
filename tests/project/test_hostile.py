"""Readers of damaged files return a value or raise one error, and do nothing else.

Readers of datasets are tested in tests/datasets/test_hostile_files.py and test_crafted_files.py.
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

#: Bytes with a meaning in some format, or that are not valid numbers or texts.
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
#: Each of these inputs takes a tenth of a second.
SLOW = {"diagnose", "xyz", "cache", "cif"}
ELSEWHERE = {"json", "jsonl", "json_zip", "json_zipped", "tar", "tar_files", "ase", "parquet"}


@st.composite
def damaged(draw: st.DrawFn, seeds: list[bytes]) -> bytes:
    """A file with some places overwritten, removed, repeated, or cut off."""
    content = draw(st.sampled_from(seeds))
    for _ in range(draw(st.integers(1, 4))):
        start, length = draw(st.integers(0, len(content))), draw(st.integers(0, 40))
        token = draw(st.sampled_from(TOKENS) | st.binary(max_size=8))
        kind = draw(st.sampled_from(["insert", "overwrite", "cut off", "double"]))
        if kind == "insert":
            content = content[:start] + token + content[start:]
        elif kind == "overwrite":
            content = content[:start] + token + content[start + max(length, len(token)) :]
        elif kind == "cut off":
            content = content[:start]
        else:
            content = content[: start + length] + content[start:]
    return content


@pytest.fixture(scope="module")
def folder():
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


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
    examples = settings().max_examples // (10 if name in SLOW else 4)

    @settings(max_examples=max(examples, 5), suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
    @given(damaged(seeds) | st.binary(max_size=200))
    def holds(content: bytes) -> None:
        with warnings.catch_warnings(), watched(place) as seen:
            # Libraries warn of absurd numbers.
            warnings.simplefilter("ignore")
            feed(reader, content, place)
        assert seen == []

    holds()
