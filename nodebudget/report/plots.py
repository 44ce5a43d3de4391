"""Charts as a picture, drawn by matplotlib."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any, BinaryIO

from nodebudget.report.charts import Axis, Chart, Series, unit_of
from nodebudget.utils.optional_imports import require

#: Colours that differ for colour-blind eyes (Okabe and Ito, 2008), as the page has them in light.
COLOURS = {
    **dict.fromkeys(("measured", "budget", "fitted", "bound", "set0", "optimizer-state"), "#0072b2"),
    **dict.fromkeys(("predicted", "fixed", "heldout", "set1"), "#d55e00"),
    **dict.fromkeys(("reserved", "set2"), "#009e73"),
    **dict.fromkeys(("set3", "batch-data"), "#cc79a7"),
    **dict.fromkeys(("set4", "gradients"), "#56b4e9"),
    **dict.fromkeys(("set5", "activations"), "#e69f00"),
    **{"parameters": "#000000", "temporary": "#f0e442", "beside": "#999999", "rounding": "#d9d9d9"},
}
_GREY = "#555555"

_MANY = 4  #: Charts with more entries in their legend have it at the right.


def save_picture(charts: Sequence[Chart], file: BinaryIO, caption: str = "") -> None:
    """Draw charts side by side into a PNG, with a line under them that says what was measured on what."""
    matplotlib = require("matplotlib")
    # Names may hold a dollar sign, which is no formula.
    with matplotlib.rc_context({"text.parse_math": False}):
        size = (5.4 * len(charts) + 1.2, 4.2)
        figure = require("matplotlib.figure").Figure(figsize=size, layout="constrained")
        same = len({chart.y for chart in charts}) == 1
        panels = figure.subplots(1, len(charts), squeeze=False, sharey=same)[0]
        for panel, chart in zip(panels, charts, strict=True):
            _draw(panel, chart)
            if same:
                panel.label_outer()
        handles, labels = panels[0].get_legend_handles_labels()
        shared = len(charts) > 1 and all(panel.get_legend_handles_labels()[1] == labels for panel in panels)
        if shared or len(labels) > _MANY:
            figure.legend(handles, labels, frameon=False, fontsize=9, loc="outside right center")
        else:
            for panel in panels:
                panel.legend(frameon=False, fontsize=9, loc="best")
        if caption:
            figure.supxlabel(caption, fontsize=8, color=_GREY)
        figure.savefig(file, format="png", dpi=130)


def _draw(panel: Any, chart: Chart) -> None:
    spans = (chart.span("x"), chart.span("y"))
    (x_unit, x_label), (y_unit, y_label) = unit_of(chart.x, spans[0]), unit_of(chart.y, spans[1])
    for series in chart.series:
        _plot(panel, series, [x / x_unit for x in series.x], [y / y_unit for y in series.y], y_unit)
    panel.set_title(chart.title, fontsize=11)
    note = "\n".join(textwrap.wrap(chart.note, 60))
    panel.set_xlabel(f"{x_label}\n{note}" if note else x_label)
    panel.set_ylabel(y_label)
    if chart.x.log:
        panel.set_xscale("log")
    else:
        panel.set_xlim(spans[0][0] / x_unit, spans[0][1] / x_unit)
    panel.set_ylim(spans[1][0] / y_unit, spans[1][1] / y_unit)
    for axis, spec in ((panel.xaxis, chart.x), (panel.yaxis, chart.y)):
        _ticks(axis, spec)
    panel.spines[["top", "right"]].set_visible(False)
    panel.grid(axis="y", color="#e5e5e5", linewidth=0.8)
    panel.set_axisbelow(True)


def _plot(panel: Any, series: Series, x: list[float], y: list[float], y_unit: float) -> None:
    # A label with a leading underscore would be left out of the legend.
    label = f" {series.label}" if series.label.startswith("_") else series.label or None
    style: dict[str, Any] = {"color": COLOURS.get(series.style, _GREY), "label": label}
    if series.kind == "line":
        panel.plot(x, y, linewidth=1.5, linestyle="--" if series.style == "predicted" else "-", **style)
    elif series.kind == "dots":
        ring = {"markersize": 12, "fillstyle": "none"} if series.style == "capacity" else {"markersize": 4}
        panel.plot(x, y, "o", **ring, **style)
    elif series.kind == "band":
        low = [value / y_unit for value in series.low or ()]
        panel.fill_between(
            x, low, y, linewidth=0, alpha=1 if series.label and series.style != "bound" else 0.16, **style
        )
    elif series.kind == "bars":
        panel.stairs(y, x, fill=True, alpha=0.25, color=style["color"])
        panel.stairs(y, x, linewidth=1.4, **style)
    elif series.kind == "level":
        panel.axhline(y[0], linewidth=1.2, linestyle="--", **style)
    else:
        for place in x:
            panel.axvline(place, linewidth=1.0, linestyle="--", **style)


def _ticks(axis: Any, spec: Axis) -> None:
    ticker = require("matplotlib.ticker")
    if spec.ticks:
        axis.set_ticks([at for at, _ in spec.ticks], labels=[text for _, text in spec.ticks], fontsize=8)
        axis.set_minor_locator(ticker.NullLocator())
    elif not spec.unit:
        axis.set_major_locator(ticker.MaxNLocator(7, integer=spec.whole))
        axis.set_major_formatter("{x:,g}")
