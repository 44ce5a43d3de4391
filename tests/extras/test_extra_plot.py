"""The extra `plot`: pictures are drawn."""

from __future__ import annotations

from apart import call, need, some_sizes

need("plot", "matplotlib")


def test_a_comparison_is_drawn(tmp_path):
    some_sizes().save(tmp_path / "a.npz")
    some_sizes(90).save(tmp_path / "b.npz")
    command = ["compare", tmp_path / "a.npz", tmp_path / "b.npz", "--batch-size", 16, "-q"]
    assert call(*command, "--plot", tmp_path / "out.png") == 0
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")
