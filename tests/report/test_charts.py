"""Charts of a page, and amounts as people read them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from nodebudget.report.html.charts import Axis, Chart, Series, thin
from nodebudget.report.html.words import counted, percent


def test_amounts_for_people():
    assert [percent(share) for share in (0.0, 0.00001, -0.00001, 0.1234, -0.5)] == [
        "0.00%",
        "<0.01%",
        "<0.01%",
        "12.34%",
        "-50.00%",
    ]
    assert [counted(count, "graph is", "graphs are") for count in (1, 1200)] == ["1 graph is", "1,200 graphs are"]


class TestCharts:
    def chart(self, *series, **axis):
        return Chart("t", Axis("x"), Axis("y", **axis), series).drawings()[0]

    def test_marks_are_round_and_inside(self):
        for top in (0.00013, 0.7, 3, 46, 999, 123_456):
            drawn = self.chart(Series("line", "measured", "m", [0, 1], [0, top]))
            values = [float(mark.text.replace(",", "")) for mark in drawn.y_marks]
            assert 2 <= len(values) <= 6
            assert len({round(b - a, 9) for a, b in itertools.pairwise(values)}) == 1
            assert all(drawn.box[1] <= mark.at <= drawn.box[3] for mark in drawn.y_marks)

    def test_bytes_have_one_unit(self):
        drawn = self.chart(Series("line", "measured", "m", [0, 1], [0, 3 * 2**30]), unit="bytes")
        assert drawn.y_label == "y, GiB"
        assert [mark.text for mark in drawn.y_marks] == ["0", "1", "2", "3"]

    def test_one_value_and_none(self):
        assert self.chart(Series("dots", "measured", "m", [5], [5])).shapes[0].centre is not None
        assert self.chart(Series("line", "measured", "m", [5, 6], [0, 0])).shapes
        with pytest.raises(ValueError, match="nothing to draw"):
            self.chart(Series("line", "measured", "m", [], []))
        with pytest.raises(ValueError, match="not finite"):
            self.chart(Series("line", "measured", "m", [0, 1], [0, float("inf")]))

    @pytest.mark.parametrize("count", [1, 2, 299, 300, 301, 5000])
    def test_thinning_keeps_the_extremes(self, count):
        values = np.random.default_rng(0).normal(size=count)
        found = thin(values.tolist())
        assert len(found["at"]) == min(count, 300)
        assert max(found["high"]) == values.max()
        assert min(found["low"]) == values.min()
        assert found["at"][0] == 1
