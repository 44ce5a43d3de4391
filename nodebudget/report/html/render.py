"""Values and charts to HTML. All that comes from outside is escaped: the templates know no other way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Any

from nodebudget.report.html.charts import Chart
from nodebudget.report.html.words import LEVELS, percent
from nodebudget.report.run import duration
from nodebudget.utils.byte_units import format_bytes
from nodebudget.utils.optional_imports import require
from nodebudget.utils.size_labels import size_label

_FOLDER = "nodebudget.report.html"


def section_html(kind: str, values: Mapping[str, Any], charts: Sequence[Chart]) -> Any:
    """Return the HTML of one section, safe to put into a page.

    Args:
        kind: Which template: "calibration", "datasets", "plan", "trial" or "run".
        values: What it shows.
        charts: Its pictures.

    Raises:
        MissingError: Jinja2 is not there.
        ValueError: A value that the section shows is not there, or can't be drawn.
    """
    drawn = [(chart, chart.drawings()) for chart in charts]
    template = _environment().get_template(f"{kind}.html")
    try:
        html = template.render(values=values, charts=drawn)
    except require("jinja2").UndefinedError as error:
        raise ValueError(str(error)) from error
    return require("markupsafe").Markup(html)


def page_html(values: Mapping[str, Any], sections: Sequence[Mapping[str, Any]]) -> str:
    """Return the whole page.

    Args:
        values: `title`, `created`, `nodebudget`, `files` and `advice`.
        sections: `id`, `kind`, `name` and `html` of each.

    Raises:
        MissingError: Jinja2 is not there.
    """
    return str(_environment().get_template("page.html").render(**values, sections=sections, levels=LEVELS))


def printable(value: Any) -> Any:
    """Replace what no page and no terminal can show: control characters, halves of surrogate pairs."""
    if not isinstance(value, str) or hasattr(value, "__html__"):
        return value
    return "".join(sign if sign.isprintable() or sign in "\n\t" else "\N{REPLACEMENT CHARACTER}" for sign in value)


@cache
def _environment() -> Any:
    jinja = require("jinja2")
    made = jinja.Environment(
        loader=jinja.FunctionLoader(_read),
        autoescape=True,
        undefined=jinja.StrictUndefined,
        finalize=printable,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "bytes": _or_dash(format_bytes),
        "percent": _or_dash(percent),
        "signed": _or_dash(_signed),
        "number": _or_dash(_number),
        "duration": _or_dash(duration),
        "size_label": size_label,
    }
    return made


def _read(name: str) -> str:
    return resources.files(_FOLDER).joinpath("templates", name).read_text(encoding="utf-8")


def _or_dash(show: Any) -> Any:
    return lambda value, *how: "–" if value is None else show(value, *how)


def _signed(share: float) -> str:
    text = percent(share)
    return f"+{text}" if text[0].isdigit() else text


def _number(value: float) -> str:
    """Write a number with its thousands apart, and a decimal where it is small and not whole."""
    whole = float(value).is_integer() or abs(value) >= 1000
    return f"{value:,.0f}" if whole else f"{value:,.1f}"
