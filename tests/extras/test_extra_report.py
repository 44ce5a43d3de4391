"""The extra `report`: a page is written."""

from __future__ import annotations

from apart import call, need, some_sizes

need("report", "jinja2")


def test_a_page_of_sizes_and_a_plan(tmp_path):
    some_sizes().save(tmp_path / "sizes.npz")
    assert call("plan", tmp_path / "sizes.npz", "--max-nodes", 500, "-o", tmp_path / "plan.json", "-q") == 0
    page = tmp_path / "out.html"
    assert call("report", tmp_path / "sizes.npz", tmp_path / "plan.json", "-o", page, "-q") == 0
    assert "plan.json" in page.read_text()
