"""Crafted structure files, names, pickles and random damage: one error in one sentence, and none of their code runs."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3

import numpy as np
import pytest
from click.testing import CliRunner
from crystals import entries
from feeding import in_one_sentence
from formats import WRITERS, reasons, structure_files, write_lines, write_members, write_parquet, write_webdataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nodebudget.cli import main
from nodebudget.datasets.counting.rows import measure_records
from nodebudget.datasets.graph_settings import GraphSettings
from nodebudget.datasets.measure import measure
from nodebudget.datasets.readers.open_dataset import open_data
from nodebudget.errors import CrystalError, InputError, NodeBudgetError
from nodebudget.utils.optional_imports import load_dgl, require

CRYSTALS = entries(6, 12)
ATOMS = CRYSTALS[0]["atoms"]


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
    "not a crystal structure": {"atoms": "Si ? ? ?"},
}


@pytest.mark.parametrize("words", CRAFTED)
def test_crafted_cifs(words, tmp_path, monkeypatch):
    monkeypatch.setattr("nodebudget.datasets.readers.cif_symmetry.MAX_COMPARISONS", 10**6)
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
    table = measure(tmp_path, on_error="skip", cache=False)
    assert table.ids.tolist() == ["good.vasp"]
    said = {entry["name"]: entry["reason"] for entry in table.settings["skipped"]}
    assert "declares 1e+12 atoms" in said["many.vasp"]
    assert "empty" in said["empty.cif"]
    assert all("not exist" in said[name] for name in ("missing.cif", "pipe.vasp", "../../etc"))


@settings(max_examples=30)
@given(st.sampled_from(["-x,y,z", "y,x,-z", "x+1/2,y+1/2,z", "-y,x-y,z+1/3", "z,x,y", "-x+1/4,-y,z"]), st.data())
def test_symmetry_is_what_jarvis_makes_of_it(operation, data):
    """The same atoms as jarvis's own comparison of positions gives."""
    from nodebudget.datasets.readers.cif_symmetry import bounded_symmetry

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


def test_names_from_files_do_not_control_the_terminal(tmp_path):
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


def test_pipes_and_devices_are_refused(tmp_path):
    os.mkfifo(tmp_path / "a.jsonl")
    (tmp_path / "b.jsonl").symlink_to("/dev/zero")
    for name in ("a.jsonl", "b.jsonl", "?.jsonl", "."):
        with pytest.raises(InputError, match="not a regular file"):
            measure(tmp_path / name)


# --- what could run


class Run:
    """Runs when it is unpickled."""

    def __reduce__(self):
        return (os.mkdir, ("owned",))


def test_nothing_is_unpickled_without_permission(tmp_path, monkeypatch):
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
            measure(found)
        in_one_sentence(caught)
        if found.suffix != ".bin":
            with pytest.raises(NodeBudgetError):
                _ = open_data(found)[0]
    assert not (tmp_path / "owned").exists()
    with pytest.raises(NodeBudgetError):
        measure(tmp_path / "lmdb", allow_pickle=True)
    assert (tmp_path / "owned").exists()


def test_a_dataset_cannot_pass_for_a_module(tmp_path, monkeypatch):
    """A .bin is read in a process of its own, whose modules must not come from the folder of the data."""
    load_dgl().save_graphs(str(tmp_path / "g.bin"), [load_dgl().graph(([0], [1])), load_dgl().graph(([0, 1], [1, 0]))])
    for name in ("dgl", "torch", "numpy", "json"):
        (tmp_path / f"{name}.py").write_text("import os; os.mkdir('owned')")
    monkeypatch.chdir(tmp_path)
    assert measure("g.bin")["edges"].tolist() == [1, 2]
    assert not (tmp_path / "owned").exists()


def test_damaged_dgl_caches_end_no_process(tmp_path):
    load_dgl().save_graphs(str(tmp_path / "g.bin"), [load_dgl().graph(([0], [1]))] * 3)
    content = bytearray((tmp_path / "g.bin").read_bytes())
    # The number of graphs, 2^63 and more: DGL's reader aborts.
    content[31] = 255
    (tmp_path / "b.bin").write_bytes(content)
    with pytest.raises(InputError, match=r"as DGL graphs: what\(\): ") as caught:
        measure(tmp_path / "b.bin")
    in_one_sentence(caught)


def test_an_lmdb_that_is_cut_ends_no_process(tmp_path):
    with require("lmdb").open(str(tmp_path), map_size=2**22) as environment, environment.begin(write=True) as put:
        for number in range(20):
            put.put(str(number).encode(), bytes(20_000))
    os.truncate(tmp_path / "data.mdb", 100_000)
    with pytest.raises(InputError, match="is cut"):
        measure(tmp_path, allow_pickle=True)


def test_files_that_are_not_ase_databases_and_queries_without_end(tmp_path):
    path = tmp_path / "a.db"
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE information (name TEXT, value TEXT)")
        database.execute("INSERT INTO information VALUES ('version', '9')")
        database.execute(
            "CREATE VIEW systems AS WITH RECURSIVE n(id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM n) "
            "SELECT id, x'' numbers, x'' positions, x'' cell, '{}' key_value_pairs FROM n"
        )
    database.close()
    with pytest.raises(InputError, match="not an ASE database"):
        measure(path)
    for content in (b"", b"SQLite format 3\0" + bytes(5000), b"junk" * 1000):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"ASE database|SQLite"):
            measure(path)
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
        measure(path, on_error=on_error, cache=False)


def test_a_dataset_of_nothing_but_junk_ends_soon(tmp_path, monkeypatch):
    monkeypatch.setattr("nodebudget.datasets.counting.rows._MAX_SKIPPED", 300)
    (tmp_path / "a.jsonl").write_text(f"{json.dumps(CRYSTALS[0])}\n" + "{}\n" * 100_000)
    seen = []
    with pytest.raises(InputError, match=r"most of the first \d+ samples"):
        measure(tmp_path / "a.jsonl", on_error="skip", progress=lambda done, total: seen.append(done))
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
def test_any_json_gives_counts_or_a_reason(value):
    mixed = {**ATOMS, **value} if isinstance(value, dict) else value
    for name, counts in measure_records([(None, value), (None, {"atoms": mixed})], GraphSettings()):
        assert name is None or isinstance(name, str)
        assert isinstance(counts, str) or all(count >= 0 for count in counts)


def test_valid_crystals_beside_a_broken_one(tmp_path):
    path = write_webdataset(tmp_path / "a.tar", CRYSTALS)
    assert measure(path).fingerprint() == measure(CRYSTALS).fingerprint()
    with pytest.raises(CrystalError, match="crystal 12 "):
        measure(write_parquet(tmp_path / "a.parquet", [*CRYSTALS, {**CRYSTALS[0], "atoms": None}]))


def test_a_row_whose_text_is_not_utf8_is_named(tmp_path):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    texts = [json.dumps(entry["atoms"]).encode() for entry in entries(count=3)]
    texts[1] = b"\xff" + texts[1]
    column = arrow.Array.from_buffers(arrow.string(), 3, arrow.array(texts, arrow.binary()).buffers())
    parquet.write_table(arrow.table({"jid": ["a", "b", "c"], "atoms": column}), tmp_path / "data.parquet")
    with pytest.raises(CrystalError, match=r"crystal 1 .*not UTF-8"):
        measure(tmp_path / "data.parquet", cache=False)
    found = measure(tmp_path / "data.parquet", cache=False, on_error="skip")
    assert found.ids.tolist() == ["a", "c"]
