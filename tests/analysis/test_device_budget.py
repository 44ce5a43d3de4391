"""From a device's memory to a step's: line by line."""

import dataclasses
import json

import numpy as np
import pytest
from calibrations import fitted
from click.testing import CliRunner
from crystals import entries
from paths import FIXTURES

from nodebudget import Calibration
from nodebudget.analysis.allocator_overhead import planned_batches, step_model, with_overheads
from nodebudget.analysis.device_budget import ASSUMED_CONTEXT, MIN_OVERHEAD, SETTINGS, device_budget
from nodebudget.calibration.calibrate import CalibrationConfig, calibrate
from nodebudget.calibration.probe_candidates import ProbeCandidates
from nodebudget.cli import main
from nodebudget.datasets.measure import measure
from nodebudget.errors import DoesNotFitError
from nodebudget.profiling.open import open_probe
from nodebudget.workloads.registry import load_workload

GIB = 2**30


def known(**allocator):
    calibration = fitted()
    return dataclasses.replace(calibration, context={**calibration.context, "allocator": allocator})


def seen(allocated, reserved):
    return {"allocated": allocated, "reserved": reserved, "retries": 0, "how": "measured"}


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("capacity", [2 * GIB, 40 * GIB])
def test_the_lines_add_up_to_the_device(setting, capacity):
    budget = device_budget(capacity, fitted(), setting=setting)
    assert sum(count for _, count in budget.lines) + budget.memory == capacity
    assert budget.lines[0] == ("outside PyTorch (assumed: not measured)", ASSUMED_CONTEXT)
    assert all(count >= 0 for _, count in budget.lines)


def test_what_was_measured_goes_before_what_is_assumed():
    calibration = known(default=seen(GIB, 2 * GIB))
    first = calibration.observations[0]
    measured = dataclasses.replace(
        calibration, observations=(dataclasses.replace(first, outside=7 * 2**20), *calibration.observations)
    )
    budget = device_budget(40 * GIB, measured, setting="default")
    assert budget.lines[0] == ("outside PyTorch (as measured)", 7 * 2**20)
    assert budget.memory == pytest.approx(20 * GIB, rel=0.02)
    assert "expandable_segments:True would leave" in budget.advice


def test_the_overhead_is_never_under_what_a_full_device_was_seen_to_need():
    none = device_budget(40 * GIB, known(default=seen(GIB, GIB)), setting="default")
    assert none.memory == device_budget(40 * GIB, fitted(), setting="default").memory
    assert none.lines[1][1] == pytest.approx(MIN_OVERHEAD["default"][0] * none.memory, rel=0.01)


def test_a_device_of_which_nothing_is_left():
    with pytest.raises(DoesNotFitError, match="nothing of 500 MiB is left"):
        device_budget(500 * 2**20, fitted())


def test_a_planned_stretch_of_real_alignn_is_replayed():
    crystals = entries(most=6, count=40)
    sizes = measure(crystals)
    settings = {"hidden_features": 16, "alignn_layers": 1, "gcn_layers": 1}
    workload = load_workload("alignn", **settings)
    calibration = calibrate(workload, crystals, sizes, open_probe("cpu"), config=CalibrationConfig(12, 8))
    pool = ProbeCandidates(workload, crystals, sizes, np.random.default_rng(0))
    largest = int(calibration.bound.max_measured)
    batches = planned_batches(pool, calibration, largest)
    loads = [calibration.graph_bytes(sizes)[batch].sum() for batch in batches]
    assert loads == sorted(loads, reverse=True)
    assert step_model(load_workload("alignn", **settings), pool, batches, "cpu").events > 100
    record = with_overheads(calibration, load_workload("alignn", **settings), crystals, sizes, "cpu")
    for overhead in record.context["allocator"].values():
        assert 0 < overhead["requested"] < overhead["allocated"] <= overhead["reserved"]
        assert overhead["requested"] < overhead["least"] < 1.5 * overhead["reserved"]


def test_a_replayed_overhead_goes_before_what_is_assumed():
    replayed = {"requested": 10 * GIB, "allocated": 10 * GIB, "reserved": 15 * GIB, "how": "replayed"}
    for setting, share in (("default", 1.04), ("expandable", 1.02)):
        calibration = known(**{setting: {**replayed, "least": int(share * 10 * GIB)}})
        memory = device_budget(int(share * 10 * GIB), calibration, setting=setting, outside=0).memory
        # A little less than the steps that were replayed on that memory: other epochs have other batches.
        assert 0.97 * 10 * GIB < memory < 10 * GIB
        # Tensors of other sizes fit into segments in another way.
        other = device_budget(GIB, calibration, setting=setting, outside=0).memory
        assert other <= device_budget(GIB, fitted(), setting=setting, outside=0).memory


def test_the_command_plans_for_a_gpu_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.chdir(FIXTURES)
    data, out = tmp_path / "crystals.json", tmp_path / "cal.json"
    data.write_text(json.dumps(entries(most=12, count=60)))
    arguments = ["--device", "cpu", "--workload", "workloads:Linear", "--probes", "12", "--max-graphs", "8"]
    arguments += ["--data", str(data), "--predict-gpu", "40GiB", "-o", str(out), "--json"]
    result = CliRunner().invoke(main, ["calibrate", *arguments])
    assert result.exit_code == 0, result.stderr
    budgets = json.loads(result.stdout)["gpu_budget"]
    assert set(budgets) == set(SETTINGS)
    assert set(Calibration.load(out).context["allocator"]) == set(SETTINGS)
    plan = ["plan", str(data), "--calibration", str(out), "--capacity", "1GiB", "--json"]
    result = CliRunner().invoke(main, plan)
    assert result.exit_code == 0, result.stderr
    assert "left for a training step" in result.stderr
    assert json.loads(result.stdout)["batches"] == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["calibrate", "--gpu", "0", "--data", "x", "--predict-gpu", "40GiB"], "it goes with --device cpu"),
        (["calibrate", "--device", "cpu", "--data", "x", "--predict-gpu", "3 potatoes"], "3 potatoes"),
        (["plan", "x", "--capacity", "40GiB"], "--capacity goes with --calibration"),
    ],
)
def test_wrong_input(arguments, words):
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert words in result.stderr
