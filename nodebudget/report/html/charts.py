"""Charts as plain shapes for an inline SVG, whose colours come from the page's style sheet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

#: Pixels around the plot: top, right, bottom; the left edge is as wide as its labels.
_TOP, _RIGHT, _BOTTOM = 10, 12, 38

#: Width of a character of a label, pixels.
_CHARACTER = 7.2

#: Points of a long series that are drawn.
MOST = 300

#: Series of at most so many points have a dot on each.
_DOTTED = 60

#: Left free where an axis has no end of its own, a fraction of it.
_EDGE = 0.02

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


@dataclass(frozen=True)
class Axis:
    """One direction of a chart.

    Attributes:
        label: What it shows.
        unit: "" for numbers, "bytes", or "percent" of values that are fractions.
        low: Where it starts; None for the least of the data.
        high: Where it ends; None for the most of the data.
        whole: Its marks are whole numbers.
    """

    label: str
    unit: str = ""
    low: float | None = None
    high: float | None = None
    whole: bool = False


@dataclass(frozen=True, eq=False)
class Series:
    """Data of one kind.

    Attributes:
        kind: "line", "dots", "band" (between `low` and `y`), "bars" (x: the edges, one more than y), "level" (one y,
            all the way across) or "event" (at x, from top to bottom).
        style: Class of the style sheet.
        label: For the legend; "" keeps it out of it.
        x: Shape (n,).
        y: Shape (n,).
        low: The lower side of a band, shape (n,).
        titles: Said of each dot or event when it is pointed at.
    """

    kind: str
    style: str
    label: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    titles: Sequence[str] = ()


@dataclass(frozen=True, eq=False)
class Chart:
    """A chart.

    Attributes:
        title: What it shows, in a line.
        x: Its horizontal axis.
        y: Its vertical axis.
        series: What is drawn, the lowest first.
        note: Said under it.
        wide: Takes the whole width of a page.
    """

    title: str
    x: Axis
    y: Axis
    series: tuple[Series, ...]
    note: str = ""
    wide: bool = False

    @property
    def legend(self) -> list[Series]:
        """Series that have a label."""
        return [entry for entry in self.series if entry.label]

    def drawings(self) -> list[Drawing]:
        """Draw it: a wide chart twice, for wide and for narrow screens."""
        sizes = [("wide", 940, 300), ("narrow", 420, 270)] if self.wide else [("", 420, 270)]
        return [draw(self, name, width, height) for name, width, height in sizes]


@dataclass(frozen=True)
class Shape:
    """Something drawn: a path, or a dot where it has a centre."""

    style: str
    path: str = ""
    centre: tuple[float, float] | None = None
    title: str = ""


@dataclass(frozen=True)
class Mark:
    """A mark on an axis: where it is, pixels, and what it says."""

    at: float
    text: str


@dataclass(frozen=True)
class Drawing:
    """A chart in pixels.

    Attributes:
        name: Class of the style sheet that shows or hides it.
        width: Of all of it; `height` likewise.
        height: See `width`.
        box: Left, top, right and bottom of the plot.
        x_marks: Marks of the horizontal axis.
        y_marks: Marks of the vertical axis.
        x_label: What it shows, with its unit.
        y_label: The same, upwards.
        shapes: What is drawn.
    """

    name: str
    width: int
    height: int
    box: tuple[float, float, float, float]
    x_marks: list[Mark]
    y_marks: list[Mark]
    x_label: str
    y_label: str
    shapes: list[Shape]


@dataclass(frozen=True)
class _Scale:
    """Data to pixels along one axis."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)


def draw(chart: Chart, name: str, width: int, height: int) -> Drawing:
    """Draw a chart of that many pixels.

    Raises:
        ValueError: There is nothing to draw, or a number that is not finite.
    """
    x_range, y_range = _range(chart, chart.x, "x"), _range(chart, chart.y, "y")
    x_unit, y_unit = _unit(chart.x, x_range), _unit(chart.y, y_range)
    y_texts = _texts(y_range, y_unit, 5, chart.y.whole)
    left = 26 + _CHARACTER * max(len(text) for _, text in y_texts)
    box = (left, _TOP, width - _RIGHT, height - _BOTTOM)
    x, y = _Scale(*x_range, box[0], box[2]), _Scale(*y_range, box[3], box[1])
    x_texts = _texts(x_range, x_unit, max(5, width // 84), chart.x.whole)
    return Drawing(
        name,
        width,
        height,
        box,
        [Mark(x(value), text) for value, text in x_texts],
        [Mark(y(value), text) for value, text in y_texts],
        _with_unit(chart.x, x_unit),
        _with_unit(chart.y, y_unit),
        [shape for entry in chart.series for shape in _shapes(entry, x, y)],
    )


def _range(chart: Chart, axis: Axis, side: str) -> tuple[float, float]:
    values: list[Any] = [np.asarray(getattr(entry, side), dtype=np.float64) for entry in chart.series]
    if side == "y":
        values += [np.asarray(entry.low, dtype=np.float64) for entry in chart.series if entry.low is not None]
    found = np.concatenate(values) if values else np.array([])
    if not len(found) or not np.isfinite(found).all():
        raise ValueError("nothing to draw, or numbers that are not finite")
    low = float(found.min()) if axis.low is None else axis.low
    high = float(found.max()) if axis.high is None else axis.high
    if high <= low:  # all values are one
        return low - 0.5 * (abs(low) or 1), low + 0.5 * (abs(low) or 1)
    edge = _EDGE * (high - low)
    return low - edge * (axis.low is None), high + edge * (axis.high is None)


def _unit(axis: Axis, span: tuple[float, float]) -> tuple[str, float]:
    """Return the name of an axis's unit and its size."""
    if axis.unit == "percent":
        return "%", 0.01
    if axis.unit != "bytes":
        return "", 1.0
    power = min(int(math.log(max(*map(abs, span), 1.0), 1024) + 0.05), len(_UNITS) - 1)
    return _UNITS[power], 1024.0**power


def _with_unit(axis: Axis, unit: tuple[str, float]) -> str:
    return f"{axis.label}, {unit[0]}" if unit[0] else axis.label


def _texts(span: tuple[float, float], unit: tuple[str, float], most: int, whole: bool) -> list[tuple[float, str]]:
    """Return round numbers within a range, at most some of them, and how they are written."""
    scale = unit[1]
    low, high = span[0] / scale, span[1] / scale
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10, 20) if factor * power * most >= high - low)
    step = max(round(step), 1) if whole else step
    digits = next((count for count in range(15) if math.isclose(step, round(step, count))), 15)
    places = range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)
    return [(place * step * scale, f"{place * step:,.{digits}f}") for place in places]


def _shapes(entry: Series, x: _Scale, y: _Scale) -> list[Shape]:
    style = f"{entry.kind} {entry.style}"
    titles = [*entry.titles, *[""] * (len(entry.x) - len(entry.titles))]
    if entry.kind == "dots":
        return [
            Shape(style, centre=(x(a), y(b)), title=title) for a, b, title in zip(entry.x, entry.y, titles, strict=True)
        ]
    if entry.kind == "event":
        return [
            Shape(style, f"M{x(a)} {y.start}V{y.end}", title=title) for a, title in zip(entry.x, titles, strict=True)
        ]
    if entry.kind == "level":
        return [Shape(style, f"M{x.start} {y(entry.y[0])}H{x.end}")]
    if entry.kind == "bars":
        steps = "".join(f"V{y(top)}H{x(right)}" for top, right in zip(entry.y, entry.x[1:], strict=True))
        return [Shape(style, f"M{x(entry.x[0])} {y(0)}{steps}V{y(0)}")]
    points = [(x(a), y(b)) for a, b in zip(entry.x, entry.y, strict=True)]
    if entry.kind == "band":
        assert entry.low is not None
        points += [(x(a), y(b)) for a, b in zip(reversed(entry.x), reversed(entry.low), strict=True)]
    path = "M" + "L".join(f"{a} {b}" for a, b in points)
    return [Shape(style, path + ("Z" if entry.kind == "band" else ""))]


def thin(values: Sequence[float], places: Sequence[float] | None = None, most: int = MOST) -> dict[str, list[float]]:
    """Make a long series short without losing its extremes.

    Args:
        values: Shape (n,).
        places: Where they are, shape (n,); by default 1, 2, ….
        most: Points of what is returned.

    Returns:
        `at`, `low` and `high`, shape (at most `most`,) each: place, least and most of each stretch.
    """
    data = np.asarray(values, dtype=np.float64)
    at = np.arange(1, len(data) + 1, dtype=np.float64) if places is None else np.asarray(places, dtype=np.float64)
    count = min(most, len(data))
    starts = np.arange(count) * len(data) // max(count, 1)
    if not count:
        return {"at": [], "low": [], "high": []}
    low, high = np.minimum.reduceat(data, starts), np.maximum.reduceat(data, starts)
    return {"at": at[starts].tolist(), "low": low.tolist(), "high": high.tolist()}


def lines(series: dict[str, list[float]], style: str, label: str, *, ranges: bool = True) -> list[Series]:
    """Return a thinned series as what is drawn: a line of the highest, with the ranges under it where there are any."""
    at, low, high = series["at"], series["low"], series["high"]
    line = Series("line", style, label, at, high)
    if low != high:
        return [Series("band", style, "", at, high, low), line] if ranges else [line]
    return [line, Series("dots", style, "", at, high)] if len(at) <= _DOTTED else [line]
