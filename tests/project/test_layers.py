"""Layers of the package: each imports only those below it, and importing nodebudget loads no framework."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from draw_architecture import (
    FILES,
    LAYERS,
    PACKAGE,
    PICTURE,
    graph,
    graph_in,
    imported_files,
    imported_names,
    layer_of,
    tree_of,
)

#: Each of these packages is imported by one function of utils/optional_imports.py, which says what is missing.
OPTIONAL = {
    *("dgl", "alignn", "jarvis", "pymatgen", "vesin", "torch_geometric"),
    *("matplotlib", "lmdb", "pyarrow", "ase", "distributed"),
}


def in_package(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def refuse(offenders: list[str]) -> None:
    """Fail with one offender per line."""
    assert not offenders, "\n" + "\n".join(offenders)


def calls_in(path: Path) -> set[str]:
    """Return the names of the functions that a file calls, and of the methods with a dot before them."""
    calls = [node.func for node in ast.walk(tree_of(path)) if isinstance(node, ast.Call)]
    names = {call.id for call in calls if isinstance(call, ast.Name)}
    return names | {f".{call.attr}" for call in calls if isinstance(call, ast.Attribute)}


def test_the_rooms_are_these_twelve() -> None:
    names = {path.name.removesuffix(".py") for path in PACKAGE.iterdir() if not path.name.startswith("__")}
    assert names - {"py.typed", "schemas"} == set(LAYERS)
    without_docstring = [
        in_package(path) for path in FILES if path.name == "__init__.py" and not ast.get_docstring(tree_of(path))
    ]
    refuse(without_docstring)


def test_a_room_imports_only_rooms_below_it() -> None:
    upward = [
        f"{in_package(path)} imports {in_package(other)}"
        for path in FILES
        for other in imported_files(path)
        if LAYERS.index(layer_of(other)) < LAYERS.index(layer_of(path))
    ]
    refuse(upward)


def test_no_file_imports_the_top_of_the_package_or_modules_by_name() -> None:
    imports_top = [in_package(path) for path in FILES if "nodebudget" in imported_names(path)]
    relative = [in_package(path) for path in FILES if any(name.startswith(".") for name in imported_names(path))]
    # Commands are imported when they are called; optional packages and the user's workloads, in one place each.
    by_name = {in_package(path) for path in FILES if {"import_module", ".import_module"} & calls_in(path)}
    by_name -= {"cli/__init__.py", "utils/optional_imports.py", "workloads/registry.py"}
    refuse([f"{name} imports the top of the package" for name in imports_top])
    refuse([f"{name} has a relative import, which hides the layer" for name in relative])
    refuse([f"{name} imports modules by name" for name in by_name])


def circles() -> Iterator[str]:
    arrows = {path: sorted(imported_files(path)) for path in FILES}
    done: set[Path] = set()

    def visit(path: Path, way: tuple[Path, ...]) -> Iterator[str]:
        if path in way:
            yield " -> ".join(in_package(step) for step in (*way[way.index(path) :], path))
        elif path not in done:
            for other in arrows[path]:
                yield from visit(other, (*way, path))
            done.add(path)

    for path in FILES:
        yield from visit(path, ())


def test_no_files_import_each_other_in_a_circle() -> None:
    refuse(list(circles()))


def test_frameworks_are_imported_in_one_place() -> None:
    direct = [
        f"{in_package(path)} imports {name}"
        for path in FILES
        for name in imported_names(path)
        if name.split(".")[0] in OPTIONAL
    ]
    refuse(direct)


def test_rooms_that_do_without_torch() -> None:
    with_torch = []
    for path in FILES:
        if in_package(path).startswith(("sampling/packing/", "utils/", "report/")):
            names = [alias.name for node in tree_of(path).body if isinstance(node, ast.Import) for alias in node.names]
            names += [node.module or "" for node in tree_of(path).body if isinstance(node, ast.ImportFrom)]
            with_torch += [in_package(path) for name in names if name.split(".")[0] == "torch"]
    refuse(with_torch)


def test_nothing_below_the_command_line_prints() -> None:
    prints = [in_package(path) for path in FILES if "print" in calls_in(path)]
    prints += [in_package(path) for path in FILES if ".echo" in calls_in(path) and layer_of(path) != "cli"]
    refuse(prints)


def too_large(path: Path) -> Iterator[str]:
    lines = path.read_text().count("\n")
    if lines > 320:
        yield f"{in_package(path)} has {lines} lines: is it one job?"
    for node in ast.walk(tree_of(path)):
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        where = f"{in_package(path)}:{node.lineno} {node.name}"
        docstring = node.body[0] if ast.get_docstring(node) else None
        length = (node.end_lineno or 0) - node.lineno + 1
        length -= 0 if docstring is None else (docstring.end_lineno or 0) - docstring.lineno + 1
        if length > 60:
            yield f"{where} has {length} lines"
        arguments = [argument.arg for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
        count = len(arguments) - (arguments[:1] == ["self"])
        # A sampler takes each budget by a keyword of its own; click hands each option over likewise.
        if count > 10 and layer_of(path) != "cli" and path.name not in ("sampler.py", "stream_batcher.py", "budget.py"):
            yield f"{where} takes {count} arguments"


def test_files_functions_and_signatures_stay_small() -> None:
    refuse([message for path in FILES for message in too_large(path)])


def test_the_picture_of_the_architecture_shows_the_imports_of_today() -> None:
    assert graph_in(PICTURE) == graph(), "run: python scripts/draw_architecture.py"


def test_importing_nodebudget_loads_neither_torch_nor_dgl() -> None:
    code = "import sys, nodebudget, nodebudget.cli; print(sorted({'torch', 'dgl', 'numpy'} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
