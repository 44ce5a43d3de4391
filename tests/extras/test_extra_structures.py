"""The extra `structures`: crystals are measured, without DGL and alignn."""

from __future__ import annotations

import json
import warnings

import pytest
from apart import call, crystal, is_there, need, some_crystals, write_crystals

from nodebudget import NodeBudgetSampler, SizeTable, measure
from nodebudget.datasets.example_crystals import example_datasets
from nodebudget.utils.optional_imports import require

need("structures", "jarvis", "vesin", "pymatgen", "ase")

#: Of a cubic cell with one atom: the 6 nearest images and the 12 next, which are at one distance, each in both
#: directions; all edges meet at the one atom, so that each is followed by every other.
NODES, EDGES, LINE_EDGES = 1, 36, 36 * 35


@pytest.mark.parametrize("how", ["--strategy k-nearest", "--strategy radius_graph --cutoff 7"])
def test_crystals_of_a_json(how, tmp_path, capsys):
    assert call("measure", write_crystals(tmp_path), *how.split(), "--json", "-q", "--no-cache") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["graphs"], found["nodes"]["total"]) == (6, 12)


def test_one_by_hand():
    found = measure([crystal(0, 1)])
    assert [found[name][0] for name in found.columns] == [NODES, EDGES, LINE_EDGES]


def test_files_and_a_database_of_ase(tmp_path):
    atoms = [require("jarvis.core.atoms").Atoms.from_dict(entry["atoms"]) for entry in some_crystals()]
    folder = tmp_path / "folder"
    folder.mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number, entry in enumerate(atoms):
            entry.write_poscar(str(folder / f"POSCAR-{number}.vasp"))
        (folder / "id_prop.csv").write_text("".join(f"POSCAR-{number}.vasp,0\n" for number in range(6)))
        with require("ase.db").connect(tmp_path / "crystals.db") as database:
            for entry in atoms:
                database.write(entry.ase_converter())
    want = measure(some_crystals())
    for place in (folder, tmp_path / "crystals.db"):
        assert call("measure", place, "-o", tmp_path / "out.npz", "--force", "-q", "--no-cache") == 0
        assert SizeTable.load(tmp_path / "out.npz").fingerprint() == want.fingerprint()


def test_plans_and_samplers_of_crystals(tmp_path):
    assert call("plan", write_crystals(tmp_path), "--max-nodes", 5, "-o", tmp_path / "plan.json", "-q") == 0
    assert sorted(i for batch in NodeBudgetSampler(some_crystals(), max_edges=200) for i in batch) == list(range(6))


def test_the_crystals_of_the_quickstart():
    assert {name: len(crystals) for name, crystals in example_datasets(10).items()} == {
        "small cells": 10,
        "large cells": 10,
    }


def test_what_only_alignn_builds_is_said(tmp_path, capsys):
    if is_there("alignn"):
        pytest.skip("alignn is installed")
    assert call("measure", write_crystals(tmp_path), "--strategy", "pure_torch", "-q", "--no-cache") == 3
    assert "pip install" in capsys.readouterr().err
