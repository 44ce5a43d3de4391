"""Arguments checked alike everywhere."""

from __future__ import annotations

import operator
from typing import Any

from nodebudget.errors import InputError


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Refuse a value that is none of the choices."""
    if value not in choices:
        raise InputError(f"{name} is {value!r}", limit=f"one of {', '.join(choices)}", hint="give one of them")


def check_count(name: str, value: Any, least: int) -> int:
    """Return a whole number, or refuse it."""
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if isinstance(value, bool) or number < least:
        raise InputError(f"{name} is {value!r}", limit=f"a whole number, {least} or more", hint="give such a number")
    return number
