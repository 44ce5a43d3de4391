"""The extra `parquet`: sizes are written and read as Parquet."""

from __future__ import annotations

from apart import call, need, some_sizes

from nodebudget import SizeTable

need("parquet", "pyarrow")


def test_sizes_there_and_back(tmp_path):
    some_sizes().save(tmp_path / "sizes.csv")
    assert call("measure", tmp_path / "sizes.csv", "-o", tmp_path / "sizes.parquet", "-q") == 0
    assert call("plan", tmp_path / "sizes.parquet", "--max-nodes", 500, "-q") == 0
    assert SizeTable.load(tmp_path / "sizes.parquet").fingerprint() == some_sizes().fingerprint()
