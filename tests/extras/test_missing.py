"""What is not installed is said in one sentence that names the extra, with exit code 3, and leaves nothing behind.

Only what is really missing is tried; run in environments that lack it, by `nox`.
"""

from __future__ import annotations

import pytest
from apart import PROMISED, call, is_there, some_crystals, some_sizes, write_crystals

from nodebudget import MemoryMonitor, measure
from nodebudget.errors import MissingError
from nodebudget.integrations.huggingface import trainer_callback
from nodebudget.integrations.lightning import lightning_callback
from nodebudget.utils.optional_imports import load_dgl

#: What is missing, a command that needs it, and what names it and its extra.
COMMANDS = [
    ("jarvis", "measure crystals.json -o out.npz", "jarvis-tools", "nodebudget[structures]"),
    ("jarvis", "measure folder -o out.npz", "jarvis-tools", "nodebudget[structures]"),
    ("jarvis", "plan crystals.json --max-nodes 50 -o out.json", "jarvis-tools", "nodebudget[structures]"),
    ("dgl", "measure graphs.bin -o out.npz", "DGL", "nodebudget[dgl]"),
    ("dgl", "calibrate --device cpu --data crystals.json -o out.json", "DGL", "nodebudget[dgl]"),
    ("dgl", "breakdown --device cpu --data crystals.json --batch-size 2", "DGL", "nodebudget[dgl]"),
    ("dgl", "quickstart --device cpu -o out.json", "DGL", "nodebudget[dgl]"),
    ("lmdb", "measure cache --allow-pickle -o out.npz", "lmdb", "nodebudget[alignn]"),
    ("pyarrow", "measure sizes.csv -o out.parquet", "pyarrow", "nodebudget[parquet]"),
    ("pyarrow", "measure sizes.parquet -o out.npz", "pyarrow", "nodebudget[parquet]"),
    ("matplotlib", "compare sizes.csv sizes.csv --batch-size 8 --plot out.png", "matplotlib", "nodebudget[plot]"),
    ("matplotlib", "tune --device cpu --data d --calibration c --plot out.png", "matplotlib", "nodebudget[plot]"),
    ("distributed", "measure crystals.json --dask tcp://127.0.0.1:1 -o out.npz", "distributed", "nodebudget[dask]"),
    ("jinja2", "report sizes.csv -o out.html", "Jinja2", "nodebudget[report]"),
    ("yaml", "diagnose run.yaml run.yaml", "PyYAML", "pip install pyyaml"),
]


def only_without(module: str, extra: str) -> None:
    if is_there(module):
        pytest.skip(f"{module} is installed")
    assert extra.partition("[")[2].rstrip("]") not in PROMISED


@pytest.fixture
def folder(tmp_path, monkeypatch):
    write_crystals(tmp_path)
    some_sizes(20).save(tmp_path / "sizes.csv")
    (tmp_path / "graphs.bin").write_bytes(b"")
    (tmp_path / "sizes.parquet").write_bytes(b"")
    (tmp_path / "run.yaml").write_text("model: {name: alignn}\n")
    for name, file in (("cache", "data.mdb"), ("folder", "id_prop.csv")):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_text("POSCAR-1.vasp,0\n")
    (tmp_path / "folder" / "POSCAR-1.vasp").write_text("Si\n1.0\n4 0 0\n0 4 0\n0 0 4\nSi\n1\ndirect\n0 0 0\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("module", "command", "name", "extra"), COMMANDS, ids=lambda text: text.split(" -")[0])
def test_a_command_says_what_is_missing(module, command, name, extra, folder, capsys):
    only_without(module, extra)
    assert call(*command.split()) == 3
    said = capsys.readouterr()
    assert said.out == ""
    (sentence,) = said.err.strip().splitlines()
    assert sentence.startswith("nodebudget: ")
    assert name in sentence
    assert extra in sentence
    assert not list(folder.glob("out*"))


@pytest.mark.parametrize(
    ("module", "ask", "extra"),
    [
        ("dgl", load_dgl, "nodebudget[dgl]"),
        ("lightning", lambda: lightning_callback(MemoryMonitor(device="cpu")), "nodebudget[lightning]"),
        ("transformers", lambda: trainer_callback(MemoryMonitor(device="cpu")), "nodebudget[transformers]"),
        ("jarvis", lambda: measure(some_crystals()), "nodebudget[structures]"),
    ],
    ids=["dgl", "lightning", "transformers", "jarvis"],
)
def test_a_function_says_what_is_missing(module, ask, extra):
    only_without(module, extra)
    with pytest.raises(MissingError) as caught:
        ask()
    assert extra in str(caught.value)
    assert caught.value.exit_code == 3


def test_doctor_says_that_the_built_in_workload_would_not_run(capsys):
    only_without("alignn", "nodebudget[alignn]")
    assert call("doctor", "-q") == 3
    (sentence,) = capsys.readouterr().err.strip().splitlines()
    assert "'nodebudget calibrate' with the built-in workload would fail on" in sentence
