"""Amounts of memory as text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodebudget.errors import InputError
from nodebudget.utils.byte_units import format_bytes, parse_bytes


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("40GiB", 40 * 2**30),
        ("40GB", 40 * 10**9),
        ("40G", 40 * 2**30),
        ("1.5 MiB", 3 * 2**19),
        (" 512 ", 512),
        ("7b", 7),
        (12, 12),
        (12.9, 12),
        (".5k", 512),
        ("9007199254740993", 9007199254740993),
    ],
)
def test_parse_bytes(text, count):
    assert parse_bytes(text) == count


@pytest.mark.parametrize("text", ["3 potatoes", "", "GiB", "-1GiB", "0", "1e9", "nan", float("inf"), True, "9" * 30])
def test_what_is_no_amount_of_memory_is_refused_with_its_value(text):
    with pytest.raises(InputError, match="not an amount of memory") as caught:
        parse_bytes(text)
    assert repr(text) in str(caught.value)


@given(st.integers(0, 2**49))
def test_written_bytes_have_three_digits_and_are_near(count):
    text = format_bytes(count)
    number, unit = text.split()
    assert len(number.replace(".", "")) <= 4
    scale = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}[unit]
    assert float(number) * scale == pytest.approx(count, rel=0.006)
