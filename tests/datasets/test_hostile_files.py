"""Crafted and broken files: one error in one sentence, in bounded time and memory, and nothing of theirs is written."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import tarfile
import tracemalloc
import zipfile

import numpy as np
import pytest
from click.testing import CliRunner
from crystals import entries
from feeding import in_one_sentence
from formats import WRITERS, reasons, write_members
from hypothesis import given, settings
from hypothesis import strategies as st

from nodebudget.cli import main
from nodebudget.datasets.measure import MeasureOptions, measure
from nodebudget.datasets.read_limits import MAX_NAME, ReadLimits
from nodebudget.datasets.readers.json_files import JsonLines
from nodebudget.errors import InputError, NodeBudgetError
from nodebudget.utils.optional_imports import require

CRYSTALS = entries(6, 12)
ATOMS = CRYSTALS[0]["atoms"]
MIB = 2**20


def limited(**limits):
    return MeasureOptions(read_limits=ReadLimits(**limits))


# --- what unpacks to too much


def gzip_bomb(path, start=b"", filling=b" "):
    with gzip.open(path, "wb", compresslevel=9) as file:
        file.write(start)
        for _ in range(48):
            file.write(filling * MIB)


def zip_bomb(path):
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("a.json", "w", force_zip64=True) as file,
    ):
        file.write(b"[")
        for _ in range(48):
            file.write(b" " * MIB)


def tar_header(name, size, kind=tarfile.REGTYPE):
    member = tarfile.TarInfo(name)
    member.size, member.type = size, kind
    return member.tobuf(tarfile.GNU_FORMAT)


@pytest.fixture
def small(monkeypatch):
    """Use a small limit, so that a bomb can be small."""
    monkeypatch.setattr("nodebudget.datasets.read_limits.FREE", 32 * MIB)


BOMBS = {
    "a.json.gz": lambda path: gzip_bomb(path, b"["),
    "a.json.zip": zip_bomb,
    "a.jsonl.gz": gzip_bomb,
    "b.jsonl.gz": lambda path: gzip_bomb(path, json.dumps(CRYSTALS[0]).encode() + b"\n", b"\n"),
    "a.tar.gz": lambda path: gzip_bomb(path, tar_header("a.bin", 48 * MIB), b"\0"),
    "b.tar.gz": lambda path: gzip_bomb(path, tar_header("a.json", 48 * MIB), b"\0"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_not_unpacked(name, small, tmp_path):
    words = "blank lines" if name == "b.jsonl.gz" else r"unpacks to over 32.0 MiB.*--max-expansion"
    BOMBS[name](tmp_path / name)
    assert (tmp_path / name).stat().st_size < MIB
    tracemalloc.start()
    with pytest.raises(InputError, match=words) as caught:
        measure(tmp_path / name, on_error="skip", options=limited(max_record=MIB))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    in_one_sentence(caught)
    assert peak < 16 * MIB


def test_a_trusted_file_can_be_unpacked_with_a_higher_limit(tmp_path, monkeypatch):
    monkeypatch.setattr("nodebudget.datasets.read_limits.FREE", 1000)
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress((json.dumps(CRYSTALS[0]) + "\n").encode() * 400))
    with pytest.raises(InputError, match="10 times its size"):
        measure(path, options=limited(max_expansion=10))
    assert len(measure(path, options=limited(max_expansion=10_000))) == 400
    done = CliRunner().invoke(main, ["measure", str(path), "--max-expansion", "1e4", "--json", "--no-cache"])
    assert json.loads(done.stdout)["graphs"] == 400


@pytest.mark.parametrize("repeats", ["texts", "numbers"])
def test_a_parquet_whose_values_repeat_without_end(repeats, small, tmp_path):
    arrow = require("pyarrow")
    if repeats == "texts":
        values = arrow.DictionaryArray.from_arrays(arrow.array([0] * 500, arrow.int32()), ["x" * MIB])
    else:
        few = arrow.array(np.zeros(5 * MIB))
        coords = arrow.ListArray.from_arrays(arrow.array([0, len(few)], arrow.int32()), few)
        values = arrow.StructArray.from_arrays([coords], ["coords"])
    require("pyarrow.parquet").write_table(arrow.table({"atoms": values}), tmp_path / "a.parquet", store_schema=False)
    assert (tmp_path / "a.parquet").stat().st_size < 2 * MIB
    with pytest.raises(InputError, match="unpacks to over"):
        measure(tmp_path / "a.parquet", on_error="skip")


def test_large_records_are_refused_by_themselves(tmp_path):
    large = {**CRYSTALS[1], "more": "x" * 4000}
    many = [CRYSTALS[0], large, CRYSTALS[2]]
    small = limited(max_record=3000)
    for name in ("lines.jsonl", "packed.jsonl.gz", "shard.tar", "packed.tar.gz"):
        path = WRITERS[name](tmp_path / name, many)
        table = measure(path, on_error="skip", options=small)
        assert table.settings["indices"] == [0, 2]
        assert "over the limit of 2.93 KiB for one crystal" in table.settings["skipped"][0]["reason"]
        assert len(measure(path)) == 3
    with pytest.raises(InputError, match=r"entry 1 of the list: it has .* over the limit"):
        measure(WRITERS["list.json"](tmp_path / "a.json", many), options=small)
    done = CliRunner().invoke(main, ["measure", str(tmp_path / "lines.jsonl"), "--max-record", "3KiB"])
    assert done.exit_code == 2
    assert "--max-record raises it" in done.stderr


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), True, "much"])
def test_limits_that_are_not_positive_numbers(value):
    with pytest.raises(InputError, match=r"max_.* is"):
        ReadLimits(max_expansion=value)
    with pytest.raises(InputError, match=r"max_.* is"):
        ReadLimits(max_record=value)


# --- JSON

DEEP = "[" * 10**6
ABSURD = {
    "nested too deep": f'{{"jid": "x", "atoms": {{"coords": {DEEP}',
    "not JSON": '{"jid": "x", "atoms": {"coords": ' + "9" * 10_000 + "}}",
    "finite": json.dumps({"atoms": {**ATOMS, "lattice_mat": "L"}}).replace('"L"', "[[1e999,0,0],[0,1,0],[0,0,1]]"),
    "its name has": json.dumps({"jid": "x" * (MAX_NAME + 1), "atoms": ATOMS}),
    "not a dict": '{"atoms": 1}',
    "not JSON: ": '{"atoms": \x01}',
}


@pytest.mark.parametrize("words", ABSURD)
def test_absurd_json_in_one_line_of_many(words, tmp_path):
    lines = [json.dumps(CRYSTALS[0]), ABSURD[words], json.dumps(CRYSTALS[1])]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    [reason] = reasons(tmp_path / "a.jsonl")
    assert words in reason
    write_members(tmp_path / "a.tar", [(f"{n}.json", line.encode()) for n, line in enumerate(lines)])
    assert words in reasons(tmp_path / "a.tar")[0]


def test_nesting_that_json_allows_and_nothing_else(tmp_path):
    nested = "[" * 900 + "]" * 900
    (tmp_path / "a.jsonl").write_text(f'{{"atoms": {json.dumps(ATOMS)}, "x": {nested}}}\n{{"atoms": {nested}}}\n')
    assert len(reasons(tmp_path / "a.jsonl")) == 1
    # Other processes get text, since such a list can't be pickled.
    [chunk] = JsonLines(tmp_path / "a.jsonl", ReadLimits()).chunks(0)
    assert pickle.loads(pickle.dumps(chunk)).payload == chunk.payload


def test_a_lone_surrogate_does_not_keep_sizes_from_being_written(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"jid": "x\ud800", "atoms": ATOMS}))
    for suffix in (".csv", ".npz", ".parquet"):
        table = measure(tmp_path / "a.jsonl", output=tmp_path / f"s{suffix}", cache=False)
        assert table.ids.tolist() == ["x\\ud800"]


@settings(max_examples=60)
@given(
    st.lists(st.one_of(st.none(), st.integers(), st.floats(), st.text(max_size=20), st.just([[]]))), st.integers(1, 9)
)
def test_elements_of_lists_are_those_of_json(values, block):
    from nodebudget.datasets.readers import json_stream as jsontext

    text = json.dumps(values, ensure_ascii=False, indent=block % 3).encode("utf-8", "surrogatepass")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jsontext, "_BLOCK", block + 3)
        found = [json.loads(element) for element in jsontext.elements(io.BytesIO(text), ReadLimits())]
    assert json.dumps(found) == json.dumps(values)


# --- tar


def test_members_outside_of_the_folder_are_read_and_never_written(tmp_path, monkeypatch):
    place = tmp_path / "in"
    place.mkdir()
    monkeypatch.chdir(place)
    secret = tmp_path / "secret.json"
    secret.write_text(json.dumps(CRYSTALS[5]))
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for name in ("../../up.json", "/abs.json", "a/../../b.json"):
            member = tarfile.TarInfo(name)
            content = json.dumps(CRYSTALS[0]).encode()
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        for kind, target in ((tarfile.SYMTYPE, str(secret)), (tarfile.LNKTYPE, str(secret)), (tarfile.FIFOTYPE, "")):
            member = tarfile.TarInfo(f"link{kind.decode()}.json")
            member.type, member.linkname = kind, target
            archive.addfile(member)
        archive.addfile(_of_kind(tarfile.CHRTYPE))
    (place / "a.tar").write_bytes(made.getvalue())
    table = measure(place / "a.tar", cache=False)
    assert table.ids.tolist() == [entry["jid"] for entry in (CRYSTALS[0],) * 3]
    assert sorted(found.name for found in tmp_path.iterdir()) == ["in", "secret.json"]
    assert [found.name for found in place.iterdir()] == ["a.tar"]


def _of_kind(kind):
    member = tarfile.TarInfo("device.json")
    member.type, member.devmajor, member.devminor = kind, 1, 5
    return member


def broken_tars():
    content = json.dumps(CRYSTALS[0]).encode()
    whole = write_members_to_bytes([("0.json", content), ("1.json", content)])
    second = whole.index(b"1.json")
    negative = bytearray(tar_header("0.json", 0))
    negative[124:136] = b"\xff" * 4 + (2**64 - 512).to_bytes(8, "big")
    negative[148:156] = b"%06o\0 " % (256 + sum(negative[:148]) + sum(negative[156:512]))
    huge = bytearray(tar_header("0.json", 0))
    huge[124:136] = b"\x80" + b"\x7f" * 11
    huge[148:156] = b"%06o\0 " % (256 + sum(huge[:148]) + sum(huge[156:512]))
    long_name = tar_header("././@LongLink", 2**31, tarfile.GNUTYPE_LONGNAME)
    pax = tar_header("pax", 10**7, tarfile.XHDTYPE) + b"1" * 10**7
    return {
        "damaged header": whole[: second + 100] + b"\xff" * 60 + whole[second + 160 :],
        "no end": whole[: whole.rindex(b"}") + 1].ljust(second + 2048, b"\0")[: second + 1536],
        "negative size": bytes(negative) * 3,
        "huge size": bytes(huge) + bytes(1024),
        "long name": long_name + bytes(1024),
        "long attributes": pax + bytes(1024),
        "junk": os.urandom(5000),
    }


def write_members_to_bytes(members):
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return made.getvalue()


@pytest.mark.parametrize("name", broken_tars())
def test_tars_that_are_damaged_or_too_large(name, tmp_path):
    (tmp_path / "a.tar").write_bytes(broken_tars()[name])
    with pytest.raises(NodeBudgetError, match=r"tar archive|over the limit|not one") as caught:
        measure(tmp_path / "a.tar", on_error="skip")
    in_one_sentence(caught)
