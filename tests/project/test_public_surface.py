"""README and documentation import only public names: those of `nodebudget` and `nodebudget.integrations`."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from paths import ROOT
from shown import blocks_of

import nodebudget
import nodebudget.integrations

PUBLIC = {"nodebudget": set(nodebudget.__all__), "nodebudget.integrations": set(nodebudget.integrations.__all__)}
PAGES = [ROOT / "README.md", *sorted(path for path in (ROOT / "docs").rglob("*.md") if "_build" not in path.parts)]
REFERENCE = sorted((ROOT / "docs" / "reference").glob("*.md"))


def _imports(page: Path) -> set[tuple[str, str]]:
    """Return module and name of each import from nodebudget in the code of a page."""
    code = "\n".join(block.text for block in blocks_of(page))
    lines = re.findall(r"^ *((?:from|import) +nodebudget\b.*)$", code, re.MULTILINE)
    names: set[tuple[str, str]] = set()
    for node in ast.walk(ast.parse("\n".join(lines))):
        if isinstance(node, ast.ImportFrom):
            names |= {(node.module or "", alias.name) for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {(alias.name, "") for alias in node.names}
    return names


def test_pages_import_public_names_only() -> None:
    seen = {(page, module, name) for page in PAGES for module, name in _imports(page)}
    assert len(seen) > 20
    private = [
        f"{page.relative_to(ROOT)}: {module} {name}"
        for page, module, name in sorted(seen)
        if module not in PUBLIC or (name and name not in PUBLIC[module])
    ]
    assert private == []
