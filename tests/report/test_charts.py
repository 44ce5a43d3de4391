"""Charts as data, as SVG and as a picture, and numbers as people read them."""

from __future__ import annotations

import io
import itertools
from xml.etree import ElementTree

import numpy as np
import pytest

from nodebudget.report.charts import Axis, Chart, Series, thin
from nodebudget.report.formats import counted, percent
from nodebudget.report.html.svg import drawings
from nodebudget.report.plots import save_picture


def test_amounts_for_people():
    shares = [percent(share) for share in (0.0, 0.00001, -0.00001, 0.1234, -0.5)]
    assert shares == ["0.00%", "<0.01%", "<0.01%", "12.34%", "-50.00%"]
    assert [counted(count, "graph is", "graphs are") for count in (1, 1200)] == ["1 graph is", "1,200 graphs are"]


def chart(*series, **axis):
    return Chart("t", Axis("x"), Axis("y", **axis), series)


def y_ticks(chart):
    """Return the texts and pixels of the vertical axis, and the label."""
    texts = ElementTree.fromstring(drawings(chart)[0]).findall("text")
    ticks = [(text.text, float(text.get("y"))) for text in texts if text.get("text-anchor") == "end"]
    return [text for text, _ in ticks], [at for _, at in ticks], texts[-1].text


@pytest.mark.parametrize("top", [0.00013, 0.7, 3, 46, 999, 123_456])
def test_ticks_are_round_and_inside(top):
    texts, places, _ = y_ticks(chart(Series("line", "measured", "m", [0, 1], [0, top])))
    values = [float(text.replace(",", "")) for text in texts]
    assert 2 <= len(values) <= 6
    assert len({round(b - a, 9) for a, b in itertools.pairwise(values)}) == 1
    assert all(14 <= at <= 236 for at in places)


def test_bytes_have_one_unit():
    texts, _, label = y_ticks(chart(Series("line", "measured", "m", [0, 1], [0, 3 * 2**30]), unit="bytes"))
    assert label == "y, GiB"
    assert texts == ["0", "1", "2", "3"]


def test_one_value_and_none():
    assert "<circle" in drawings(chart(Series("dots", "measured", "m", [5], [5])))[0]
    assert 'class="line measured"' in drawings(chart(Series("line", "measured", "m", [5, 6], [0, 0])))[0]
    with pytest.raises(ValueError, match="nothing to draw"):
        drawings(chart(Series("line", "measured", "m", [], [])))
    with pytest.raises(ValueError, match="not finite"):
        drawings(chart(Series("line", "measured", "m", [0, 1], [0, float("inf")])))


def test_texts_of_a_drawing_are_escaped():
    hostile = Chart(
        "<b>\x1b", Axis('"><x'), Axis("&"), [Series("dots", "a", "", [1], [1], titles=["</title><script>"])]
    )
    (svg,) = drawings(hostile)
    assert {element.tag for element in ElementTree.fromstring(svg).iter()} == {"svg", "path", "text", "circle", "title"}
    assert "\x1b" not in svg


def test_a_picture_takes_any_text():
    """Neither a formula nor a label that matplotlib would hide is made of a name."""
    series = [Series("line", "set0", "_$a$_ \\frac{", [0, 1], [0, 1]), Series("event", "set1", "", [1], [])]
    file = io.BytesIO()
    save_picture([Chart("$x_{$", Axis("x", "bytes"), Axis("y", "percent"), series, note="$")] * 2, file, "$caption$")
    assert file.getvalue().startswith(b"\x89PNG\r\n\x1a\n")


@pytest.mark.parametrize("count", [1, 2, 299, 300, 301, 5000])
def test_thinning_keeps_the_extremes(count):
    values = np.random.default_rng(0).normal(size=count)
    series = thin(values.tolist())
    assert len(series["at"]) == min(count, 300)
    assert max(series["high"]) == values.max()
    assert min(series["low"]) == values.min()
    assert series["at"][0] == 1
