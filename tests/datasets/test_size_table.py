"""The size table: values that it takes and refuses, and files that give back the same table."""

from __future__ import annotations

import json
import sys
import zipfile

import numpy as np
import pytest
from generated import TABLE, tables
from hypothesis import given

from nodebudget import SizeTable
from nodebudget.errors import InputError, MissingError

SUFFIXES = [".npz", ".csv", ".parquet"]

SKIPPED = [{"index": 3, "name": "x", "reason": "no atoms"}]


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


def test_an_altered_archive_is_refused_or_gives_the_same_sizes(tmp_path):
    """A directory entry with a damaged length of its comment spans the entries after it."""
    path = TABLE.save(tmp_path / "sizes.npz")
    whole, refused = path.read_bytes(), 0
    for place in range(0, len(whole), 3):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x5A]) + whole[place + 1 :])
        try:
            found = SizeTable.load(path)
        except InputError:
            refused += 1
        else:
            assert found.fingerprint() == TABLE.fingerprint()
            assert found.ids.tolist() == TABLE.ids.tolist()
    assert refused > len(whole) // 6


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
def test_csvs_that_are_not_size_tables(text, word, tmp_path):
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


def test_missing_files_and_other_suffixes(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
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


def test_an_npz_with_pickles_is_refused(tmp_path):
    np.savez(tmp_path / "s.npz", nodes=np.array([object()]), allow_pickle=True)
    with pytest.raises(InputError, match="is not a size table"):
        SizeTable.load(tmp_path / "s.npz")


def test_parquet_without_pyarrow(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
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
def test_invalid_counts(columns, word):
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


def test_different_tables_have_different_fingerprints():
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
def test_invalid_settings(settings, tmp_path):
    text = np.frombuffer(json.dumps(settings).encode(), np.uint8)
    np.savez(tmp_path / "s.npz", nodes=np.arange(2), _settings=text)
    with pytest.raises(InputError, match="not a size table: its"):
        SizeTable.load(tmp_path / "s.npz")


@pytest.fixture
def small(monkeypatch):
    """Use a small limit, so that a file over it can be small."""
    monkeypatch.setattr("nodebudget.utils.files._MAX_UNPACKED", 2**20)


def test_an_archive_that_unpacks_to_far_too_much(small, tmp_path):
    block = bytes(2**14)
    with (
        zipfile.ZipFile(tmp_path / "s.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("nodes.npy", "w", force_zip64=True) as file,
    ):
        for _ in range(65):
            file.write(block)
    with pytest.raises(InputError, match=r"unpacks to 1.02 MiB, over 1.00 MiB and 200 times"):
        SizeTable.load(tmp_path / "s.npz")


def test_long_tables_are_read_block_by_block(tmp_path, monkeypatch):
    monkeypatch.setattr("nodebudget.datasets.size_table_io._BLOCK", 2)
    lines = ["id,nodes,edges,tokens", "a,1,,1.5", "bb,2,,2", "c,3,,3", "ddd,4,,4", "e,5,,5"]
    (tmp_path / "s.csv").write_text("\n".join(lines))
    found = SizeTable.load(tmp_path / "s.csv")
    assert list(found.columns) == ["nodes", "tokens"]
    assert found["nodes"].tolist() == [1, 2, 3, 4, 5]
    assert found["tokens"].tolist() == [1.5, 2, 3, 4, 5]
    assert found.ids.tolist() == ["a", "bb", "c", "ddd", "e"]
    (tmp_path / "s.csv").write_text("\n".join([*lines[:3], "c,3,36,3"]))
    with pytest.raises(InputError, match="column 'edges': some of its rows are empty"):
        SizeTable.load(tmp_path / "s.csv")


def test_two_columns_of_one_name(tmp_path):
    (tmp_path / "s.csv").write_text("nodes,edges,nodes\n1,2,3\n")
    with pytest.raises(InputError, match="2 columns are named 'nodes'"):
        SizeTable.load(tmp_path / "s.csv")


def test_names_that_would_take_far_more_memory_than_the_file(small, tmp_path):
    """An array keeps all names as wide as the longest."""
    (tmp_path / "s.csv").write_text(f"id,nodes\n{'x' * 257},1\n")
    with pytest.raises(InputError, match="an id has 257 characters, over the limit of 256"):
        SizeTable.load(tmp_path / "s.csv")
    (tmp_path / "s.csv").write_text(f"id,nodes\n{'x' * 256},1\n" + "a,1\n" * 1_100)
    with pytest.raises(InputError, match=r"it unpacks to 1\.08 MiB, over 1\.00 MiB"):
        SizeTable.load(tmp_path / "s.csv")


def test_parquet_of_other_programs(tmp_path):
    arrays, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "s.parquet"

    def stored(**columns):
        parquet.write_table(arrays.table(columns), path)
        return SizeTable.load(path)

    assert stored(id=[7, 8], nodes=[1, 2]).ids.tolist() == ["7", "8"]
    assert stored(id=["é", None], nodes=[1, 2]).ids.tolist() == ["é", ""]
    assert stored(id=arrays.array(["a", "b"]).dictionary_encode(), nodes=[1, 2]).ids.tolist() == ["a", "b"]
    assert stored(nodes=arrays.array([1, 2]).dictionary_encode())["nodes"].tolist() == [1, 2]
    assert list(stored(nodes=[1, 2], edges=arrays.nulls(2)).columns) == ["nodes"]
    assert stored(nodes=arrays.array([1.5, 60000], arrays.float16())).totals([0, 1])["nodes"] == 60001.5
    for wrong, words in (
        ({"id": [b"a"], "nodes": [1]}, "ids are of type binary"),
        ({"id": [["a"]], "nodes": [1]}, "ids are of type list"),
        ({"nodes": [1, None]}, "row 1: nan"),
        ({"nodes": [[1]]}, "not a list of numbers"),
        ({"id": ["x" * 257], "nodes": [1]}, "over the limit of 256"),
    ):
        with pytest.raises(InputError, match=words):
            stored(**wrong)


def test_parquet_that_unpacks_to_far_too_much(small, tmp_path):
    """A number or a name that repeats takes next to nothing in the file."""
    arrays = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(arrays.table({"nodes": np.ones(140_000, np.int8)}), tmp_path / "s.parquet", compression="zstd")
    with pytest.raises(InputError, match=r"it unpacks to 1\.07 MiB"):
        SizeTable.load(tmp_path / "s.parquet")
    rows = 1_100
    names = arrays.DictionaryArray.from_arrays(np.zeros(rows, np.int32), ["x" * 256])
    parquet.write_table(arrays.table({"id": names, "nodes": np.ones(rows, np.int8)}), tmp_path / "s.parquet")
    with pytest.raises(InputError, match=r"it unpacks to 1\.07 MiB"):
        SizeTable.load(tmp_path / "s.parquet")


def test_a_mapped_archive_that_lost_arrays_is_refused(tmp_path):
    path = TABLE.save(tmp_path / "sizes.npz", compress=False)
    whole = path.read_bytes()
    entry = whole.index(b"PK\x01\x02")
    path.write_bytes(whole[: entry + 33] + b"\x40" + whole[entry + 34 :])
    for mmap in (True, False):
        with pytest.raises(InputError, match=r"damaged after its member 'nodes\.npy'"):
            SizeTable.load(path, mmap=mmap)
