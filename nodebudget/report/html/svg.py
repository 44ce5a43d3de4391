"""Charts as SVG inside a page, whose style sheet has the colours. Texts are escaped by the XML writer."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any
from xml.etree.ElementTree import Element, SubElement, tostring

from nodebudget.errors import printable
from nodebudget.report.charts import Axis, Chart, Series, unit_of

#: Pixels around the plot: top, right, bottom; the left edge is as wide as its labels.
_TOP, _RIGHT, _BOTTOM = 10, 12, 38

_CHARACTER = 7.2  #: Width of a character of a label, pixels.

Scale = Callable[[float], float]


def drawings(chart: Chart) -> list[str]:
    """Draw a chart: a wide one twice, for wide and for narrow screens."""
    sizes = [("wide", 940, 300), ("narrow", 420, 270)] if chart.wide else [("", 420, 270)]
    return [_draw(chart, name, width, height) for name, width, height in sizes]


def swatch(series: Series) -> str:
    """Draw what a series looks like, for a legend."""
    svg = Element("svg", {"viewBox": "0 0 18 12", "aria-hidden": "true"})
    style = f"{series.kind} {series.style}"
    if series.kind == "dots":
        _add(svg, "circle", style, cx=9, cy=6, r=4.5)
    else:
        paths = {"band": "M1 1H17V11H1Z", "bars": "M1 1H17V11H1Z", "event": "M9 0V12"}
        _add(svg, "path", style, d=paths.get(series.kind, "M0 6H18"))
    return tostring(svg, encoding="unicode", short_empty_elements=False)


def _add(parent: Element, tag: str, style: str = "", text: str = "", title: str = "", **attributes: Any) -> None:
    named = {"class": style} if style else {}
    child = SubElement(
        parent, tag, {**named, **{key.replace("_", "-"): str(value) for key, value in attributes.items()}}
    )
    child.text = printable(text)
    if title:
        SubElement(child, "title").text = printable(title)


def _draw(chart: Chart, name: str, width: int, height: int) -> str:
    spans = chart.span("x"), chart.span("y")
    (x_unit, x_label), (y_unit, y_label) = unit_of(chart.x, spans[0]), unit_of(chart.y, spans[1])
    y_ticks = _ticks(spans[1], y_unit, 5, chart.y)
    left, top, right, bottom = (
        26 + _CHARACTER * max(len(text) for _, text in y_ticks),
        _TOP,
        width - _RIGHT,
        height - _BOTTOM,
    )
    x, y = _scale(*spans[0], left, right), _scale(*spans[1], bottom, top)
    title = printable(f"{chart.title}: {y_label} against {x_label}")
    frame = {"class": f"chart {name}", "viewBox": f"0 0 {width} {height}", "role": "img", "aria-label": title}
    svg = Element("svg", frame)
    for value, text in y_ticks:
        _add(svg, "path", "grid", d=f"M{left} {y(value)}H{right}")
        _add(svg, "text", text=text, x=left - 6, y=y(value) + 4, text_anchor="end")
    _add(svg, "path", "axis", d=f"M{left} {bottom}H{right}")
    for value, text in _ticks(spans[0], x_unit, max(5, width // 84), chart.x):
        _add(svg, "path", "axis", d=f"M{x(value)} {bottom}v4")
        _add(svg, "text", text=text, x=x(value), y=bottom + 17, text_anchor="middle")
    _add(svg, "text", text=x_label, x=(left + right) / 2, y=height - 4, text_anchor="middle")
    upright = f"translate(12 {(top + bottom) / 2}) rotate(-90)"
    _add(svg, "text", text=y_label, transform=upright, text_anchor="middle")
    for series in chart.series:
        _series(svg, series, x, y, (left, right, bottom, top))
    return tostring(svg, encoding="unicode", short_empty_elements=False)


def _scale(low: float, high: float, start: float, end: float) -> Scale:
    return lambda value: round(start + (value - low) / (high - low) * (end - start), 1)


def _ticks(span: tuple[float, float], unit: float, count: int, axis: Axis) -> list[tuple[float, str]]:
    """Return up to `count` round numbers within a range, and how they are written in its unit."""
    low, high = span[0] / unit, span[1] / unit
    power = 10.0 ** math.floor(math.log10((high - low) / count))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10, 20) if factor * power * count >= high - low)
    step = max(round(step), 1) if axis.whole else step
    digits = next((digits for digits in range(15) if math.isclose(step, round(step, digits))), 15)
    places = range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)
    return [(place * step * unit, f"{place * step:,.{digits}f}") for place in places]


def _series(svg: Element, series: Series, x: Scale, y: Scale, box: Sequence[float]) -> None:
    style, (left, right, bottom, top) = f"{series.kind} {series.style}", box
    titles = [*series.titles, *[""] * (len(series.x) - len(series.titles))]
    if series.kind == "dots":
        for across, up, title in zip(series.x, series.y, titles, strict=True):
            _add(svg, "circle", style, title=title, cx=x(across), cy=y(up), r=3.6)
    elif series.kind == "event":
        for across, title in zip(series.x, titles, strict=True):
            _add(svg, "path", style, title=title, d=f"M{x(across)} {bottom}V{top}")
    elif series.kind == "level":
        _add(svg, "path", style, d=f"M{left} {y(series.y[0])}H{right}")
    elif series.kind == "bars":
        steps = "".join(f"V{y(share)}H{x(edge)}" for share, edge in zip(series.y, series.x[1:], strict=True))
        _add(svg, "path", style, d=f"M{x(series.x[0])} {y(0)}{steps}V{y(0)}")
    else:
        points = [*zip(series.x, series.y, strict=True)]
        if series.low is not None:
            points += zip(reversed(series.x), reversed(series.low), strict=True)
        path = "M" + "L".join(f"{x(across)} {y(up)}" for across, up in points)
        _add(svg, "path", style, d=path + ("Z" if series.kind == "band" else ""))
