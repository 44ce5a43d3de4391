"""Checks of arguments that many functions take."""

from __future__ import annotations

import operator
from typing import Any

from nodebudget.errors import InputError


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise an InputError over a value that is not one of the choices."""
    if value not in choices:
        raise InputError(f"{name} is {value!r}", limit=f"one of {', '.join(choices)}", hint="choose one of them")


def check_count(name: str, value: Any, minimum: int, maximum: int | None = None) -> int:
    """Return an integer of Python or numpy as an int; raise an InputError over anything else, and out of range."""
    try:
        number = operator.index(value)
    except TypeError:
        number = minimum - 1
    if isinstance(value, bool) or number < minimum or (maximum is not None and number > maximum):
        limit = f"an integer, {minimum:,} " + ("or more" if maximum is None else f"to {maximum:,}")
        raise InputError(f"{name} is {value!r}", limit=limit, hint="choose a number in this range")
    return number
