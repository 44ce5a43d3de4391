"""Numbers as people read them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

_SECONDS = (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6), ("ns", 1e-9))


def or_dash(value: T | None, show: Callable[[T], str]) -> str:
    """Format a value, or return a dash where it is None."""
    return "–" if value is None else show(value)


def number(value: float) -> str:
    """Write a number with thousands separators, and with one decimal where it is small and not whole."""
    return f"{value:,.0f}" if float(value).is_integer() or abs(value) >= 1000 else f"{value:,.1f}"


def percent(share: float, digits: int = 2) -> str:
    """Write a fraction as a percentage: "0.15%", and "<0.01%" for what rounds to zero and is not zero."""
    text = f"{share:.{digits}%}"
    return f"<{10.0**-digits:.{digits}f}%" if share and not float(text[:-1]) else text


def counted(count: int, one: str, many: str) -> str:
    """Return a count with the words that go with it: (1, "step was", "steps were") → "1 step was"."""
    return f"{count:,} {one if count == 1 else many}"


def mean_std(mean: float, std: float) -> str:
    """Write a mean and its standard deviation: "63.9 ± 0.7"."""
    return f"{mean:,.1f} ± {std:.1f}"


def duration(seconds: float) -> str:
    """Write seconds: "1:02:03", "4:05", or three significant digits with a unit, such as "12.3 ms"."""
    if seconds >= 59.95:
        minutes, rest = divmod(round(seconds), 60)
        hours, minutes = divmod(minutes, 60)
        return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
    if not seconds:
        return "0 s"
    unit, scale = next((entry for entry in _SECONDS if seconds >= 0.9995 * entry[1]), _SECONDS[-1])
    return f"{seconds / scale:#.3g}".rstrip(".") + f" {unit}"
