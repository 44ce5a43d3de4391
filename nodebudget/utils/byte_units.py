"""Amounts of memory as text: "40GiB" to bytes and back."""

from __future__ import annotations

import math
import re

from nodebudget.errors import InputError

_POWERS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}
_PATTERN = re.compile(r"\s*([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*([KMGT]?)(I?)(B?)\s*", re.IGNORECASE | re.ASCII)


def parse_bytes(text: str | int | float) -> int:
    """Return an amount of memory in bytes, rounded down; raise an InputError over what is not positive and finite.

    A text is like "40GiB" (powers of 1024), "40GB" (powers of 1000), or "40G" (the same as GiB, as GPU tools use it).
    """
    if isinstance(text, bool):
        raise _refuse(text)
    if isinstance(text, (int, float)):
        return _positive(text, text)
    match = _PATTERN.fullmatch(text)
    if not match:
        raise _refuse(text)
    number, prefix, binary, unit = (part.upper() for part in match.groups())
    base = 1000 if unit and prefix and not binary else 1024
    scale = base ** _POWERS[prefix]
    # Integers stay integers, so that floats do not round a number of bytes.
    return _positive(int(number) * scale if number.isdigit() else float(number) * scale, text)


def _positive(value: int | float, shown: object) -> int:
    if not math.isfinite(value) or value < 1 or value >= 2**63:
        raise _refuse(shown)
    return int(value)


def _refuse(shown: object) -> InputError:
    return InputError(
        f"{shown!r} is not an amount of memory",
        limit="a positive number of bytes, with or without a unit",
        hint="write it like 40GiB, 40000MiB or 42949672960",
    )


def format_bytes(count: float) -> str:
    """Return bytes as text: three significant digits with a binary unit, such as "3.10 GiB"."""
    size = float(count)
    units = ["B", "KiB", "MiB", "GiB", "TiB"]
    while abs(size) >= 999.5 and len(units) > 1:
        size /= 1024
        units.pop(0)
    if units[0] == "B":
        return f"{size:.0f} B"
    digits = 2 if abs(size) < 9.995 else 1 if abs(size) < 99.95 else 0
    return f"{size:.{digits}f} {units[0]}"


def format_change(count: float) -> str:
    """Return a change in bytes as text with its sign, such as "+3.10 GiB"."""
    return f"{'-' if count < 0 else '+'}{format_bytes(abs(count))}"
