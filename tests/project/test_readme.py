"""What the README shows is run: each Python block and each command."""

import json
import re
import sys

import pytest
import torch
from crystals import entries
from paths import ROOT
from shown import blocks_of, on_this_machine, run

BLOCKS = blocks_of(ROOT / "README.md")
SCRIPTS = [block.text for block in BLOCKS if block.language == "python"]
COMMANDS = [command for block in BLOCKS if block.language == "console" for command, _ in block.commands]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("readme")
    (place / "crystals.json").write_text(json.dumps(entries(most=4, count=40)))
    return place


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.strip().splitlines()[0][:40])
def test_a_script_runs(script, folder):
    (folder / "my_module.py").write_text(script)
    run([sys.executable, "my_module.py"], folder)


def test_the_training_script_uses_the_sampler_in_place_of_a_batch_size(folder):
    script = next(script for script in SCRIPTS if "ALIGNN(" in script)
    assert "batch_size" not in re.sub(r"#.*", "", script)
    check = "\nassert sum(len(b) for b in sampler) == len(crystals) and len(loader) == len(sampler) > 1"
    (folder / "whole.py").write_text(script + check)
    run([sys.executable, "whole.py"], folder)


def test_the_commands_run_in_their_order(folder):
    assert len(COMMANDS) == 3
    for command in COMMANDS:
        name, *arguments = on_this_machine(command)
        if "calibrate" in command and not torch.cuda.is_available():
            arguments += ["--probes", "12", "--max-graphs", "8"]  # at full width a processor takes minutes for all
        out = run([sys.executable, "-m", name, *arguments], folder)
        if "suggest" in command:
            assert "Use batch size 112" in out


def test_the_users_workload_can_be_calibrated(folder):
    script = next(script for script in SCRIPTS if "class Mine" in script)
    (folder / "my_own.py").write_text(script)
    arguments = ["calibrate", "--device", "cpu", "--workload", "my_own:Mine", "--data", "crystals.json", "--json"]
    arguments += ["--probes", "12"]
    record = json.loads(run([sys.executable, "-m", "nodebudget", *arguments], folder))
    assert record["coefficients"]["per_node"] > 0
