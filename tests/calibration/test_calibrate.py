"""Calibrating: with a script, and for real."""

import gc
import json
import subprocess
import sys
import weakref

import pytest
import torch
from click.testing import CliRunner
from paths import FIXTURES
from scripted_probe import CONFIG, CRYSTALS, SIZES, Counting, LinearProbe, scripted
from workloads import Linear

from nodebudget import Calibration
from nodebudget.calibration.calibrate import CalibrationConfig, calibrate
from nodebudget.calibration.memory_model import SCHEMA_VERSION
from nodebudget.calibration.probe_design import lightest_batch
from nodebudget.cli import main
from nodebudget.errors import DoesNotFitError, InputError, WorkloadError
from nodebudget.profiling.open import open_probe
from nodebudget.workloads.registry import load_workload


def test_a_scripted_cost_is_found():
    workload, probe = scripted()
    calibration = calibrate(workload, CRYSTALS, SIZES, probe, config=CONFIG)
    assert calibration.predict_bytes(**SIZES.totals([0, 1, 2])) == pytest.approx(
        1e6 * SIZES.totals([0, 1, 2])["nodes"], rel=0.05
    )
    assert calibration.holdout.n == 4
    assert len(calibration.observations) == 12
    assert calibration.context["model"]["parameters"] == 16
    assert calibration.context["data"]["fingerprint"] == SIZES.fingerprint()


def test_probes_grow_and_everything_is_released():
    workload, probe = scripted()
    seen = []
    calibrate(workload, CRYSTALS, SIZES, probe, config=CONFIG, progress=lambda done, total: seen.append((done, total)))
    assert probe.released == 12
    assert seen == [(done, 12) for done in range(1, 13)]
    assert max(probe.tried) in probe.tried[-3:]


def test_the_lightest_batch_warms_up_twice_before_the_first_probe():
    workload, probe = scripted()
    calibrate(workload, CRYSTALS, SIZES, probe, config=CONFIG)
    lightest = SIZES.totals(lightest_batch(SIZES))["nodes"]
    assert probe.tried[0] == probe.tried[1] == probe.tried[2] == lightest


def test_probes_that_would_not_fit_are_not_tried():
    workload, probe = scripted(free=60_000_000)
    calibration = calibrate(workload, CRYSTALS, SIZES, probe, config=CalibrationConfig(probes=30, max_graphs=8))
    assert max(probe.tried) * 10**6 <= 1.3 * 0.8 * 60_000_000
    assert len(calibration.observations) < 30


def test_what_every_step_takes_does_not_count_as_what_more_graphs_take():
    """A GPU's optimizer takes megabytes for a step on two atoms: that is no reason to refuse one on a thousand."""
    workload, probe = scripted(constant=50_000_000, free=500_000_000)
    calibration = calibrate(workload, CRYSTALS, SIZES, probe, config=CalibrationConfig(probes=30, max_graphs=8))
    assert len(calibration.observations) == 30
    assert max(probe.tried) * 10**6 > 0.1 * 500_000_000


def test_running_out_of_memory_is_recorded_and_nothing_larger_is_tried():
    workload, probe = scripted(limit=50_000_000)
    calibration = calibrate(workload, CRYSTALS, SIZES, probe, config=CalibrationConfig(probes=30, max_graphs=8))
    lost = [entry for entry in calibration.observations if entry.role == "out-of-memory"]
    assert lost
    assert all(nodes * 10**6 <= 50_000_000 for nodes in probe.tried[: -len(lost)])
    assert calibration.predict_bytes(**SIZES.totals([0, 1, 2])) == pytest.approx(
        1e6 * SIZES.totals([0, 1, 2])["nodes"], rel=0.05
    )


class Cycle:
    """Garbage that only a collection finds."""

    def __init__(self):
        self.me = self


def test_cycles_that_a_step_leaves_are_gone_before_the_next():
    workload = Counting(torch.device("cpu"))
    left, made = [], []

    class Littering(LinearProbe):
        def release(self):
            gc.collect()  # as every device's probe does

        def measure(self, run):
            left.append(sum(reference() is not None for reference in made))
            cycle = Cycle()
            made.append(weakref.ref(cycle))
            del cycle
            return super().measure(run)

    gc.disable()  # so that nobody else collects them
    try:
        calibrate(workload, CRYSTALS, SIZES, Littering(workload), config=CONFIG)
    finally:
        gc.enable()
    # The two steps that warm up are not followed by a release.
    assert left[:3] == [0, 1, 2]
    assert set(left[4:]) == {0}


@pytest.mark.parametrize("frozen", [False, True])
def test_what_the_caller_froze_stays_frozen(frozen):
    workload, probe = scripted()
    if frozen:
        gc.freeze()
    before = gc.get_freeze_count()
    try:
        calibrate(workload, CRYSTALS, SIZES, probe, config=CONFIG)
        assert (gc.get_freeze_count() > 0) is frozen
        assert before == 0 or gc.get_freeze_count() > 0.9 * before
    finally:
        gc.unfreeze()


def test_not_even_the_smallest_step_fits():
    workload, probe = scripted(limit=0)
    with pytest.raises(DoesNotFitError, match="not even a training step on crystals AFLOW-"):
        calibrate(workload, CRYSTALS, SIZES, probe, config=CONFIG)


def test_too_few_probes_fit():
    workload, probe = scripted(limit=5_000_000)
    with pytest.raises(InputError, match="do not determine"):
        calibrate(workload, CRYSTALS, SIZES, probe, config=CONFIG)


def test_a_step_that_raises_is_blamed_with_its_crystals():
    workload = Linear(torch.device("cpu"), fail_over=5)
    words = r"a training step on crystals? AFLOW.* raised ValueError: the label is missing;"
    with pytest.raises(WorkloadError, match=words):
        calibrate(workload, CRYSTALS, SIZES, open_probe("cpu"), config=CONFIG)


def test_sizes_of_another_dataset_are_refused():
    workload, probe = scripted()
    with pytest.raises(InputError, match="60 sizes for a dataset of 59"):
        calibrate(workload, CRYSTALS[:-1], SIZES, probe, config=CONFIG)


@pytest.mark.parametrize("wrong", [{"probes": 3}, {"probes": 10**6}, {"max_graphs": 0}])
def test_absurd_efforts_are_refused(wrong):
    with pytest.raises(InputError):
        CalibrationConfig(**wrong)


def test_real_alignn_is_predicted_within_half_a_percent():
    workload = load_workload("alignn", hidden_features=16, alignn_layers=2, gcn_layers=2)
    calibration = calibrate(
        workload, CRYSTALS, SIZES, open_probe("cpu"), config=CalibrationConfig(probes=18, max_graphs=8)
    )
    assert calibration.holdout.n == 6
    assert calibration.holdout.mape <= 0.005
    assert calibration.holdout.max_under <= 0.01
    # The line graph holds most of the memory: the reason for its column.
    cost = {name: calibration.coefficient(name) * SIZES[name].sum() for name in ("nodes", "edges", "line_edges")}
    assert cost["line_edges"] > 0.5 * sum(cost.values())


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "crystals.json"
    path.write_text(json.dumps(CRYSTALS))
    return str(path)


def invoke(*arguments):
    return CliRunner().invoke(main, ["calibrate", *arguments])


LINEAR = ["--workload", "workloads:Linear", "--probes", "12", "--max-graphs", "8"]


def test_the_command_prints_a_table_and_writes_a_record(data, tmp_path, monkeypatch):
    monkeypatch.chdir(FIXTURES)
    out = tmp_path / "cal.json"
    result = invoke("--device", "cpu", "--data", data, *LINEAR, "-o", str(out))
    assert result.exit_code == 0, result.output
    assert "per line-graph edge" in result.stdout
    assert "Held-out error over 4 steps" in result.stdout
    assert "A batch of 64 graphs of your data: mean" in result.stdout
    record = Calibration.load(out)
    assert record.context["device"]["device"] == "cpu"
    assert record.context["workload"] == "workloads:Linear"
    again = invoke("--device", "cpu", "--data", data, *LINEAR, "-o", str(out))
    assert again.exit_code == 2
    assert "exists" in again.stderr


def test_json_is_all_that_is_on_stdout(data):
    command = [sys.executable, "-m", "nodebudget", "calibrate", "--device", "cpu", "--data", data, *LINEAR, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=FIXTURES, check=True)
    record = json.loads(done.stdout)
    assert record["coefficients"].keys() == {"fixed", "per_graph", "per_node", "per_edge", "per_line_edge"}
    assert record["holdout"].keys() == {"mape", "max_under", "n"}
    assert record["device"]["device"] == "cpu"
    assert record["schema_version"] == SCHEMA_VERSION
    assert "USDT" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--data", "DATA"], 2, "give --gpu 0, or --device cpu"),
        (["--gpu", "0", "--device", "cpu", "--data", "DATA"], 2, "together"),
        (["--device", "tpu", "--data", "DATA"], 2, "unsupported device"),
        (["--device", "cpu", "--data", "nowhere.json"], 2, "nowhere.json"),
        (["--device", "cpu", "--data", "DATA", "--workload", "nonsense"], 2, "is not a workload"),
        (["--device", "cpu", "--data", "DATA", "--workload", "workloads:broken"], 2, "no weights"),
        (["--device", "cpu", "--data", "DATA", "--probes", "2"], 2, "2 probes"),
        (["--device", "cpu", "--data", "DATA", "-o", "no/where.json"], 2, "there is no folder"),
        pytest.param(
            ["--gpu", "0", "--data", "DATA"],
            3,
            "CUDA is not available",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"),
        ),
    ],
)
def test_wrong_input_is_one_sentence(data, monkeypatch, arguments, code, words):
    monkeypatch.chdir(FIXTURES)
    result = invoke(*[data if part == "DATA" else part for part in arguments])
    assert result.exit_code == code
    assert words in result.stderr
    assert "Traceback" not in result.output
    assert len(result.stderr.strip().splitlines()[-1]) < 400


def test_sizes_alone_cannot_be_calibrated(tmp_path):
    SIZES.save(tmp_path / "sizes.npz")
    result = invoke("--device", "cpu", "--data", str(tmp_path / "sizes.npz"))
    assert result.exit_code == 2
    assert "holds sizes, not crystals" in result.stderr


def test_a_crystal_that_cannot_be_read_is_named_or_left_out(tmp_path, monkeypatch):
    monkeypatch.chdir(FIXTURES)
    path = tmp_path / "crystals.json"
    broken = {"jid": "BROKEN", "atoms": {"elements": ["Si"]}}
    path.write_text(json.dumps([*CRYSTALS[:20], broken, *CRYSTALS[20:]]))
    result = invoke("--device", "cpu", "--data", str(path), *LINEAR)
    assert result.exit_code == 2
    assert "crystal 20 (BROKEN) can't be read" in result.stderr
    result = invoke("--device", "cpu", "--data", str(path), *LINEAR, "--on-error", "skip", "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["data"]["statistics"]["graphs"] == len(CRYSTALS)
