"""Pages and docstrings import only public names: those of `nodebudget` and `nodebudget.integrations`."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from draw_architecture import FILES, tree_of
from paths import ROOT
from shown import blocks_of

import nodebudget
import nodebudget.integrations

PUBLIC = {"nodebudget": set(nodebudget.__all__), "nodebudget.integrations": set(nodebudget.integrations.__all__)}
PAGES = [ROOT / "README.md", *sorted(path for path in (ROOT / "docs").rglob("*.md") if "_build" not in path.parts)]
REFERENCE = "\n".join(page.read_text() for page in sorted((ROOT / "docs" / "reference").glob("*.md")))


def imports_in(code: str) -> set[tuple[str, str]]:
    """Return module and name of each import from nodebudget."""
    lines = re.findall(r"^ *((?:from|import) +nodebudget\b.*)$", code, re.MULTILINE)
    names: set[tuple[str, str]] = set()
    for node in ast.walk(ast.parse("\n".join(lines))):
        if isinstance(node, ast.ImportFrom):
            names |= {(node.module or "", alias.name) for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {(alias.name, "") for alias in node.names}
    return names


def is_public(module: str, name: str) -> bool:
    return module in PUBLIC and (not name or name in PUBLIC[module])


def private(code: str, where: Path) -> list[str]:
    return [f"{where.relative_to(ROOT)}: {' '.join(entry)}" for entry in imports_in(code) if not is_public(*entry)]


def test_pages_import_public_names_only() -> None:
    code = {page: "\n".join(block.text for block in blocks_of(page)) for page in PAGES}
    assert sum(len(imports_in(text)) for text in code.values()) > 20
    assert [line for page, text in code.items() for line in private(text, page)] == []


def test_docstrings_import_public_names_only() -> None:
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
    docstrings = [
        (path, ast.get_docstring(node) or "")
        for path in FILES
        for node in ast.walk(tree_of(path))
        if isinstance(node, kinds)
    ]
    assert [line for path, text in docstrings for line in private(text, path)] == []


def test_the_reference_has_every_public_name_and_public_functions_only() -> None:
    functions = set(re.findall(r"\.\. autofunction:: (\S+)", REFERENCE))
    documented = functions | set(re.findall(r"\.\. auto(?:class|exception):: (\S+)", REFERENCE))
    public = {f"{module}.{name}" for module, names in PUBLIC.items() for name in names} - {"nodebudget.__version__"}
    assert public - documented == set()
    assert functions - public == set()


def test_names_are_found_on_first_use() -> None:
    assert [name for name in nodebudget.__all__ if getattr(nodebudget, name) is None] == []
    assert dir(nodebudget) == sorted(nodebudget.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = nodebudget.nonsense
