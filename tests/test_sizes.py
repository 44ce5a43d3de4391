"""The table of sizes: what it takes, what it refuses, and that files give back what went in."""

from __future__ import annotations

import builtins
import json
import string
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodebudget import SizeTable
from nodebudget.errors import InputError, MissingError

SUFFIXES = [".npz", ".csv", ".parquet"]
TABLE = SizeTable.from_counts([1, 2, 4], [12, 24, 50], [132, 264, 600], ids=["a", "b,c", "ü"], tokens=[0.5, 1, 2])

SKIPPED = [{"index": 3, "name": "x", "reason": "no atoms"}]

counts = st.integers(0, 2**40)
names = st.text(string.ascii_letters + 'é ,"-', min_size=1, max_size=8)


@st.composite
def tables(draw):
    rows = draw(st.integers(1, 6))
    column = st.lists(counts, min_size=rows, max_size=rows)
    return SizeTable.from_counts(
        draw(column),
        draw(st.none() | column),
        draw(st.none() | column),
        ids=draw(st.none() | st.lists(names, min_size=rows, max_size=rows)),
        tokens=draw(st.lists(st.floats(0, 1e9), min_size=rows, max_size=rows)),
    )


@pytest.mark.parametrize("suffix", SUFFIXES)
@given(table=tables())
def test_files_give_back_what_went_in(suffix, table, tmp_path_factory):
    path = tmp_path_factory.mktemp("sizes") / f"sizes{suffix}"
    found = SizeTable.load(table.save(path))
    assert found.fingerprint() == table.fingerprint()
    assert {name: values.dtype for name, values in found.columns.items()} == {
        name: values.dtype for name, values in table.columns.items()
    }
    assert (found.ids is None) == (table.ids is None)
    assert table.ids is None or list(found.ids) == list(table.ids)


def test_npz_keeps_the_settings(tmp_path):
    table = SizeTable.from_counts([1], settings={"graphs": {"cutoff": 8.0}, "skipped": SKIPPED})
    assert SizeTable.load(table.save(tmp_path / "s.npz")).settings == table.settings


def loads(path):
    """Whether a file can be read; if not, one sentence says so."""
    try:
        SizeTable.load(path)
    except InputError as error:
        return "\n" in str(error)
    return True


@pytest.mark.parametrize("suffix", [".npz", ".parquet"])
def test_cut_files_are_refused(suffix, tmp_path):
    path = TABLE.save(tmp_path / f"sizes{suffix}")
    whole = path.read_bytes()
    for length in range(0, len(whole) - 1, max(1, len(whole) // 40)):
        path.write_bytes(whole[:length])
        assert not loads(path)


def test_altered_archives_raise_nothing_else(tmp_path):
    whole = TABLE.save(tmp_path / "sizes.npz").read_bytes()
    for place in range(0, len(whole), 7):
        (tmp_path / "sizes.npz").write_bytes(whole[:place] + bytes([whole[place] ^ 0x5A]) + whole[place + 1 :])
        loads(tmp_path / "sizes.npz")


def test_one_array_is_no_table(tmp_path):
    with (tmp_path / "s.npz").open("wb") as file:
        np.save(file, np.arange(3))
    with pytest.raises(InputError, match=r"not an .npz archive"):
        SizeTable.load(tmp_path / "s.npz")


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "nodes"),
        ("edges\n1\n", "nodes"),
        ("nodes\nmany\n", "many"),
        ("nodes\n-1\n", "-1"),
        ("nodes\nnan\n", "nan"),
        ("nodes,edges\n1\n", "unequal"),
        ("nodes\n1e300\n", "2^63"),
        ("nodes\n99999999999999999999\n", "2^63"),
    ],
)
def test_csvs_that_hold_no_sizes(text, word, tmp_path):
    path = tmp_path / "s.csv"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        SizeTable.load(path)
    assert word in str(caught.value)


def test_a_csv_with_nothing_but_atoms(tmp_path):
    (tmp_path / "s.csv").write_text("id,nodes,edges\nx,3,\ny,4,\n")
    found = SizeTable.load(tmp_path / "s.csv")
    assert list(found.columns) == ["nodes"]
    assert list(found.ids) == ["x", "y"]


def test_files_that_are_not_there_or_of_another_kind(tmp_path):
    with pytest.raises(InputError, match="no file"):
        SizeTable.load(tmp_path / "s.npz")
    for path in ("s.txt", "s"):
        with pytest.raises(InputError, match="suffix"):
            SizeTable.load(tmp_path / path)
        with pytest.raises(InputError, match="suffix"):
            TABLE.save(tmp_path / path)


def test_an_existing_file_is_kept(tmp_path):
    TABLE.save(tmp_path / "s.npz")
    with pytest.raises(InputError, match="exists"):
        TABLE.save(tmp_path / "s.npz")
    TABLE.take([0]).save(tmp_path / "s.npz", force=True)
    assert len(SizeTable.load(tmp_path / "s.npz")) == 1


def test_an_npz_with_pickles_is_not_run(tmp_path):
    np.savez(tmp_path / "s.npz", nodes=np.array([object()]), allow_pickle=True)
    with pytest.raises(InputError, match="holds no sizes"):
        SizeTable.load(tmp_path / "s.npz")


def test_parquet_without_pyarrow(tmp_path, monkeypatch):
    real = builtins.__import__
    monkeypatch.setattr(
        "nodebudget.sizes.importlib.import_module",
        lambda name: real("a_package_that_is_not_there") if name.startswith("pyarrow") else real(name),
    )
    with pytest.raises(MissingError, match=r"pyarrow.*nodebudget\[parquet\]"):
        TABLE.save(tmp_path / "s.parquet")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("columns", "word"),
    [
        ({"nodes": [1, -2]}, "row 1: -2"),
        ({"nodes": [1.0, float("inf")]}, "row 1: inf"),
        ({"nodes": ["a"]}, "not a list of numbers"),
        ({"nodes": [[1, 2]]}, "not a list of numbers"),
        ({"nodes": [None]}, "not a list of numbers"),
        ({"nodes": 3}, "not a list of numbers"),
        ({"nodes": [1], "edges": [1, 2]}, "2 rows"),
        ({"nodes": [1, 2], "ids": ["a"]}, "1 ids"),
        ({"nodes": [2**62, 2**62]}, "total"),
        ({"nodes": np.array([2**64 - 1], dtype=np.uint64)}, "2^63"),
    ],
)
def test_counts_that_are_none(columns, word):
    with pytest.raises(InputError) as caught:
        SizeTable.from_counts(**columns)
    assert word in str(caught.value)


def test_a_table_has_nodes():
    with pytest.raises(InputError, match="'nodes'"):
        SizeTable({"edges": np.array([1])})
    with pytest.raises(InputError, match=r"no column 'tokens'.*nodes"):
        SizeTable.from_counts([1])["tokens"]


def test_columns_are_whole_numbers_where_they_can_be_and_read_only():
    assert SizeTable.from_counts([1.0, 2.0])["nodes"].dtype == np.int64
    assert TABLE["tokens"].dtype == np.float64
    with pytest.raises(ValueError, match="read-only"):
        TABLE["nodes"][0] = 7
    mine = np.array([1, 2])
    SizeTable.from_counts(mine)
    mine[0] = 5  # only the table's view of it is locked


def test_rows_and_batches():
    part = TABLE.take([2, 0])
    assert (part["nodes"].tolist(), list(part.ids)) == ([4, 1], ["ü", "a"])
    assert TABLE.totals([0, 2, 2]) == {"graphs": 3, "nodes": 9, "edges": 112, "line_edges": 1332, "tokens": 4.5}
    assert TABLE.totals([]) == {"graphs": 0, "nodes": 0, "edges": 0, "line_edges": 0, "tokens": 0.0}


@given(tables())
def test_statistics_are_numpys(table):
    found = table.statistics()
    assert found["graphs"] == len(table)
    for name, values in table.columns.items():
        plain = values.astype(float)
        assert found[name]["total"] == values.sum()
        for key in ("mean", "median", "min", "max", "std"):
            assert found[name][key] == pytest.approx(getattr(np, key)(plain), rel=1e-9, abs=1e-6)


def test_statistics_of_an_empty_table():
    assert SizeTable.from_counts([]).statistics()["nodes"]["total"] == 0


def test_fingerprints_tell_tables_apart():
    same = SizeTable.from_counts([1, 2, 4], [12, 24, 50], [132, 264, 600], tokens=[0.5, 1, 2])
    assert same.fingerprint() == TABLE.fingerprint()
    others = [TABLE.take([1, 0, 2]), TABLE.take([0, 1]), SizeTable.from_counts([1, 2, 4])]
    assert len({table.fingerprint() for table in [TABLE, *others]}) == 4


@pytest.mark.parametrize(
    "settings",
    [
        [1],
        5,
        {"skipped": 3},
        {"skipped": [{"index": 1}]},
        {"indices": [0]},
        {"indices": [0, -1]},
        {"indices": [0, "a"]},
    ],
)
def test_settings_that_nothing_could_use(settings, tmp_path):
    text = np.frombuffer(json.dumps(settings).encode(), np.uint8)
    np.savez(tmp_path / "s.npz", nodes=np.arange(2), _settings=text)
    with pytest.raises(InputError, match="holds no sizes: its"):
        SizeTable.load(tmp_path / "s.npz")


def test_an_archive_that_unpacks_to_far_too_much(tmp_path):
    block = bytes(2**24)
    with (
        zipfile.ZipFile(tmp_path / "s.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("nodes.npy", "w", force_zip64=True) as file,
    ):
        for _ in range(65):
            file.write(block)
    with pytest.raises(InputError, match=r"unpacks to 1.02 GiB, over 1.00 GiB and 200 times"):
        SizeTable.load(tmp_path / "s.npz")
