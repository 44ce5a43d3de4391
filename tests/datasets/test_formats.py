"""Every format on disk gives the sizes of the same crystals in memory, front to back and in any order."""

from __future__ import annotations

import hashlib
import json
import pickle

import pytest
from crystals import entries, from_structure
from formats import PACKED, WRITERS, structure_files, write_ase, write_lines, write_members, write_parquet

from nodebudget.datasets.measure import measure
from nodebudget.datasets.readers.open_dataset import open_data
from nodebudget.errors import CrystalError, InputError
from nodebudget.utils.optional_imports import require

CRYSTALS = entries(6, 12)


@pytest.fixture(scope="module")
def expected():
    return measure(CRYSTALS)


def same(table, other):
    return {name: table[name].tolist() for name in table.columns} == {
        name: other[name].tolist() for name in other.columns
    }


@pytest.mark.parametrize("name", WRITERS)
def test_sizes_are_those_of_the_crystals_in_memory(name, expected, tmp_path):
    path = WRITERS[name](tmp_path / name, CRYSTALS)
    table = measure(path)
    assert same(table, expected)
    ids = [str(i + 1) for i in range(12)] if name == "ase.db" else [entry["jid"] for entry in CRYSTALS]
    assert list(table.ids) == ids
    assert table.settings["source"] == str(path)


@pytest.mark.parametrize("name", [name for name in WRITERS if name not in PACKED])
def test_items_are_read_in_any_order(name, expected, tmp_path):
    data = open_data(WRITERS[name](tmp_path / name, CRYSTALS))
    assert (data.kind, len(data)) == ("crystals", 12)
    assert data[7]["target"] == CRYSTALS[7]["target"]
    assert [entry["atoms"]["elements"] for entry in (data[11], data[0], data[-1])] == [
        CRYSTALS[place]["atoms"]["elements"] for place in (11, 0, 11)
    ]
    assert same(measure(data), expected)
    assert list(data.ids) == list(measure(data).ids)
    # As the worker processes of a data loader get it.
    assert pickle.loads(pickle.dumps(data))[3]["atoms"]["elements"] == CRYSTALS[3]["atoms"]["elements"]


@pytest.mark.parametrize("name", PACKED)
def test_packed_files_can_only_be_read_from_front_to_back(name, tmp_path):
    path = WRITERS[name](tmp_path / name, CRYSTALS)
    with pytest.raises(InputError, match=r"front to back.*; unpack it$"):
        open_data(path)


@pytest.mark.parametrize("pattern", ["part-{00..02}.jsonl", "part-{00,01,02}.jsonl", "part-*.jsonl", "part-0?.jsonl"])
def test_patterns_of_shards(pattern, expected, tmp_path):
    for number in range(3):
        write_lines(tmp_path / f"part-{number:02d}.jsonl", CRYSTALS[4 * number : 4 * number + 4])
    assert same(measure(tmp_path / pattern), expected)


def test_patterns_without_files_and_with_too_many(tmp_path):
    for pattern in ("no-{0..3}.tar", "no-*.tar"):
        with pytest.raises(InputError, match="does not exist"):
            measure(tmp_path / pattern)
    with pytest.raises(InputError, match="too many"):
        measure(tmp_path / "no-{0..99999999999}.tar")
    with pytest.raises(InputError, match="too many"):
        measure(tmp_path / ("{0..999}" * 9))


def test_shards_of_several_kinds_and_an_error_in_a_later_one(expected, tmp_path):
    folder = tmp_path / "mixed"
    folder.mkdir()
    write_lines(folder / "a.jsonl", CRYSTALS[:5])
    write_parquet(folder / "b.parquet", [*CRYSTALS[5:8], {**CRYSTALS[8], "atoms": {}}])
    WRITERS["packed.tar.gz"](folder / "c.tar.gz", CRYSTALS[9:])
    with pytest.raises(CrystalError, match=r"crystal 8 \(AFLOW-8\)"):
        measure(folder)
    table = measure(folder, on_error="skip")
    assert same(table, expected.take([*range(8), 9, 10, 11]))
    (folder / "c.tar.gz").unlink()
    data = open_data(folder)
    assert len(data) == 9
    assert data[5]["jid"] == "AFLOW-5"


def test_structure_files_in_a_folder_and_in_a_tar(tmp_path):
    files = structure_files(CRYSTALS)
    folder = tmp_path / "folder"
    folder.mkdir()
    for name, content in files:
        (folder / name).write_bytes(content)
    write_members(tmp_path / "files.tar", [(f"deep/er/{name}", content) for name, content in files])
    table = measure(folder)
    assert list(table.ids) == [name for name, _ in files]
    (folder / "id_prop.csv").write_text("".join(f"{name},1\n" for name, _ in files))
    assert same(measure(folder), table)
    packed = measure(tmp_path / "files.tar")
    assert same(packed, table)
    assert packed.ids[0] == "deep/er/POSCAR-00"


def test_the_structure_of_a_sample_is_read_rather_than_its_json(tmp_path):
    [(_, content)] = structure_files(CRYSTALS[:1])
    members = [("x.json", b'{"energy": 1}'), ("x.vasp", content), ("x.txt", b"text"), ("._x.vasp", b"junk")]
    for order in (members, members[::-1]):
        table = measure(write_members(tmp_path / "s.tar", order))
        assert (len(table), table.ids[0]) == (1, "x")


def test_a_column_of_cifs(tmp_path):
    library = require("pymatgen.analysis.prototypes").AFLOW_PROTOTYPE_LIBRARY[:4]
    structures = [entry["snl"].structure for entry in library]
    table = require("pyarrow").table(
        {"material_id": [f"m-{i}" for i in range(4)], "cif": [item.to(fmt="cif") for item in structures]}
    )
    require("pyarrow.parquet").write_table(table, tmp_path / "cif.parquet")
    found = measure(tmp_path / "cif.parquet")
    assert list(found.ids) == ["m-0", "m-1", "m-2", "m-3"]
    assert found["nodes"].tolist() == measure([from_structure(item) for item in structures])["nodes"].tolist()


def test_an_ase_database_is_read_as_ase_reads_it_and_left_as_it_is(tmp_path):
    path = write_ase(tmp_path / "a.db", CRYSTALS)
    with require("ase.db").connect(path) as database:
        database.delete([3, 7])
        atoms = [row.toatoms() for row in database.select()]
    before = hashlib.sha256(path.read_bytes()).hexdigest()
    table = measure(path)
    assert same(table, measure(atoms))
    assert list(table.ids) == [str(i) for i in range(1, 13) if i not in (3, 7)]
    assert open_data(path)[2]["jid"] == "4"
    assert hashlib.sha256(path.read_bytes()).hexdigest() == before


def test_blank_lines_and_atoms_alone_are_fine(expected, tmp_path):
    text = "\n \n".join(json.dumps(entry["atoms"]) for entry in CRYSTALS)
    (tmp_path / "a.jsonl").write_text(f"\n{text}")
    assert same(measure(tmp_path / "a.jsonl"), expected)
    assert len(open_data(tmp_path / "a.jsonl")) == 12


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_lists_in_other_encodings(encoding, expected, tmp_path):
    (tmp_path / "a.json").write_bytes(json.dumps(CRYSTALS, indent=1).encode(encoding))
    assert same(measure(tmp_path / "a.json"), expected)


@pytest.mark.parametrize("name", ["lines.jsonl", "ase.db", "shard.tar", "struct.parquet"])
def test_broken_items_are_refused_when_they_are_asked_for(name, tmp_path):
    if name == "ase.db":
        path = write_ase(tmp_path / name, CRYSTALS[:3])
        with require("ase.db").connect(path) as database, database.managed_connection() as connection:
            connection.execute("UPDATE systems SET positions = x'00' WHERE id = 2")
    else:
        path = WRITERS[name](tmp_path / name, [CRYSTALS[0], {**CRYSTALS[1], "atoms": None}, CRYSTALS[2]])
    with pytest.raises(CrystalError, match="crystal 1 "):
        measure(path)
    assert measure(path, on_error="skip").settings["indices"] == [0, 2]
    if name in ("ase.db", "struct.parquet"):
        with pytest.raises(CrystalError, match="crystal 1 "):
            open_data(path)[1]


def test_sizes_among_shards_and_empty_datasets(expected, tmp_path):
    folder = tmp_path / "s"
    folder.mkdir()
    expected.save(folder / "a.parquet")
    write_lines(folder / "b.jsonl", CRYSTALS)
    with pytest.raises(InputError, match=r"a\.parquet.*holds sizes"):
        measure(folder)
    (tmp_path / "e.jsonl").write_text("\n\n")
    write_members(tmp_path / "e.tar", [])
    for name in ("e.jsonl", "e.tar"):
        for call in (measure, open_data):
            with pytest.raises(InputError, match="is empty"):
                call(tmp_path / name)
