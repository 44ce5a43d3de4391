"""The direction of flow: a module imports only from those above it, and importing nodebudget loads no framework."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "nodebudget"

# Each module may import those before it. Folders stand for all that is in them.
FLOW = [
    "errors",
    "units",
    "files",
    "mapped",
    "frameworks",
    "sizefiles",
    "sizes",
    "prototypes",
    "record",
    "measure",
    "workload",
    "probe",
    "uncertainty",
    "pieces",
    "costmodel",
    "fitting",
    "design",
    "pool",
    "prober",
    "journal",
    "calibrate",
    "applicable",
    "throughput",
    "packing",
    "budget",
    "oversized",
    "batches",
    "plan",
    "shared",
    "ranks",
    "epochs",
    "states",
    "planfile",
    "capacity",
    "sampler",
    "batcher",
    "monitor",
    "integrations",
    "totals",
    "causes",
    "compare",
    "risk",
    "suggest",
    "attribution",
    "breakdown",
    "tune",
    "diagnose",
    "experiment",
    "report",
    "quickstart",
    "doctor",
    "cli",
]

# The package itself holds the version and hands out public names lazily.
OPEN = {"nodebudget"}


def station(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def modules() -> list[Path]:
    return [path for path in sorted(ROOT.rglob("*.py")) if path.parent != ROOT or not path.name.startswith("__")]


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
        elif isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
    return found


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_imports_only_from_those_above_it(path):
    own = station(path)
    assert own in FLOW, f"{own} has no place in the flow"
    for name in imports(path):
        if name.startswith("nodebudget") and name not in OPEN:
            other = name.split(".")[1]
            assert FLOW.index(other) <= FLOW.index(own), f"{own} imports {name}, which comes after it"


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_frameworks_are_imported_by_their_one_place_alone(path):
    heavy = {
        "dgl",
        "alignn",
        "jarvis",
        "pymatgen",
        "vesin",
        "torch_geometric",
        "matplotlib",
        "lmdb",
        "pyarrow",
        "ase",
        "distributed",
    }
    assert not {name.split(".")[0] for name in imports(path)} & heavy


def test_packing_is_numpy_only():
    for path in (ROOT / "packing").rglob("*.py"):
        assert "torch" not in {name.split(".")[0] for name in imports(path)}


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_below_the_command_line_prints(path):
    calls = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    names = {call.id for call in calls if isinstance(call, ast.Name)}
    assert "print" not in names
    if station(path) != "cli":
        assert "echo" not in {call.attr for call in calls if isinstance(call, ast.Attribute)}


def test_importing_nodebudget_loads_neither_torch_nor_dgl():
    code = "import sys, nodebudget, nodebudget.cli; print(sorted({'torch', 'dgl', 'numpy'} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_public_names_are_there():
    import nodebudget

    for name in nodebudget.__all__:
        assert getattr(nodebudget, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = nodebudget.nonsense
