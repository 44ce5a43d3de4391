"""Files of other communities: the atoms that ASE and pymatgen read, within their boundary conditions."""

from __future__ import annotations

import json
import pickle
import tarfile

import numpy as np
import pytest
from ase.build import bulk
from ase.io import read, write
from ase.neighborlist import neighbor_list
from click.testing import CliRunner
from feeding import in_one_sentence
from foreign import ALL, PERIODIC, as_structures, crystals, frames, write_ase
from pymatgen.core import Lattice, Structure

from nodebudget import NodeBudgetSampler, ReadLimits, load_workload, measure, open_data
from nodebudget.cli import main
from nodebudget.datasets.graph_settings import GraphSettings
from nodebudget.datasets.measure import MeasureOptions
from nodebudget.errors import InputError, NodeBudgetError, WorkloadError
from nodebudget.utils.optional_imports import require

RADIUS = GraphSettings(strategy="radius_graph", cutoff=4.0)


def pairs(atoms):
    """Return the numbers of edges that ASE finds."""
    return [len(neighbor_list("i", one, 4.0)) for one in atoms]


@pytest.mark.parametrize("name", [*ALL, *PERIODIC])
def test_every_format_has_the_atoms_and_pairs_that_ase_finds(name, tmp_path):
    path, atoms = tmp_path / name, frames() if name in ALL else crystals()
    (ALL | PERIODIC)[name](path, atoms)
    table = measure(path, graphs=RADIUS)
    assert table["nodes"].tolist() == [len(one) for one in atoms]
    assert table["edges"].tolist() == pairs(atoms)
    if name in ALL:  # a CIF rounds, which breaks ties of the twelfth neighbour
        assert measure(path)["edges"].tolist() == measure(atoms)["edges"].tolist()
    if not name.endswith(".gz") or "json" in name:
        data = open_data(path)
        assert [len(data[place]["atoms"]["elements"]) for place in range(len(atoms))] == [len(one) for one in atoms]
        assert sorted(data[0]["atoms"]["elements"]) == sorted(atoms[0].get_chemical_symbols())
        assert measure(data, graphs=RADIUS)["edges"].tolist() == pairs(atoms)
        assert pickle.loads(pickle.dumps(data))[1]["atoms"] == data[1]["atoms"]


def test_a_molecule_and_an_isolated_atom():
    table = measure(frames()[3:])
    assert table["edges"].tolist() == [9 * 8, 0]
    assert table["line_edges"].tolist() == [9 * 8 * 8, 0]
    structures = [Structure.from_dict(one) for one in as_structures(frames()[:3])]
    assert measure(structures, graphs=RADIUS)["edges"].tolist() == pairs(frames()[:3])
    for strategy in ("fast_graph", "radius_graph_jarvis"):
        with pytest.raises(NodeBudgetError, match="builds periodic graphs"):
            measure(frames()[3:], graphs=GraphSettings(strategy=strategy))


def test_alignn_is_not_trained_on_what_it_would_take_for_a_crystal(tmp_path):
    write_ase(tmp_path / "a.extxyz", frames())
    workload = load_workload("alignn")
    workload.sample(open_data(tmp_path / "a.extxyz")[0])
    for place, words in ((2, "along a and b only"), (3, "along no vector only")):
        with pytest.raises((ValueError, WorkloadError), match=words):
            workload.sample(open_data(tmp_path / "a.extxyz")[place])


def test_names_of_entries(tmp_path):
    ALL["mptrj.json"](tmp_path / "a.json", frames())
    assert measure(tmp_path / "a.json").ids.tolist() == [
        *("mp-1-0-0", "mp-1-0-1", "mp-2-0-0", "mp-2-0-1", "mp-2-0-2"),
    ]
    ALL["frames"](tmp_path / "frames", frames())
    names = ["a.xyz", "b.extxyz", "b.extxyz:1", "b.extxyz:2", "b.extxyz:3"]
    assert measure(tmp_path / "frames").ids.tolist() == names
    ALL["matbench.json.gz"](tmp_path / "mb.json.gz", frames())
    assert open_data(tmp_path / "mb.json.gz")[3]["target"] == 3.0


@pytest.mark.parametrize("name", ["all.tar", "all.tar.gz"])
def test_frames_in_a_tar(name, tmp_path):
    ALL["frames"](tmp_path / "frames", frames())
    with tarfile.open(tmp_path / name, "w:gz" if name.endswith("gz") else "w") as archive:
        archive.add(tmp_path / "frames", "frames")
    table = measure(tmp_path / name, graphs=RADIUS)
    # As tar lists a folder: in any order.
    assert sorted(table["edges"].tolist()) == sorted(pairs(frames()))
    if name.endswith(".tar"):
        data = open_data(tmp_path / name)
        assert measure(data, graphs=RADIUS)["edges"].tolist() == table["edges"].tolist()


def test_extended_xyz_as_people_write_it(tmp_path):
    (tmp_path / "a.xyz").write_text(
        '2\nenergy=-1.0 name=\'Lattice="1 1 1"\' pbc="T T F" Lattice="3.9 0 0 0 3.9 0 0 0 30" '
        "Properties=forces:R:3:pos:R:3:Z:I:1\n0 0 0 0.0 0.0 1.0 6\n 0 0 0 1.2 0.0 1.0 8\n"
        "1\r\n\r\nH 0 0 0 0.3 extra\r\n"
        '1\nLattice="3 0 0 0 3 0 0 0 3"\nPo 0 0 0\n\n  \n'
    )
    atoms = read(tmp_path / "a.xyz", ":")
    table = measure(tmp_path / "a.xyz", graphs=RADIUS)
    assert table["edges"].tolist() == pairs(atoms)
    assert open_data(tmp_path / "a.xyz")[0]["atoms"]["elements"] == ["C", "O"]


def test_an_own_file_of_qm9(tmp_path):
    (tmp_path / "a.xyz").write_text(
        "2\ngdb 8\t24.1 1\nC\t 0.1 1.2 2.*^-6 -0.1\nO\t 0.1 0.0 1.1 0.1\n1.1\t2.2\nCO\tCO\nInChI=1S/x\n"
    )
    assert measure(tmp_path / "a.xyz")["nodes"].tolist() == [2]


def test_a_key_of_structures(tmp_path):
    first, second = as_structures(crystals())
    path = tmp_path / "a.json"
    path.write_text(json.dumps([{"initial": first, "relaxed": second}, {"initial": first, "relaxed": second}]))
    with pytest.raises(NodeBudgetError, match=r"several structures \('initial', 'relaxed'\).*--structures initial"):
        measure(path)
    for key, atoms in (("initial", 8), ("relaxed", 4)):
        done = CliRunner().invoke(main, ["measure", str(path), "--structures", key, "--json"])
        assert json.loads(done.stdout)["nodes"]["max"] == atoms, done.stderr
        table = measure(path, options=MeasureOptions(read_limits=ReadLimits(structures=key)))
        assert table["nodes"].tolist() == [atoms, atoms]
    done = CliRunner().invoke(main, ["plan", str(path), "--max-nodes", "9", "--structures", "relaxed", "--json"])
    assert json.loads(done.stdout)["batches"] == 1
    done = CliRunner().invoke(main, ["measure", str(path), "--structures", "unrelaxed"])
    assert "it has no 'unrelaxed'; its keys are 'initial', 'relaxed'" in done.stderr
    assert done.exit_code == 2


def test_numbers_of_atoms_are_enough_for_a_budget_of_nodes(tmp_path):
    np.savez(tmp_path / "metadata.npz", natoms=np.array([3, 9, 27]), data_sizes=np.arange(7))
    table = measure(tmp_path / "metadata.npz")
    assert table["nodes"].tolist() == [3, 9, 27]
    assert len(NodeBudgetSampler(table, max_nodes=30)) == 2
    done = CliRunner().invoke(main, ["plan", str(tmp_path / "metadata.npz"), "--max-nodes", "30", "--json"])
    assert json.loads(done.stdout)["batches"] == 2


@pytest.mark.parametrize(
    ("lines", "names"),
    [
        ("mp-0,1\nmp-1,2\n", ["mp-0", "mp-1"]),
        ("mp-0.cif,1\nmp-1.cif,2\n", ["mp-0.cif", "mp-1.cif"]),
        ("\ufeffmp-0 , 1\n\n mp-1,2\n", ["mp-0", "mp-1"]),
        ("id,target\nmp-0,1\nmp-1,2\n", ["mp-0", "mp-1"]),
        ("mp-0\nmp-1\n", ["mp-0", "mp-1"]),
        ('"mp-0",metal\n"mp-1",glass\n', ["mp-0", "mp-1"]),
    ],
)
def test_lists_of_crystals_as_people_make_them(lines, names, tmp_path):
    PERIODIC["cgcnn"](tmp_path / "d", [bulk("NaCl", "rocksalt", a=5.64, cubic=True)] * 2)
    (tmp_path / "d" / "id_prop.csv").write_text(lines)
    table = measure(tmp_path / "d")
    assert table.ids.tolist() == names
    # By their files' names they are alignn's, which takes the primitive cell.
    assert table["nodes"].tolist() == ([2, 2] if names[0].endswith("cif") else [8, 8])


def test_a_crystal_of_a_list_without_a_file_is_named(tmp_path):
    PERIODIC["cgcnn"](tmp_path / "d", crystals())
    for lines, name in (("mp-7,metal\nmp-0,glass\n", "mp-7"), ("mp-0,1\nmp-8,2\n", "mp-8")):
        (tmp_path / "d" / "id_prop.csv").write_text(lines)
        with pytest.raises(NodeBudgetError, match=rf"\({name}\).*does not exist"):
            measure(tmp_path / "d")


DISORDERED = Structure(Lattice.cubic(4.0), [{"Fe": 0.5, "Co": 0.5}], [[0, 0, 0]])


@pytest.mark.parametrize("case", ["disordered", "empty", "nan", "no lattice", "text"])
@pytest.mark.parametrize("form", ["a.json", "a.jsonl", "a.csv", "a.parquet"])
def test_a_bad_structure_is_one_sentence_with_its_number(case, form, tmp_path):
    good, bad = as_structures(crystals())[0], as_structures(crystals())[1]
    if case == "disordered":
        bad = DISORDERED.as_dict()
    elif case == "empty":
        bad["sites"] = []
    elif case == "nan":
        bad["sites"][1]["abc"] = bad["sites"][1]["xyz"] = [float("nan"), 0, 0]
    elif case == "no lattice":
        bad["lattice"]["matrix"] = [[0, 0, 0]] * 3
    else:
        bad = "nothing"
    rows, path = [{"structure": good}, {"structure": bad}], tmp_path / form
    if form == "a.json":
        path.write_text(json.dumps(rows))
    elif form == "a.jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        import pandas

        frame = pandas.DataFrame({"structure": [json.dumps(row["structure"]) for row in rows]})
        frame.to_csv(path) if form == "a.csv" else frame.to_parquet(path)
    with pytest.raises(NodeBudgetError, match=r"crystal 1") as caught:
        measure(path)
    text = in_one_sentence(caught)
    assert {"disordered": "disordered (Fe 0.5, Co 0.5)", "empty": "no atoms", "nan": "finite"}.get(case, "") in text
    assert measure(path, on_error="skip")["nodes"].tolist() == [8]


def test_a_disordered_site_of_a_cif(tmp_path):
    import pandas

    texts = [Structure.from_dict(as_structures(crystals())[0]).to(fmt="cif"), DISORDERED.to(fmt="cif")]
    pandas.DataFrame({"cif": texts}).to_csv(tmp_path / "a.csv")
    with pytest.raises(NodeBudgetError, match=r"crystal 1.*its site Fe.* is disordered \(occupancy 0.5\)"):
        measure(tmp_path / "a.csv")


@pytest.mark.parametrize("name", ["train.extxyz", "md.traj", "ase.json", "a.aselmdb", "mptrj.json", "mp_20.csv"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.97])
def test_cut_files(name, share, tmp_path):
    path = tmp_path / name
    (ALL | PERIODIC)[name](path, frames() if name in ALL else crystals())
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(NodeBudgetError) as caught:
        measure(path)
    in_one_sentence(caught)


BAD_FRAMES = {
    "not a number of atoms": "1\n\nH 0 0 0\nH 1 1 1\n",
    "ends after 1 of 3 atoms": "1\n\nH 0 0 0\n3\n\nH 0 0 0\n",
    "has no atoms": "1\n\nH 0 0 0\n0\n\n",
    "finite": "1\n\nH 0 0 0\n1\n\nH nan 0 0\n",
    "of 4 or more": "1\n\nH 0 0 0\n1\n\nH 0 0\n",
    "could not convert": "1\n\nH 0 0 0\n1\n\nH a b c\n",
    "without 'pos'": "1\n\nH 0 0 0\n1\nProperties=species:S:1\nH 0 0 0\n",
    "vector of length 0": '1\n\nH 0 0 0\n1\npbc="T T T"\nH 0 0 0\n',
    "not three of T and F": "1\n\nH 0 0 0\n1\npbc=maybe\nH 0 0 0\n",
    "atomic number 999": "1\n\nH 0 0 0\n1\nProperties=Z:I:1:pos:R:3\n999 0 0 0\n",
    "cannot reshape": '1\n\nH 0 0 0\n1\nLattice="1 2 3"\nH 0 0 0\n',
    "blank, where ASE takes the file for ended": "1\n\nH 0 0 0\n\n1\n\nH 0 0 0\n",
}


@pytest.mark.parametrize("words", BAD_FRAMES)
def test_a_bad_frame_is_one_sentence_with_its_number(words, tmp_path):
    (tmp_path / "a.xyz").write_text(BAD_FRAMES[words])
    with pytest.raises(NodeBudgetError, match=r"crystal 1 ") as caught:
        measure(tmp_path / "a.xyz")
    assert words in in_one_sentence(caught)
    assert measure(tmp_path / "a.xyz", on_error="skip")["nodes"].tolist() == [1]


UNREAD = {
    "a.h5": (b"\x89HDF\r\n\x1a\n", "looks like HDF5", "h5py"),
    "a.pkl": (pickle.dumps(frames()[:1]), "looks like a pickle", "ase.io.write"),
    "b.pkl": (pickle.dumps([DISORDERED]), "looks like a pickle", "as_dict"),
    "a.sdf": (b"\n  x\n", "an SDF", "ase convert a.sdf data.extxyz"),
    "a.data": (b"2\n\nH 0 0 0\nH 1 1 1\n", "looks like XYZ", "name it .xyz"),
    "a.txt": (b'[{"atoms": 1}]', "looks like JSON", "name it .json"),
    "a.7z": (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it"),
    "a.dat": (b"", "an empty file", "complete"),
    "a.odd": (b"\x01\x02", "unsupported", "ase.io.write"),
}


@pytest.mark.parametrize("name", UNREAD)
def test_what_is_not_read_is_named_with_the_line_that_converts_it(name, tmp_path):
    content, looks, line = UNREAD[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as caught:
        measure(tmp_path / name)
    text = str(caught.value)
    assert text.isprintable()
    assert looks in text
    assert line in text


def test_the_lines_that_convert_do(tmp_path):
    write(tmp_path / "a.pdb", frames()[3])
    assert CliRunner().invoke(main, ["measure", str(tmp_path / "a.pdb")]).exit_code == 2
    from ase.cli.main import main as ase

    ase(args=["convert", str(tmp_path / "a.pdb"), str(tmp_path / "data.extxyz")])
    assert measure(tmp_path / "data.extxyz")["nodes"].tolist() == [9]


def test_pickles_are_not_opened_in_an_lmdb_file(tmp_path):
    environment = pytest.importorskip("lmdb").open(str(tmp_path / "data.lmdb"), subdir=False)
    import torch

    Data = require("torch_geometric.data").Data  # noqa: N806

    with environment.begin(write=True) as transaction:
        for number in range(3):
            data = Data(pos=torch.zeros(4, 3), edge_index=torch.tensor([[0, 1], [1, 0]]))
            transaction.put(str(number).encode(), pickle.dumps(data))
        transaction.put(b"length", pickle.dumps(3))
    environment.close()
    with pytest.raises(InputError, match=r"pickled graphs.*--allow-pickle"):
        measure(tmp_path / "data.lmdb")
    table = measure(tmp_path / "data.lmdb", allow_pickle=True)
    assert (len(table), table["nodes"].tolist(), table["edges"].tolist()) == (3, [4] * 3, [2] * 3)
