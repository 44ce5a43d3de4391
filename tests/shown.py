"""What a page shows, taken out of it and run.

Fenced blocks are run in the order of the page, in one folder:

- `python`, `toml`: written to the file that their first line names (`# train.py`); Python without a name, or with one
  that no command of the page mentions, is run as a script;
- `console`: each line after `$ ` is run, and what stands below it must be what it prints;
- others (`bash`, `text`) are shown only.

A comment before a block says what is special: `<!-- not run: why -->`, `<!-- needs: package -->` and
`<!-- exits with: 2 -->`.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import subprocess
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from nodebudget.cli import main

ROOT = Path(__file__).parents[1]

_BLOCK = re.compile(
    r"(?:^<!-- (?P<note>[^\n]*) -->\n)?^```(?P<language>\w+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)
_NAME = re.compile(r"# ([\w-]+\.(?:py|toml))$", re.MULTILINE)

#: Wide enough for every table.
ENVIRONMENT = {"DGLBACKEND": "pytorch", "COLUMNS": "120"}


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, and the comment before it."""

    language: str
    text: str
    note: str = ""

    @property
    def name(self) -> str:
        """The file that the first line names, or ""."""
        found = _NAME.match(self.text)
        return found[1] if found else ""

    @property
    def commands(self) -> list[tuple[str, str]]:
        """Each command of a console and what stands below it."""
        parts = re.split(r"^\$ ", self.text, flags=re.MULTILINE)[1:]
        return [(command, below) for command, _, below in (part.partition("\n") for part in parts)]


def blocks_of(page: Path) -> list[Block]:
    """Return the fenced blocks of a page."""
    return [Block(found["language"], found["text"], found["note"] or "") for found in _BLOCK.finditer(page.read_text())]


def run(command: list[str], folder: Path) -> str:
    """Run a command as its own process and return what it printed."""
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, env={**os.environ, **ENVIRONMENT}, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def run_page(page: Path, folder: Path) -> None:
    """Run the blocks of a page in a folder, which must be the current one."""
    blocks = [block for block in blocks_of(page) if not block.note.startswith("not run: ")]
    for package in (block.note.removeprefix("needs: ") for block in blocks if block.note.startswith("needs: ")):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    consoles = "".join(block.text for block in blocks if block.language == "console")
    for place, block in enumerate(blocks):
        if block.language in ("python", "toml") and block.name:
            (folder / block.name).write_text(block.text)
        if block.language == "python" and not _is_called(block, consoles):
            run_script(block, folder, block.name or f"block_{place}.py")
        elif block.language == "console":
            run_console(block, folder)


def _is_called(block: Block, consoles: str) -> bool:
    return bool(block.name) and re.search(rf"\b{block.name.removesuffix('.py')}\b", consoles) is not None


def run_script(block: Block, folder: Path, name: str) -> None:
    """Run a block of Python as a script."""
    (folder / name).write_text(block.text)
    run([sys.executable, name], folder)


def run_console(block: Block, folder: Path) -> None:
    """Run the commands of a console block, and hold what they print against what stands below them."""
    for command, below in block.commands:
        printed = run_command(on_this_machine(command), folder, expected=_exit_code(block))
        if below.strip():
            assert _lines(printed) == _lines(below), command


def _exit_code(block: Block) -> int:
    return int(block.note.removeprefix("exits with: ")) if block.note.startswith("exits with: ") else 0


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.strip().splitlines()]


def on_this_machine(command: str) -> list[str]:
    """Return the words of a command, for the CPU where there is no GPU."""
    if not torch.cuda.is_available():
        command = command.replace("--gpu 0", "--device cpu")
    return shlex.split(command)


def commands_in(page: Path) -> list[str]:
    """Return each `nodebudget …` that a page has as code, in blocks and in its text."""
    shown = [block.text for block in blocks_of(page) if block.language in ("console", "bash")]
    lines = "\n".join(shown).replace("\\\n", " ").splitlines()
    named = [line.partition("nodebudget ")[2] for line in lines if re.match(r"(\$ |.* -m )?nodebudget ", line)]
    return [*named, *re.findall(r"`nodebudget ([^`]+)`", _BLOCK.sub("", page.read_text()))]


def run_command(words: list[str], folder: Path, expected: int = 0) -> str:
    """Run `nodebudget …` in this process, which spares its imports, and `python …` in its own."""
    name, *arguments = words
    if name == "python":
        return run([sys.executable, *arguments], folder)
    assert name == "nodebudget", words
    with warnings.catch_warnings():
        # What other packages warn of is no error to the user of a command.
        warnings.simplefilter("ignore")
        result = CliRunner().invoke(main, arguments, prog_name="nodebudget", env=ENVIRONMENT)
    assert result.exit_code == expected, result.output
    return result.stdout
