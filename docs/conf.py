"""How the documentation is built: `bash scripts/docs.sh`. Nothing is fetched while it is."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
# Before DGL is imported anywhere: without it, it asks for a backend and writes into the home folder.
os.environ.setdefault("DGLBACKEND", "pytorch")

from docutils import nodes
from sphinx.domains.python import PyObject, PyXRefRole

import nodebudget

project = "nodebudget"
author = "the nodebudget authors"
release = version = nodebudget.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx_click",
]
exclude_patterns = ["_build"]
myst_heading_anchors = 3
# Options keep their two dashes.
smartquotes = False

html_theme = "furo"
html_title = "nodebudget"
html_static_path = ["_static"]
html_css_files = ["wide.css"]
html_show_copyright = html_show_sphinx = False
pygments_style, pygments_dark_style = "default", "github-dark"

autoclass_content = "both"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
# Classes that public functions return are documented too; their modules are internal.
add_module_names = False
maximum_signature_line_length = 80
napoleon_google_docstring, napoleon_numpy_docstring = True, False
napoleon_use_ivar, napoleon_attr_annotations = True, False
autosummary_generate = False

# Docstrings write code in single backticks: names of this package become links, all else stays code.
default_role = "code_or_link"
nitpicky = True
# What other packages document, and inventories of theirs would have to be fetched; names in docstrings that are not
# of this package.
nitpick_ignore_regex = [
    (r"py:.*", r"(torch|numpy|np|npt|collections|concurrent|pathlib|os|typing|types|click|abc)\..*"),
    (r"py:obj", r".*"),
    # A type variable, what is only ever entered, and the name of a kind of function.
    (r"py:class", r"(nodebudget\.(monitor\.monitor\.T|monitor\.step\.Step|integrations\.run_steps\.T)|Collate)"),
]

# A class, or a name of several words: single words such as `graphs` mean too many things to be linked.
_LINKED = re.compile(r"[A-Z]\w*|[A-Za-z_]\w*([._][A-Za-z]\w*)+")

for field in PyObject.doc_field_types:
    if field.name == "variable":
        field.label = "Attributes"


def code_or_link(
    name: str, rawtext: str, text: str, lineno: int, inliner: Any, options: Any = None, content: Any = ()
) -> Any:
    """Link a name where it is documented here; show everything else as code."""
    if _LINKED.fullmatch(text):
        return PyXRefRole()("py:obj", rawtext, text, lineno, inliner, options or {}, content)
    return [nodes.literal(rawtext, text.replace("\x00", "\\"))], []


def find_by_last_name(app: Any, env: Any, node: Any, contnode: Any) -> Any:
    """Resolve a name without its module, as docstrings and postponed annotations have it, where it is clear."""
    if node.get("refdomain") != "py" or not node["reftarget"]:
        return None
    domain = env.domains.python_domain
    # Aliases are the same object under its longer name.
    ending = f".{node['reftarget']}"
    names = [name for name, entry in domain.objects.items() if name.endswith(ending) and not entry.aliased]
    if len(names) != 1:
        return None
    return domain.resolve_xref(env, node["refdoc"], app.builder, node["reftype"], names[0], node, contnode)


def tidy_signature(app: Any, what: str, name: str, obj: Any, options: Any, signature: str, returns: str) -> Any:
    """Leave out what protocols are never called with; write defaults of dataclasses so that Sphinx can read them."""
    if signature == "(*args, **kwargs)":
        return "", returns
    return (signature.replace("<factory>", "...") if signature else signature), returns


def examples_as_code(app: Any, context: Any, lines: list[str]) -> None:
    """Show the example of a command as code."""
    text = "\n".join(lines).replace("| Example:", "Example::\n")
    lines[:] = re.sub(r"^\|   (?=nodebudget)", "    ", text, flags=re.MULTILINE).split("\n")


def dashes(app: Any, doctree: Any) -> None:
    """Set the dash that Sphinx puts between a field and its text."""
    for node in list(doctree.findall(nodes.Text)):
        if node == " -- ":
            node.parent.replace(node, nodes.Text(" \N{EN DASH} "))


def setup(app: Any) -> None:
    """Add the role of single backticks, and what makes generated pages readable."""
    app.add_role("code_or_link", code_or_link)
    app.connect("autodoc-process-signature", tidy_signature)
    app.connect("doctree-read", dashes)
    app.connect("missing-reference", find_by_last_name)
    app.connect("sphinx-click-process-description", examples_as_code)
