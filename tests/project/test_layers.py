"""Rooms and floors: each room imports only those below it, and importing nodebudget loads no framework."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from paths import ROOT

PACKAGE = ROOT / "nodebudget"

#: From the bottom up: each room may import those before it.
ROOMS = (
    "errors",
    "utils",
    "datasets",
    "workloads",
    "profiling",
    "calibration",
    "sampling",
    "monitor",
    "analysis",
    "integrations",
    "report",
    "cli",
)
#: What each package may be imported by: one file of the package alone, so that one place says what is missing.
ONE_PLACE = {
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
#: The package itself holds the public names, and hands them out on first use.
TOP = PACKAGE / "__init__.py"

FILES = [path for path in sorted(PACKAGE.rglob("*.py")) if path not in (TOP, PACKAGE / "__main__.py")]
BY_NAME = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in FILES}


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[str]:
    """Yield each imported module, those under TYPE_CHECKING and those named in strings as well."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the room"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            if node.value.startswith("nodebudget.") and node.value in BY_NAME:
                yield node.value


def files_imported(path: Path) -> set[Path]:
    found = {BY_NAME[name] for name in imports(path) if name in BY_NAME}
    return found - {path}


def test_the_rooms_are_these_twelve():
    there = {path.name.removesuffix(".py") for path in PACKAGE.iterdir() if not path.name.startswith("__")}
    assert there - {"py.typed", "schemas"} == set(ROOMS)
    for room in ROOMS[1:]:
        assert ast.get_docstring(ast.parse((PACKAGE / room / "__init__.py").read_text())), (
            f"{room} does not say its job"
        )


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_room_imports_only_rooms_below_it(path):
    own = ROOMS.index(room_of(path))
    for other in files_imported(path):
        assert ROOMS.index(room_of(other)) <= own, f"{path} imports {other}, which is above it"
    if "import_module" in path.read_text() and path.name != "optional_imports.py":
        assert path == PACKAGE / "cli" / "__init__.py", f"{path} imports modules by name"
    tops = {name for name in imports(path) if name == "nodebudget"}
    assert not tops, f"{path} imports the top of the package, which imports everything"


def test_no_files_import_each_other_in_a_circle():
    arrows = {path: files_imported(path) for path in FILES}
    done: set[Path] = set()

    def visit(path: Path, way: tuple[Path, ...]) -> None:
        assert path not in way, " -> ".join(str(step.relative_to(ROOT)) for step in (*way[way.index(path) :], path))
        if path not in done:
            for other in sorted(arrows[path]):
                visit(other, (*way, path))
            done.add(path)

    for path in FILES:
        visit(path, ())


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_frameworks_are_imported_by_their_one_place_alone(path):
    assert not {name.split(".")[0] for name in imports(path)} & ONE_PLACE


@pytest.mark.parametrize("folder", ["sampling/packing", "utils", "report"])
def test_rooms_that_do_without_torch(folder):
    for path in (PACKAGE / folder).rglob("*.py"):
        tree = ast.parse(path.read_text())
        names = {alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names}
        names |= {node.module or "" for node in tree.body if isinstance(node, ast.ImportFrom)}
        assert "torch" not in {name.split(".")[0] for name in names}, f"{path} imports torch when it is imported"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_below_the_command_line_prints(path):
    calls = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    names = {call.id for call in calls if isinstance(call, ast.Name)}
    assert "print" not in names
    if room_of(path) != "cli":
        assert "echo" not in {call.attr for call in calls if isinstance(call, ast.Attribute)}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_functions_and_signatures_stay_small(path):
    text = path.read_text()
    assert text.count("\n") <= 320, f"{path} has {text.count(chr(10))} lines: is it one job?"
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        where = f"{path.relative_to(PACKAGE)}:{node.lineno} {node.name}"
        docstring = node.body[0] if ast.get_docstring(node) else None
        length = (node.end_lineno or 0) - node.lineno + 1
        length -= 0 if docstring is None else (docstring.end_lineno or 0) - docstring.lineno + 1
        assert length <= 60, f"{where} has {length} lines"
        count = len([*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs])
        # A sampler takes each budget by a keyword of its own; click hands each option over likewise.
        free = room_of(path) == "cli" or path.name in ("sampler.py", "stream_batcher.py", "budget.py")
        assert free or count <= 11, f"{where} takes {count} arguments"


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
