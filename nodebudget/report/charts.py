"""Charts as data: what is drawn, for a page and for a picture alike."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

MAX_POINTS = 300  #: Points of a long series that are drawn.
_DOTTED = 60  #: Series of up to so many points have a dot on each.
_EDGE = 0.02  #: Left free where an axis has no given end, a fraction of it.

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


@dataclass(frozen=True)
class Axis:
    """One direction of a chart."""

    label: str  #: What it shows.
    unit: str = ""  #: "" for numbers, "bytes", or "percent" of values that are fractions.
    low: float | None = None  #: Where it starts; None for the minimum of the data.
    high: float | None = None  #: Where it ends; None for the maximum of the data.
    whole: bool = False  #: Its ticks are whole numbers.
    #: Positions and texts of the ticks instead of round numbers; in pictures only.
    ticks: Sequence[tuple[float, str]] = ()
    log: bool = False  #: Its scale is logarithmic; in pictures only.


@dataclass(frozen=True, eq=False)
class Series:
    """Data of one kind."""

    #: "line", "dots", "band" (between `low` and `y`), "bars" (x: the edges, one more than y), "level" (one y, all
    #: the way across) or "event" (at x, from top to bottom).
    kind: str
    style: str  #: Its colour by name: a class of the style sheet, a key of `nodebudget.report.plots.COLOURS`.
    label: str  #: For the legend; "" keeps it out of it.
    x: Sequence[float]  #: Shape (n,).
    y: Sequence[float]  #: Shape (n,).
    low: Sequence[float] | None = None  #: The lower side of a band, shape (n,).
    titles: Sequence[str] = ()  #: The tooltip of each dot or event.


@dataclass(frozen=True, eq=False)
class Chart:
    """A chart."""

    title: str  #: What it shows, in a line.
    x: Axis  #: Its horizontal axis.
    y: Axis  #: Its vertical axis.
    series: Sequence[Series]  #: What is drawn, the lowest first.
    note: str = ""  #: A sentence under it.
    wide: bool = False  #: Takes the whole width of a page.

    @property
    def legend(self) -> list[Series]:
        """Series that have a label."""
        return [entry for entry in self.series if entry.label]

    def span(self, side: str) -> tuple[float, float]:
        """Return where the axis "x" or "y" starts and ends; raise a ValueError where nothing finite is to be drawn."""
        axis = self.x if side == "x" else self.y
        values = [getattr(entry, side) for entry in self.series]
        values += [entry.low for entry in self.series if side == "y" and entry.low is not None]
        data = np.concatenate([np.asarray(each, dtype=np.float64) for each in values] or [np.array([])])
        if not len(data) or not np.isfinite(data).all():
            raise ValueError("nothing to draw, or numbers that are not finite")
        low = float(data.min()) if axis.low is None else axis.low
        high = float(data.max()) if axis.high is None else axis.high
        if high <= low:  # all values are equal
            return low - 0.5 * (abs(low) or 1), low + 0.5 * (abs(low) or 1)
        edge = _EDGE * (high - low)
        return low - edge * (axis.low is None), high + edge * (axis.high is None)


def unit_of(axis: Axis, span: tuple[float, float]) -> tuple[float, str]:
    """Return the size of the unit that an axis is labelled in, and the label with the unit's name."""
    if axis.unit == "percent":
        return 0.01, f"{axis.label}, %"
    if axis.unit != "bytes":
        return 1.0, axis.label
    power = min(int(math.log(max(*map(abs, span), 1.0), 1024) + 0.05), len(_UNITS) - 1)
    return 1024.0**power, f"{axis.label}, {_UNITS[power]}"


def thin(values: Sequence[float], places: Sequence[float] | None = None) -> dict[str, list[float]]:
    """Shorten a long series without losing its extremes.

    Returns `at`, `low` and `high`, each of shape (min(n, `MAX_POINTS`),): place (by default 1, 2, …), minimum and
    maximum of each interval.
    """
    data = np.asarray(values, dtype=np.float64)
    at = np.arange(1, len(data) + 1, dtype=np.float64) if places is None else np.asarray(places, dtype=np.float64)
    count = min(MAX_POINTS, len(data))
    if not count:
        return {"at": [], "low": [], "high": []}
    starts = np.arange(count) * len(data) // count
    low, high = np.minimum.reduceat(data, starts), np.maximum.reduceat(data, starts)
    return {"at": at[starts].tolist(), "low": low.tolist(), "high": high.tolist()}


def lines(series: dict[str, list[float]], style: str, label: str, *, ranges: bool = True) -> list[Series]:
    """Return a thinned series as a line of the maxima, with the ranges under it where minima differ."""
    at, low, high = series["at"], series["low"], series["high"]
    line = Series("line", style, label, at, high)
    if low != high:
        return [Series("band", style, "", at, high, low), line] if ranges else [line]
    return [line, Series("dots", style, "", at, high)] if len(at) <= _DOTTED else [line]
