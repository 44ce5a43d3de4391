"""Errors, units, files and records."""

import json
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodebudget import errors
from nodebudget.errors import CrystalError, InputError, MissingError, NodeBudgetError, OversizedError, RecordError
from nodebudget.utils import files
from nodebudget.utils import optional_imports as frameworks
from nodebudget.utils.byte_units import format_bytes, parse_bytes
from nodebudget.utils.optional_imports import check_torch, installed, load_dgl, require
from nodebudget.utils.records import read_record, write_record


def test_exit_codes_follow_the_tree():
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, NodeBudgetError)]
    codes = {kind.__name__: kind.exit_code for kind in kinds}
    assert codes == {
        "NodeBudgetError": 2,
        "InputError": 2,
        "RecordError": 2,
        "CrystalError": 2,
        "WorkloadError": 2,
        "DoesNotFitError": 1,
        "OversizedError": 1,
        "MissingError": 3,
    }


@pytest.mark.parametrize(
    "error",
    [
        InputError("a", limit="b", hint="c"),
        CrystalError(3, "Si", "no atoms"),
        OversizedError("too large", indices=[1, 2], hint="more"),
    ],
)
def test_errors_cross_process_borders_whole(error):
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert copy.__dict__ == error.__dict__


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("40GiB", 40 * 2**30),
        ("40GB", 40 * 10**9),
        ("40G", 40 * 2**30),
        ("1.5 MiB", 3 * 2**19),
        (" 512 ", 512),
        ("7b", 7),
        (12, 12),
        (12.9, 12),
        (".5k", 512),
        ("9007199254740993", 9007199254740993),
    ],
)
def test_parse_bytes(text, count):
    assert parse_bytes(text) == count


@pytest.mark.parametrize("text", ["3 potatoes", "", "GiB", "-1GiB", "0", "1e9", "nan", float("inf"), True, "9" * 30])
def test_what_is_no_amount_of_memory_is_refused_with_its_value(text):
    with pytest.raises(InputError, match="not an amount of memory") as caught:
        parse_bytes(text)
    assert repr(text) in str(caught.value)


@given(st.integers(0, 2**49))
def test_written_bytes_have_three_digits_and_are_near(count):
    text = format_bytes(count)
    number, unit = text.split()
    assert len(number.replace(".", "")) <= 4
    scale = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}[unit]
    assert float(number) * scale == pytest.approx(count, rel=0.006)


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    target = tmp_path / "a.txt"
    target.write_text("old")

    def fails(file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(InputError, match="No space left on device"):
        files.write_whole(target, fails, force=True)
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_existing_files_are_kept_without_force(tmp_path):
    target = tmp_path / "a.txt"
    files.write_whole(target, lambda file: file.write(b"1"), force=False)
    with pytest.raises(InputError, match="exists; pass --force"):
        files.write_whole(target, lambda file: file.write(b"2"), force=False)
    files.write_whole(target, lambda file: file.write(b"3"), force=True)
    assert target.read_text() == "3"


@pytest.mark.parametrize(("place", "words"), [(".", "is a folder"), ("no/where.json", "there is no folder")])
def test_places_that_cannot_be_written_are_refused_before_the_work(tmp_path, place, words):
    with pytest.raises(InputError, match=words):
        files.check_output(tmp_path / place, force=True)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "is not JSON"),
        ("[]", "is not a file of kind 'thing'"),
        (json.dumps({"kind": "other", "schema_version": 1}), "its kind is 'other'"),
        (json.dumps({"kind": "thing", "schema_version": 3}), "reads 1 to 2"),
        (json.dumps({"kind": "thing", "schema_version": "2"}), "schema version '2'"),
        ("[" * 100_000, "is not JSON"),
    ],
)
def test_a_record_that_is_not_what_it_should_be(tmp_path, text, words):
    path = tmp_path / "r.json"
    path.write_text(text)
    with pytest.raises(RecordError, match=words):
        read_record(path, "thing", 2)


def test_a_record_comes_back(tmp_path):
    path = write_record(tmp_path / "r.json", "thing", 2, {"a": [1, 2.5]})
    assert read_record(path, "thing", 2) == {"kind": "thing", "schema_version": 2, "a": [1, 2.5]}
    with pytest.raises(RecordError, match="can't be read"):
        read_record(tmp_path / "missing.json", "thing", 2)


def test_a_missing_package_names_the_extra_that_brings_it(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "vesin", None)
    with pytest.raises(MissingError, match=r"nodebudget\[structures\]"):
        require("vesin")


@pytest.mark.skipif(installed("dgl") is None, reason="dgl is not installed, and so never broken")
def test_a_broken_dgl_says_which_versions_go_together(monkeypatch, tmp_path):
    broken = tmp_path / "dgl" / "__init__.py"
    broken.parent.mkdir()
    # What dgl 2.1.0 does with a torch whose torchdata has no datapipes.
    broken.write_text("""raise ImportError("No module named 'torchdata.datapipes'")\n""")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in [name for name in __import__("sys").modules if name.split(".")[0] == "dgl"]:
        monkeypatch.delitem(__import__("sys").modules, name)
    with pytest.raises(MissingError, match=r"dgl 1.1.3 works with torch 2.13") as caught:
        load_dgl()
    assert caught.value.exit_code == 3
    assert "datapipes" in str(caught.value)


def test_a_folder_of_data_is_no_package(tmp_path, monkeypatch):
    (tmp_path / "crystals_of_mine").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(MissingError, match=r"crystals_of_mine' is a folder without code"):
        require("crystals_of_mine")


def test_a_torch_that_is_too_old_is_refused(monkeypatch):
    monkeypatch.setattr(frameworks, "installed", lambda package: "1.13.1+cu117")
    with pytest.raises(MissingError, match=r"torch 1\.13\.1\+cu117 is too old \(torch 2\.0 or newer\)"):
        check_torch()
