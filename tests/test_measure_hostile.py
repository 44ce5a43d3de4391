"""Crafted and broken files: one sentence, in bounded time and memory, and nothing of theirs is run or written."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import sqlite3
import tarfile
import tracemalloc
import zipfile

import numpy as np
import pytest
from click.testing import CliRunner
from crystals import entries
from formats import WRITERS, structure_files, write_lines, write_members, write_parquet, write_webdataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nodebudget.cli import main
from nodebudget.errors import CrystalError, InputError, NodeBudgetError
from nodebudget.frameworks import load_dgl, require
from nodebudget.measure import Bounds, GraphSettings, measure_dataset, measure_path, open_data
from nodebudget.measure.bounds import NAME
from nodebudget.measure.rows import measure_records

CRYSTALS = entries(6, 12)
ATOMS = CRYSTALS[0]["atoms"]
MIB = 2**20


def in_one_sentence(caught):
    text = str(caught.value)
    assert "\n" not in text
    assert text.isprintable()
    assert len(text) < 1000
    return text


def reasons(path):
    """Why the crystals that could not be read could not."""
    return [entry["reason"] for entry in measure_path(path, on_error="skip", cache=False).settings.get("skipped", [])]


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
    """Let a bomb be small."""
    monkeypatch.setattr("nodebudget.measure.bounds.FREE", 32 * MIB)


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
        measure_path(tmp_path / name, on_error="skip", bounds=Bounds(record=MIB))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    in_one_sentence(caught)
    assert peak < 16 * MIB


def test_who_trusts_a_file_can_have_it_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr("nodebudget.measure.bounds.FREE", 1000)
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress((json.dumps(CRYSTALS[0]) + "\n").encode() * 400))
    with pytest.raises(InputError, match="10 times its size"):
        measure_path(path, bounds=Bounds(expansion=10))
    assert len(measure_path(path, bounds=Bounds(expansion=10_000))) == 400
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
        measure_path(tmp_path / "a.parquet", on_error="skip")


def test_large_records_are_refused_by_themselves(tmp_path):
    large = {**CRYSTALS[1], "more": "x" * 4000}
    many = [CRYSTALS[0], large, CRYSTALS[2]]
    small = Bounds(record=3000)
    for name in ("lines.jsonl", "packed.jsonl.gz", "shard.tar", "packed.tar.gz"):
        path = WRITERS[name](tmp_path / name, many)
        table = measure_path(path, on_error="skip", bounds=small)
        assert table.settings["indices"] == [0, 2]
        assert "over the limit of 2.93 KiB for one crystal" in table.settings["skipped"][0]["reason"]
        assert len(measure_path(path)) == 3
    with pytest.raises(InputError, match=r"entry 1 of the list: it has .* over the limit"):
        measure_path(WRITERS["list.json"](tmp_path / "a.json", many), bounds=small)
    done = CliRunner().invoke(main, ["measure", str(tmp_path / "lines.jsonl"), "--max-record", "3KiB"])
    assert done.exit_code == 2
    assert "--max-record raises it" in done.stderr


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), True, "much"])
def test_bounds_that_bound_nothing(value):
    with pytest.raises(InputError, match="the limit"):
        Bounds(expansion=value)
    with pytest.raises(InputError, match="the limit"):
        Bounds(record=value)


# --- JSON

DEEP = "[" * 10**6
ABSURD = {
    "nested too deep": f'{{"jid": "x", "atoms": {{"coords": {DEEP}',
    "no JSON": '{"jid": "x", "atoms": {"coords": ' + "9" * 10_000 + "}}",
    "finite": json.dumps({"atoms": {**ATOMS, "lattice_mat": "L"}}).replace('"L"', "[[1e999,0,0],[0,1,0],[0,0,1]]"),
    "its name has": json.dumps({"jid": "x" * (NAME + 1), "atoms": ATOMS}),
    "not a dict": '{"atoms": 1}',
    "no JSON: ": '{"atoms": \x01}',
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
    # Sent to another process as text, since such a list can't be pickled.
    assert len(measure_path(tmp_path / "a.jsonl", on_error="skip", workers=1, cache=False)) == 1


def test_a_lone_surrogate_does_not_keep_sizes_from_being_written(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"jid": "x\ud800", "atoms": ATOMS}))
    for suffix in (".csv", ".npz", ".parquet"):
        table = measure_path(tmp_path / "a.jsonl", output=tmp_path / f"s{suffix}", cache=False)
        assert table.ids.tolist() == ["x\\ud800"]


@settings(max_examples=60)
@given(
    st.lists(st.one_of(st.none(), st.integers(), st.floats(), st.text(max_size=20), st.just([[]]))), st.integers(1, 9)
)
def test_lists_are_cut_into_what_json_makes_of_them(values, block):
    from nodebudget.measure import jsontext

    text = json.dumps(values, ensure_ascii=False, indent=block % 3).encode("utf-8", "surrogatepass")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jsontext, "_BLOCK", block + 3)
        found = [json.loads(element) for element in jsontext.elements(io.BytesIO(text), Bounds())]
    assert json.dumps(found) == json.dumps(values)


# --- tar


def test_members_that_would_escape_are_read_and_never_written(tmp_path, monkeypatch):
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
    table = measure_path(place / "a.tar", cache=False)
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
def test_tars_that_are_damaged_or_ask_for_too_much(name, tmp_path):
    (tmp_path / "a.tar").write_bytes(broken_tars()[name])
    with pytest.raises(NodeBudgetError, match=r"tar archive|over the limit|not one") as caught:
        measure_path(tmp_path / "a.tar", on_error="skip")
    in_one_sentence(caught)


# --- structure files

CIF = """data_x
_cell_length_a {a}
_cell_length_b 4
_cell_length_c 4
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
loop_
_symmetry_equiv_pos_as_xyz
{operations}
loop_
_atom_site_label
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
{atoms}
"""
PARTS = {"a": "4", "operations": "x,y,z", "atoms": "Si 0 0 0"}
CRAFTED = {
    "finite": {"a": "nan"},
    "not all finite": {"atoms": "Si nan 0 0"},
    "finite numbers": {"a": "inf"},
    "more and more": {"operations": "x,y,z\nx+1/9973,y,z\nx,y+1/9973,z"},
    "40 digits": {"operations": "x,y,z\n" + "1" * 2000 + "x,y,z"},
    "over the limit of 10000": {"atoms": "\n".join(f"Si {n / 10_001:.6f} 0 0" for n in range(10_001))},
    "holds no crystal": {"atoms": "Si ? ? ?"},
}


@pytest.mark.parametrize("words", CRAFTED)
def test_crafted_cifs(words, tmp_path, monkeypatch):
    monkeypatch.setattr("nodebudget.measure.symmetry.MOST", 10**6)
    (tmp_path / "good.cif").write_text(CIF.format(**PARTS))
    (tmp_path / "bad.cif").write_text(CIF.format(**{**PARTS, **CRAFTED[words]}))
    [reason] = reasons(tmp_path)
    assert words in reason
    assert "bad.cif" in reason


def test_other_broken_structures(tmp_path):
    [(_, poscar)] = structure_files(CRYSTALS[:1])
    lines = poscar.decode().splitlines()
    lines[6] = "1000000000000"
    (tmp_path / "many.vasp").write_text("\n".join(lines))
    (tmp_path / "good.vasp").write_bytes(poscar)
    (tmp_path / "binary.vasp").write_bytes(b"\xff\xfe" * 100)
    (tmp_path / "empty.cif").write_text("")
    (tmp_path / "large.xyz").write_text("9999999999\n\nSi 0 0 0\n")
    (tmp_path / "id_prop.csv").write_text(
        "many.vasp\nbinary.vasp\nempty.cif\nlarge.xyz\nmissing.cif\npipe.vasp\n../../etc\ngood.vasp\n"
    )
    os.mkfifo(tmp_path / "pipe.vasp")
    table = measure_path(tmp_path, on_error="skip", cache=False)
    assert table.ids.tolist() == ["good.vasp"]
    said = {entry["name"]: entry["reason"] for entry in table.settings["skipped"]}
    assert "announces 1e+12 atoms" in said["many.vasp"]
    assert "empty" in said["empty.cif"]
    assert all("no file" in said[name] for name in ("missing.cif", "pipe.vasp", "../../etc"))


@settings(max_examples=30)
@given(st.sampled_from(["-x,y,z", "y,x,-z", "x+1/2,y+1/2,z", "-y,x-y,z+1/3", "z,x,y", "-x+1/4,-y,z"]), st.data())
def test_symmetry_is_what_jarvis_makes_of_it(operation, data):
    """The same atoms as jarvis's own comparison of positions gives."""
    from nodebudget.measure.symmetry import bounded_symmetry

    atoms = require("jarvis.core.atoms").Atoms
    places = data.draw(st.lists(st.tuples(*[st.integers(0, 8)] * 3), min_size=1, max_size=3, unique=True))
    text = CIF.format(
        a="4",
        operations=f"x,y,z\n{operation}",
        atoms="\n".join(f"Si {x / 8} {y / 8} {z / 8}" for x, y, z in places),
    )
    options = {"from_string": text, "use_cif2cell": False, "get_primitive_atoms": False}
    with bounded_symmetry():
        ours = atoms.from_cif(**options)
    theirs = atoms.from_cif(**options)
    assert ours.elements == theirs.elements
    np.testing.assert_array_equal(ours.frac_coords, theirs.frac_coords)


# --- names


NASTY = "a\n\x1b[31mred\x1b]0;title\x07\u202e.jsonl"


def test_names_do_nothing_to_a_terminal(tmp_path):
    entry = {"jid": "id\n\x1b[2J", "atoms": {}}
    path = write_lines(tmp_path / NASTY, [CRYSTALS[0], entry])
    for options in ([], ["--on-error", "skip"], ["--neighbors", "0"], ["-o", str(tmp_path / "no" / NASTY)]):
        done = CliRunner().invoke(main, ["measure", str(path), "--json", *options])
        lines = done.stderr.splitlines()
        assert all(line.isprintable() for line in lines)
        assert len([line for line in lines if not line.startswith("measuring")]) == 1
        assert "\x1b" not in done.stdout
    members = [(f"{NASTY}.json", b"{}"), ("good.json", json.dumps(CRYSTALS[0]).encode())]
    write_members(tmp_path / "a.tar", members)
    done = CliRunner().invoke(main, ["measure", str(tmp_path / "a.tar")])
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1 + done.stderr.count("measuring"))
    assert "\x1b" not in done.stderr


def test_pipes_and_devices_are_no_data(tmp_path):
    os.mkfifo(tmp_path / "a.jsonl")
    (tmp_path / "b.jsonl").symlink_to("/dev/zero")
    for name in ("a.jsonl", "b.jsonl", "?.jsonl", "."):
        with pytest.raises(InputError, match="no plain file"):
            measure_path(tmp_path / name)


# --- what could run


class Run:
    """Runs when it is unpickled."""

    def __reduce__(self):
        return (os.mkdir, ("owned",))


def test_nothing_is_unpickled_unasked(tmp_path, monkeypatch):
    import pickle

    monkeypatch.chdir(tmp_path)
    evil = pickle.dumps(Run())
    (tmp_path / "lmdb").mkdir()
    with (
        require("lmdb").open(str(tmp_path / "lmdb"), map_size=2**20) as environment,
        environment.begin(write=True) as transaction,
    ):
        transaction.put(b"0", evil)
    np.savez(tmp_path / "sizes.npz", nodes=np.array([Run()], dtype=object))
    write_members(tmp_path / "a.tar", [("0.pickle", evil), ("0.pyd", evil), ("0.pth", evil), ("0.json", evil)])
    for suffix in ("pkl", "pickle", "pt", "bin", "json", "jsonl", "db", "parquet", "npy"):
        (tmp_path / f"a.{suffix}").write_bytes(evil)
    for found in sorted(tmp_path.iterdir()):
        with pytest.raises(NodeBudgetError) as caught:
            measure_path(found)
        in_one_sentence(caught)
        if found.suffix != ".bin":
            with pytest.raises(NodeBudgetError):
                _ = open_data(found)[0]
    assert not (tmp_path / "owned").exists()
    with pytest.raises(NodeBudgetError):
        measure_path(tmp_path / "lmdb", allow_pickle=True)
    assert (tmp_path / "owned").exists()


def test_a_dataset_cannot_pass_for_a_module(tmp_path, monkeypatch):
    """A .bin is read in a process of its own, whose modules must not come from the folder of the data."""
    load_dgl().save_graphs(str(tmp_path / "g.bin"), [load_dgl().graph(([0], [1]))])
    for name in ("dgl", "torch", "numpy", "json"):
        (tmp_path / f"{name}.py").write_text("import os; os.mkdir('owned')")
    monkeypatch.chdir(tmp_path)
    assert measure_path("g.bin")["edges"].tolist() == [1]
    assert not (tmp_path / "owned").exists()


def test_damaged_dgl_caches_end_no_process(tmp_path):
    load_dgl().save_graphs(str(tmp_path / "g.bin"), [load_dgl().graph(([0], [1]))] * 3)
    content = bytearray((tmp_path / "g.bin").read_bytes())
    # The number of graphs, 2^63 and more: DGL's reader aborts.
    content[31] = 255
    (tmp_path / "b.bin").write_bytes(content)
    for call in (measure_path, open_data):
        with pytest.raises(InputError, match=r"holds no DGL graphs: what\(\): ") as caught:
            call(tmp_path / "b.bin")
        in_one_sentence(caught)


def test_an_lmdb_that_is_cut_ends_no_process(tmp_path):
    with require("lmdb").open(str(tmp_path), map_size=2**22) as environment, environment.begin(write=True) as put:
        for number in range(20):
            put.put(str(number).encode(), bytes(20_000))
    os.truncate(tmp_path / "data.mdb", 100_000)
    with pytest.raises(InputError, match="is cut"):
        measure_path(tmp_path, allow_pickle=True)


def test_databases_that_are_none_or_never_end(tmp_path):
    path = tmp_path / "a.db"
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE information (name TEXT, value TEXT)")
        database.execute("INSERT INTO information VALUES ('version', '9')")
        database.execute(
            "CREATE VIEW systems AS WITH RECURSIVE n(id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM n) "
            "SELECT id, x'' numbers, x'' positions, x'' cell, '{}' key_value_pairs FROM n"
        )
    database.close()
    with pytest.raises(InputError, match="no ASE database"):
        measure_path(path)
    for content in (b"", b"SQLite format 3\0" + bytes(5000), b"junk" * 1000):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"ASE database|SQLite"):
            measure_path(path)
        assert path.read_bytes() == content


# --- anything at all

SNIPPETS = [b"[", b"]", b"{", b"}", b'"', b",", b"nan", b"1e999", b"-", b"\0", b"\xff", b"\n", b"9" * 30, b"loop_"]
SNIPPETS += [b"'x+1/7,y,z'\n", b"\xff" * 8, b"\0" * 8, b"\x7f" * 8, b"\\ud800", b"\xed\xa0\x80"]
CHANGES = st.lists(
    st.tuples(st.sampled_from(["insert", "overwrite", "delete", "cut"]), st.floats(0, 1), st.sampled_from(SNIPPETS)),
    min_size=1,
    max_size=6,
)


def changed(content, changes):
    for how, place, snippet in changes:
        at = int(place * len(content))
        rest = {"insert": content[at:], "overwrite": content[at + len(snippet) :], "delete": content[at + 9 :]}
        content = content[:at] + (snippet if how in ("insert", "overwrite") else b"") + rest.get(how, b"")
    return content


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    folder = tmp_path_factory.mktemp("samples")
    found = {name: write(folder / name, CRYSTALS[:4]) for name, write in WRITERS.items() if name != "shards"}
    found["cifs.tar"] = write_members(folder / "cifs.tar", [(f"{n}.cif", CIF.format(**PARTS).encode()) for n in "abc"])
    found["files.tar"] = write_members(folder / "files.tar", structure_files(CRYSTALS[:4]))
    return {name: path.read_bytes() for name, path in found.items()}


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), changes=CHANGES, on_error=st.sampled_from(["raise", "skip"]))
def test_any_damage_to_any_file_is_refused_or_read(samples, data, changes, on_error, tmp_path_factory):
    name = data.draw(st.sampled_from(sorted(samples)))
    path = tmp_path_factory.mktemp("fuzz") / name
    path.write_bytes(changed(samples[name], changes))
    # Any other error fails the test.
    with contextlib.suppress(NodeBudgetError):
        measure_path(path, on_error=on_error, cache=False)


def test_a_dataset_of_nothing_but_junk_ends_soon(tmp_path, monkeypatch):
    monkeypatch.setattr("nodebudget.measure.rows._SKIPPED", 300)
    (tmp_path / "a.jsonl").write_text(f"{json.dumps(CRYSTALS[0])}\n" + "{}\n" * 100_000)
    seen = []
    with pytest.raises(InputError, match=r"most of the first \d+ samples"):
        measure_path(tmp_path / "a.jsonl", on_error="skip", progress=lambda done, total: seen.append(done))
    assert seen[-1] < 400


@settings(max_examples=200)
@given(
    st.recursive(
        st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
        lambda inner: st.one_of(
            st.lists(inner, max_size=4),
            st.dictionaries(st.sampled_from(["atoms", "jid", *ATOMS, "coords", "elements"]), inner, max_size=6),
        ),
        max_leaves=12,
    )
)
def test_any_json_is_a_crystal_or_has_a_reason_not_to_be(value):
    mixed = {**ATOMS, **value} if isinstance(value, dict) else value
    for name, counts in measure_records([(None, value), (None, {"atoms": mixed})], GraphSettings()):
        assert name is None or isinstance(name, str)
        assert isinstance(counts, str) or all(count >= 0 for count in counts)


def test_the_measures_of_a_crystal_that_is_well_are_not_touched_by_any_of_this(tmp_path):
    path = write_webdataset(tmp_path / "a.tar", CRYSTALS)
    assert measure_path(path).fingerprint() == measure_dataset(CRYSTALS).fingerprint()
    with pytest.raises(CrystalError, match="crystal 12 "):
        measure_path(write_parquet(tmp_path / "a.parquet", [*CRYSTALS, {**CRYSTALS[0], "atoms": None}]))
