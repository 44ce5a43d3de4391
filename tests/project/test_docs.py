"""What the documentation shows is run, and what it names exists."""

from __future__ import annotations

import json
import re

import click
import pytest
from crystals import entries
from paths import ROOT
from shown import commands_in, folder_of_a_page, run_page

from nodebudget.cli import main
from nodebudget.errors import NodeBudgetError

DOCS = ROOT / "docs"
PAGES = sorted(page for page in DOCS.rglob("*.md") if "_build" not in page.parts)
#: Pages whose examples are run: in the others, figures come from machines and data of their own.
RUN = [page for page in PAGES if page.parent.name == "howto" or page.name in ("index.md", "tutorial.md")]


def name_of(page):
    return str(page.relative_to(ROOT))


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "crystals.json").write_text(json.dumps(entries(most=4, count=40)))
    with folder_of_a_page(tmp_path):
        yield tmp_path


#: Pages that train for longest; what they show has tests of its own (test_readme, test_elastic_ddp, test_text).
LONG = {"docs/tutorial.md", "docs/howto/ddp.md", "docs/howto/resuming.md", "docs/howto/text.md"}


def marked(page):
    return pytest.param(page, marks=pytest.mark.slow) if name_of(page) in LONG else page


@pytest.mark.parametrize("page", [marked(page) for page in RUN], ids=name_of)
def test_the_examples_of_a_page_run(page, folder):
    run_page(page, folder)


def options_of(command):
    return {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md"], ids=name_of)
def test_commands_and_options_that_a_page_names_exist(page):
    context = click.Context(main)
    for text in commands_in(page):
        name, *words = text.split()
        command = main.get_command(context, name)
        assert command is not None, f"nodebudget {text}"
        named = {word.partition("=")[0] for word in words if re.match(r"--?[a-zA-Z]", word)}
        assert named <= {*options_of(command), "--help", "-h"}, f"nodebudget {text}"


def test_files_of_the_repository_that_a_page_names_exist():
    named = [
        (page, head + part + tail)
        for page in (*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md")
        # with one list in braces, as the shell expands it: tests/utils/test_{one,two}.py
        for head, parts, tail in re.findall(
            r"\b((?:nodebudget|tests|scripts|configs)/[\w./-]*\w)(?:\{([\w,]+)\}([\w.]+))?", page.read_text()
        )
        for part in parts.split(",")
    ]
    assert len(named) > 50
    assert [f"{name_of(page)}: {name}" for page, name in named if not (ROOT / name).exists()] == []


def test_files_and_exit_codes_are_those_of_the_package():
    required = json.loads((ROOT / "nodebudget" / "schemas" / "calibration.json").read_text())["required"]
    table = (DOCS / "reference" / "files.md").read_text()
    assert [key for key in required if f"`{key}`" not in table] == []
    codes = (DOCS / "reference" / "errors.md").read_text()
    for kind in (NodeBudgetError, *NodeBudgetError.__subclasses__()):
        assert re.search(rf"\| {kind.exit_code} \|.*`{kind.__name__}`", codes), kind
