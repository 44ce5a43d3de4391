"""All forms of datasets, in memory and on disk, and errors in some."""

from __future__ import annotations

import gzip
import json
import math
import os
import zipfile

import numpy as np
import pytest
import torch
from crystals import alignn_counts, alignn_graphs, entries, from_structure, small_prototypes

from nodebudget import MeasureOptions, SizeTable, measure
from nodebudget.datasets.graph_settings import GraphSettings
from nodebudget.datasets.readers.open_dataset import open_data
from nodebudget.datasets.workers import measure_chunks
from nodebudget.errors import CrystalError, InputError
from nodebudget.utils.optional_imports import load_dgl, require


@pytest.fixture(scope="module")
def crystals():
    return entries()


@pytest.fixture(scope="module")
def graphs():
    return [alignn_graphs(atoms) for atoms in small_prototypes(6)[:12]]


@pytest.fixture(scope="module")
def expected(graphs):
    return SizeTable.from_counts(
        [g.num_nodes() for g, _ in graphs],
        [g.num_edges() for g, _ in graphs],
        [lg.num_edges() for _, lg in graphs],
    )


def same(table, expected):
    return table.fingerprint() == expected.fingerprint()


def test_crystals_in_every_form(crystals, expected):
    jarvis = [require("jarvis.core.atoms").Atoms.from_dict(entry["atoms"]) for entry in crystals]
    assert same(measure(crystals), expected)
    assert same(measure([entry["atoms"] for entry in crystals]), expected)
    assert same(measure(jarvis), expected)
    assert list(measure(crystals).ids) == [entry["jid"] for entry in crystals]
    assert measure(jarvis).ids is None


def test_ase_and_pymatgen(crystals):
    structure = require("pymatgen.core").Structure(
        [[4, 0, 0], [0, 4, 0], [0.5, 0, 5]], ["Na", "Cl"], [[0] * 3, [0.5] * 3]
    )
    ase = require("pymatgen.io.ase").AseAtomsAdaptor.get_atoms(structure)
    counts = alignn_counts(from_structure(structure))
    for sample in (structure, ase):
        table = measure([sample])
        assert tuple(table[name][0] for name in ("nodes", "edges", "line_edges")) == counts


def test_dgl_graphs_and_tuples(graphs, expected):
    label = torch.tensor(1.0)
    assert same(measure([g for g, _ in graphs]), expected)
    assert same(measure(graphs), expected)
    assert same(measure([(g, lg, torch.eye(3), label) for g, lg in graphs]), expected)
    assert same(measure([(g, label) for g, _ in graphs]), expected)
    assert same(measure([[g, lg, "text", label] for g, lg in graphs]), expected)


def test_a_smaller_line_graph_is_taken_as_it_is(graphs):
    dgl = load_dgl()
    g, _ = graphs[0]
    line = dgl.graph(([0], [1]), num_nodes=g.num_edges())
    assert measure([(g, line)])["line_edges"].tolist() == [1]


def test_pyg_data_and_a_torch_dataset(graphs, expected):
    data = require("torch_geometric.data").Data
    samples = [data(edge_index=torch.stack(g.edges()), num_nodes=g.num_nodes()) for g, _ in graphs]

    class Lazy(torch.utils.data.Dataset):
        def __len__(self):
            return len(samples)

        def __getitem__(self, index):
            return samples[index], 0.5

    assert same(measure(samples), expected)
    assert same(measure(Lazy()), expected)


def test_further_sizes_and_progress(crystals):
    seen = []
    table = measure(
        crystals,
        size_of=lambda entry: {"tokens": len(entry["jid"])},
        progress=lambda done, total: seen.append((done, total)),
    )
    assert table["tokens"].tolist() == [len(entry["jid"]) for entry in crystals]
    assert seen == [(len(crystals), len(crystals))]
    assert table.settings["graphs"] == GraphSettings().to_dict()


def test_further_sizes_of_a_path_are_those_of_its_samples(crystals, tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(crystals))
    table = measure(tmp_path / "a.json", size_of=lambda entry: {"tokens": len(entry["jid"])})
    assert table["tokens"].tolist() == [len(entry["jid"]) for entry in crystals]
    assert table.settings["source"] == str(tmp_path / "a.json")
    assert not (tmp_path / ".nodebudget").exists()


def test_a_dataset_in_memory_is_written_too(crystals, tmp_path):
    table = measure(crystals, output=tmp_path / "s.csv")
    assert same(SizeTable.load(tmp_path / "s.csv"), table)
    with pytest.raises(InputError, match="exists"):
        measure(crystals, output=tmp_path / "s.csv")
    measure(crystals[:2], output=tmp_path / "s.csv", options=MeasureOptions(force=True))
    assert len(SizeTable.load(tmp_path / "s.csv")) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["s.csv"]


def test_graph_settings_for_data_that_is_not_crystals(graphs, expected):
    four = GraphSettings(neighbors=4)
    for data, kind in ((graphs, "graphs"), (expected, "sizes")):
        assert same(measure(data, graphs=four), expected)
        with pytest.raises(InputError, match=f"holds {kind}, to which graph settings do not apply"):
            measure(data, graphs=four, options=MeasureOptions(crystals_only=True))


@pytest.mark.parametrize("count", [11, 12])
def test_processes_are_started_for_many_crystals(crystals, count, monkeypatch):
    started = []
    monkeypatch.setattr("nodebudget.datasets.measure.MANY_CRYSTALS", 12)
    monkeypatch.setattr("nodebudget.datasets.measure.os.cpu_count", lambda: 7)

    def chunks_in_process(chunks, graphs, workers):
        started.append(workers)
        return measure_chunks(chunks, graphs)

    monkeypatch.setattr("nodebudget.datasets.measure.measure_chunks", chunks_in_process)
    for workers in (None, 0):
        measure(crystals[:count], workers=workers)
    assert started == [7 if count == 12 else 0, 0]


def test_a_table_is_returned_as_it_is(expected):
    assert measure(expected) is expected


def spoiled(**changes):
    return {"jid": "bad", "atoms": {**entries(2, 1)[0]["atoms"], **changes}}


BROKEN = {
    "no dict": 5,
    "nothing": None,
    "no atoms": {"jid": "bad"},
    "atoms of another kind": {"jid": "bad", "atoms": "Si"},
    "NaN": spoiled(coords=[[math.nan, 0, 0]], elements=["Si"]),
    "infinite lattice": spoiled(lattice_mat=[[math.inf, 0, 0], [0, 1, 0], [0, 0, 1]]),
    "flat lattice": spoiled(lattice_mat=[[1, 0, 0], [2, 0, 0], [0, 0, 1]]),
    "zero lattice": spoiled(lattice_mat=[[0, 0, 0], [0, 0, 0], [0, 0, 0]]),
    "two vectors": spoiled(lattice_mat=[[1, 0, 0], [0, 1, 0]]),
    "lengths": spoiled(coords=[[0, 0, 0], [0.5, 0.5, 0.5]], elements=["Si"], props=[""]),
    "no coordinates": spoiled(coords=[], elements=[]),
    "ragged": spoiled(coords=[[0, 0, 0], [0, 0]], elements=["Si", "Si"]),
    "words": spoiled(coords=[["a", "b", "c"]], elements=["Si"]),
    "null": spoiled(coords=None),
    "absurd": spoiled(lattice_mat=(np.eye(3) * 1e-3).tolist()),
}


@pytest.mark.parametrize("sample", BROKEN.values(), ids=BROKEN.keys())
@pytest.mark.parametrize("strategy", ["k-nearest", "radius_graph"])
def test_one_broken_crystal_among_good_ones(crystals, sample, strategy):
    graphs = GraphSettings(strategy=strategy)
    dataset = [*crystals[:2], sample, crystals[2]]
    with pytest.raises(CrystalError) as caught:
        measure(dataset, graphs=graphs)
    assert caught.value.index == 2
    assert "\n" not in str(caught.value)
    table = measure(dataset, graphs=graphs, on_error="skip")
    assert len(table) == 3
    assert table.settings["indices"] == [0, 1, 3]
    assert [entry["index"] for entry in table.settings["skipped"]] == [2]
    assert table.settings["skipped"][0]["reason"] == caught.value.reason


@pytest.mark.parametrize("missing", ["lattice_mat", "coords", "elements", "cartesian", "props"])
def test_missing_keys_are_named(missing):
    sample = spoiled()
    del sample["atoms"][missing]
    with pytest.raises(CrystalError, match=f"no '{missing}'"):
        measure([sample])


def test_atoms_on_one_spot_are_no_neighbours_of_each_other():
    crystal = spoiled(coords=[[0, 0, 0]] * 2, elements=["Si"] * 2, props=[""] * 2)
    atoms = require("jarvis.core.atoms").Atoms.from_dict(crystal["atoms"])
    assert measure([crystal])["edges"].tolist() == [alignn_counts(atoms)[1]]


@pytest.mark.parametrize("dataset", [[], 5, "sizes.npz", {"atoms": {}}])
def test_values_that_are_not_datasets(dataset):
    with pytest.raises(InputError, match=r"empty|not a dataset|does not exist"):
        measure(dataset)


def test_all_broken(crystals):
    with pytest.raises(InputError, match="not one of 2"):
        measure([None, 3], on_error="skip")
    with pytest.raises(InputError, match="on_error"):
        measure(crystals, on_error="ignore")
    with pytest.raises(InputError, match="workers"):
        measure(crystals, workers=-1)


def test_json_plain_and_packed(crystals, expected, tmp_path):
    text = json.dumps(crystals)
    (tmp_path / "a.json").write_text(text)
    (tmp_path / "a.json.gz").write_bytes(gzip.compress(text.encode()))
    with zipfile.ZipFile(tmp_path / "a.json.zip", "w") as archive:
        archive.writestr("a.json", text)
    for name in ("a.json", "a.json.gz", "a.json.zip"):
        data = open_data(tmp_path / name)
        assert (data.kind, len(data), data[1]["jid"]) == ("crystals", 12, "AFLOW-1")
        table = measure(tmp_path / name)
        assert same(table, expected)
        assert table.settings["source"] == os.fspath(tmp_path / name)


@pytest.mark.parametrize("key", ["id", "material_id", "_oqmd_entry_id"])
def test_other_names_for_ids(crystals, key, tmp_path):
    (tmp_path / "a.json").write_text(
        json.dumps([{key: 17, "atoms": crystals[0]["atoms"]}, crystals[1] | {"jid": None}])
    )
    assert open_data(tmp_path / "a.json").ids == ["17", "1"]


@pytest.mark.filterwarnings("ignore:Set OLD_ERROR_HANDLING:DeprecationWarning")
def test_a_folder_as_alignn_trains_on_it(crystals, tmp_path):
    Atoms = require("jarvis.core.atoms").Atoms  # noqa: N806
    poscar = require("jarvis.io.vasp.inputs").Poscar
    read = [Atoms.from_dict(entry["atoms"]) for entry in crystals[:3]]
    names = ["POSCAR-0.vasp", "one.cif", "two.xyz"]
    poscar(read[0]).write_file(str(tmp_path / names[0]))
    read[1].write_cif(str(tmp_path / names[1]), with_spg_info=False)
    rows = [f"{e} {x} {y} {z}" for e, (x, y, z) in zip(read[2].elements, read[2].cart_coords, strict=True)]
    box = ",".join(str(value) for value in read[2].lattice_mat.ravel())
    (tmp_path / names[2]).write_text("\n".join([str(len(rows)), box, *rows]))
    (tmp_path / "id_prop.csv").write_text("".join(f"{name},{i}\n" for i, name in enumerate(names)))
    alignn = [
        Atoms.from_poscar(str(tmp_path / names[0])),
        Atoms.from_cif(str(tmp_path / names[1]), use_cif2cell=False),
        Atoms.from_xyz(str(tmp_path / names[2]), box_size=500),
    ]
    table = measure(tmp_path)
    assert list(table.ids) == names
    assert table["edges"].tolist() == [alignn_counts(Atoms.from_dict(atoms.to_dict()))[1] for atoms in alignn]
    (tmp_path / "one.cif").write_text("data_\n")
    with pytest.raises(CrystalError, match=r"crystal 1 \(one.cif\).*not a crystal structure"):
        measure(tmp_path)
    (tmp_path / "one.cif").unlink()
    assert measure(tmp_path, on_error="skip").settings["indices"] == [0, 2]


def test_a_dgl_cache(graphs, expected, tmp_path):
    load_dgl().save_graphs(str(tmp_path / "g.bin"), [g for g, _ in graphs], {"y": torch.arange(12)})
    data = open_data(tmp_path / "g.bin")
    assert data.kind == "graphs"
    assert same(measure(data), expected)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_an_lmdb_that_alignn_wrote(crystals, expected, tmp_path, monkeypatch, capsys):
    build = require("alignn.lmdb_dataset").get_torch_dataset
    monkeypatch.chdir(tmp_path)
    build(
        crystals, target="target", use_canonize=True, output_dir=str(tmp_path), tmp_name="train", map_size=2**26
    ).close()
    capsys.readouterr()
    with pytest.raises(InputError, match=r"pickle.*allow-pickle"):
        measure(tmp_path / "train")
    assert same(measure(tmp_path / "train", allow_pickle=True), expected)


@pytest.mark.parametrize("suffix", [".npz", ".csv", ".parquet"])
def test_sizes_measured_before(crystals, suffix, tmp_path):
    table = measure(crystals)
    table.save(tmp_path / f"sizes{suffix}")
    data = open_data(tmp_path / f"sizes{suffix}")
    assert (data.kind, data.ids[0], data[0]["nodes"]) == ("sizes", "AFLOW-0", table["nodes"][0])
    assert same(measure(tmp_path / f"sizes{suffix}"), table)


def test_alignn_configs(tmp_path):
    assert GraphSettings.from_alignn_config({}) == GraphSettings(cutoff=5.0, three_body_cutoff=3.5)
    (tmp_path / "config.json").write_text(
        json.dumps({"neighbor_strategy": "radius_graph", "cutoff": 4, "max_neighbors": 9, "use_canonize": False})
    )
    found = GraphSettings.from_alignn_config(tmp_path / "config.json")
    assert found == GraphSettings("radius_graph", 4, 9, False, 3.0, 3.5)
    # The pure-PyTorch models too are trained on graphs of the strategy that is set.
    assert GraphSettings.from_alignn_config({"model": {"name": "alignn_atomwise_pure"}}).strategy == "k-nearest"
    assert GraphSettings.from_alignn_config({"max_neighbors": "9"}).neighbors == 9
    for config in (["x"], {"cutoff": "far"}, {"max_neighbors": 0}, {"neighbor_strategy": "voronoi"}):
        (tmp_path / "bad.json").write_text(json.dumps(config))
        with pytest.raises(InputError):
            GraphSettings.from_alignn_config(tmp_path / "bad.json")
    defaults = require("alignn.config").TrainingConfig()
    ours = GraphSettings.from_alignn_config({})
    assert (ours.cutoff, ours.neighbors, ours.cutoff_extra) == (
        defaults.cutoff,
        defaults.max_neighbors,
        defaults.cutoff_extra,
    )
