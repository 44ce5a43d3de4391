"""What the README shows is run: each Python block and each command."""

import json

import pytest
import torch
from crystals import entries
from paths import ROOT
from shown import blocks_of, folder_of_a_page, on_this_machine, run_command, run_script

BLOCKS = blocks_of(ROOT / "README.md")
SCRIPTS = [block.text for block in BLOCKS if block.language == "python"]
COMMANDS = [command for block in BLOCKS if block.language == "console" for command, _ in block.commands]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("readme")
    (place / "crystals.json").write_text(json.dumps(entries(most=4, count=40)))
    with folder_of_a_page(place):
        yield place


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.strip().splitlines()[0][:40])
def test_a_script_runs(script, folder):
    (folder / "script.py").write_text(script)
    names, _ = run_script("script.py")
    if "step" in names:
        assert sorted(row for batch in names["loader"].batch_sampler for row in batch) == list(range(40))
    if "sampler" in names:
        assert sum(map(len, names["sampler"])) == 40
        assert len(names["loader"]) == len(names["sampler"])


def test_the_first_example_gets_its_budget_by_one_line():
    script = SCRIPTS[0]
    [line] = [line for line in script.splitlines() if "auto_loader(" in line]
    assert line.startswith("loader = auto_loader(loader, step, model=model, optimizer=optimizer")


def test_the_commands_run_in_their_order(folder):
    assert len(COMMANDS) == 3
    for command in COMMANDS:
        words = on_this_machine(command)
        if "calibrate" in command and not torch.cuda.is_available():
            words += ["--probes", "10", "--max-graphs", "2"]  # at full width a CPU takes minutes for all
        out = run_command(words)
        if "suggest" in command:
            assert "Use batch size 112" in out


def test_the_users_workload_can_be_calibrated(folder):
    [script] = [script for script in SCRIPTS if "class Mine" in script]
    (folder / "my_own.py").write_text(script)
    words = ["nodebudget", "calibrate", "--device", "cpu", "--workload", "my_own:Mine", "--data", "crystals.json"]
    record = json.loads(run_command([*words, "--probes", "12", "--json"]))
    assert record["coefficients"]["per_node"] > 0
