"""The page that answers each row of the guide: its files are made, and its commands run."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import warnings

import pytest
import torch
from click.testing import CliRunner
from paths import ROOT

from nodebudget.cli import main

pytestmark = pytest.mark.slow

PAGE = (ROOT / "docs" / "guide-rows.md").read_text()
FILES = dict(re.findall(r"```(?:python|toml)\n# ([\w.]+)\n(.*?)```", PAGE, flags=re.DOTALL))
ROWS = [line for line in PAGE.splitlines() if line.startswith("| ")][2:]
COMMANDS = list(dict.fromkeys(re.findall(r"`((?:nodebudget|python) [^`]+)`", "\n".join(ROWS))))

#: Tests of their own run the first; the second goes on until it is interrupted.
LONG = ("python scripts/studies/data_loading", "nodebudget monitor run.jsonl --follow")

#: What has to be there before a command.
FIRST = ["nodebudget calibrate", "python"]

SAID = {
    "nodebudget compare hse.npz dft_3d.npz --batch-size 64": ["2,240", "26,880", "322,560", "184,320", "-42.9%"],
    "nodebudget suggest --reference 35 --batch-size 64 --target 20": ["Use batch size 112"],
    "nodebudget diagnose a.json b.json": ["None of the differences affects device memory"],
    "nodebudget diagnose a.json b.json --data-a large.json": ["host memory", "+"],
    "python graphs.py": ["loaded graphs are on {'cpu'}", "by a DataLoader: False"],
    "nodebudget monitor run.jsonl": ["measured peak", "predicted peak"],
}


def python(folder, *arguments):
    environment = {**os.environ, "DGLBACKEND": "pytorch"}
    done = subprocess.run([sys.executable, *arguments], cwd=folder, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def run(folder, command):
    name, *arguments = shlex.split(command if torch.cuda.is_available() else command.replace("--gpu 0", "--device cpu"))
    if name == "python":
        return python(folder, *arguments)
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        patch.chdir(folder)
        warnings.simplefilter("ignore")
        result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture(scope="module")
def printed(tmp_path_factory):
    """Command → what it printed, on fewer crystals than the page has."""
    folder = tmp_path_factory.mktemp("rows")
    for name, text in FILES.items():
        (folder / name).write_text(text.replace("limit=40", "limit=16"))
    python(folder, "make_data.py")
    order = sorted(COMMANDS, key=lambda command: [not command.startswith(words) for words in FIRST])
    return {command: run(folder, command) for command in order if command not in LONG}


def test_every_row_is_answered_by_something_that_runs(printed):
    assert len(ROWS) == 17
    for row in ROWS:
        cells = row.split(" | ")
        assert len(cells) == 4, row
        assert re.search(r"`(nodebudget|python)[^`]+`|the same|\[\]\(", cells[2]), row
        assert cells[3].strip(" |"), row
    assert set(LONG) < set(COMMANDS)
    assert all(text for command, text in printed.items() if command.startswith("nodebudget"))


@pytest.mark.parametrize("command", SAID)
def test_what_the_page_quotes_is_said(printed, command):
    for words in SAID[command]:
        assert words in printed[command]


def test_the_line_graph_has_twelve_times_the_edges_and_the_batch_has_the_memory(printed):
    text = printed["nodebudget compare hse.npz dft_3d.npz --batch-size 64 --calibration calibration.json"]
    change = re.search(r"dft_3d: (-[\d.]+)% predicted bytes", text)
    assert change is not None
    assert -43 < float(change[1]) < -42
