"""The quickstart, on fewer crystals and a smaller network than usual."""

import json
from functools import partial
from pathlib import Path

import pytest
from click.testing import CliRunner

from nodebudget import Calibration, SizeTable
from nodebudget.analysis import quickstart
from nodebudget.analysis.quickstart import QuickstartConfig, run_quickstart
from nodebudget.cli import main
from nodebudget.errors import DoesNotFitError, InputError, MissingError
from nodebudget.workloads.registry import load_workload

CONFIG = {"limit": 40, "hidden_features": 16, "batch_size": 8, "probes": 12}
SHALLOW = {"alignn_layers": 1, "gcn_layers": 1}


def run(**config):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quickstart, "load_workload", partial(load_workload, **SHALLOW))
        return run_quickstart(QuickstartConfig(**{**CONFIG, **config}), lambda step, done, total: None)


@pytest.fixture(scope="module")
def result():
    return run()


def runs_of(result, dataset):
    return (
        next(run for run in result.runs if (run["dataset"], run["batching"]) == (dataset, batching))
        for batching in ("fixed", "budget")
    )


def test_the_budget_makes_the_measured_peaks_equal(result):
    for dataset in ("small cells", "large cells"):
        fixed, budget = runs_of(result, dataset)
        assert budget["measured_bytes"]["cv"] <= 0.02
        assert budget["measured_bytes"]["cv"] < 0.5 * fixed["measured_bytes"]["cv"]
        assert budget["measured_bytes"]["max"] <= result.memory
        assert budget["graphs"] == 40
        assert budget["graphs_left_out"] == 0


def test_predictions_meet_measurements(result):
    for measured in result.runs:
        assert measured["predicted_bytes"]["mean"] == pytest.approx(measured["measured_bytes"]["mean"], rel=0.02)


@pytest.fixture
def command(result, monkeypatch, tmp_path):
    """The command with the result of the run that the fixture made."""
    configs = []

    def run_once(config, progress):
        configs.append(config)
        return result

    monkeypatch.setattr(quickstart, "run_quickstart", run_once)

    def call(*arguments):
        outcome = CliRunner().invoke(main, ["quickstart", "-o", str(tmp_path / "out"), *arguments])
        assert outcome.exit_code == 0, outcome.stderr
        return outcome, configs[-1]

    return call


def test_the_command_writes_files_that_can_be_used(command, result):
    outcome, config = command("--device", "cpu", "--limit", "40", "--memory", "2GiB", "--json")
    assert config == QuickstartConfig(limit=40, memory=2**31)
    said = json.loads(outcome.stdout)
    files = {name: Path(path) for name, path in said["files"].items()}
    assert all(path.stat().st_size > 0 for path in files.values())
    assert len(SizeTable.load(files["large cells, sizes"])) == 40
    assert len(json.loads(files["large cells"].read_text())) == 40
    assert Calibration.load(files["calibration"]).holdout.n == 4
    assert json.loads(files["table"].read_text())["runs"] == said["runs"] == result.runs
    assert files["picture"].read_bytes().startswith(b"\x89PNG")


def test_the_command_prints_a_table(command):
    outcome, _ = command("--device", "cpu")
    assert "large cells, budget" in outcome.stdout
    assert "incomplete last batches" not in outcome.stdout
    assert "peaks.png" in outcome.stderr


@pytest.mark.slow
def test_the_command_in_one_go(tmp_path):
    small = ["--device", "cpu", "--limit", "20", "--hidden-features", "16", "--batch-size", "8", "--probes", "12"]
    outcome = CliRunner().invoke(main, ["quickstart", "-o", str(tmp_path), *small])
    assert outcome.exit_code == 0, outcome.stderr
    assert "line-graph edge" in outcome.stdout


def test_alignn_is_trained_without_dgl_where_dgl_cannot_use_the_device(monkeypatch):
    def no_cuda(device):
        raise MissingError("DGL 1.1.3 is built without CUDA", hint="another wheel")

    monkeypatch.setattr(quickstart, "check_dgl_on", no_cuda)
    assert quickstart._choose_workload("cpu") == "alignn"
    with pytest.warns(UserWarning, match="DGL 1.1.3 is built without CUDA: ALIGNN is trained without DGL"):
        assert quickstart._choose_workload("cuda:0") == "alignn-pure"


@pytest.mark.slow
def test_alignn_without_dgl():
    result = run(workload="alignn-pure")
    assert result.calibration.context["model"]["name"].endswith("ALIGNNAtomWisePure")
    for dataset in ("small cells", "large cells"):
        _, budget = runs_of(result, dataset)
        assert budget["graphs"] == 40
        assert budget["measured_bytes"]["cv"] <= 0.02


def test_a_budget_that_a_crystal_does_not_fit(result, monkeypatch):
    monkeypatch.setattr(quickstart, "calibrate", lambda *_, **options: result.calibration)
    with pytest.raises(DoesNotFitError, match=r"1\.00 MiB"):
        run(limit=10, memory=2**20)


def test_wrong_input(tmp_path):
    (tmp_path / "file").write_text("")
    cases = {
        ("-o", str(tmp_path / "file" / "x")): "check the path",
        ("--memory", "3 potatoes"): "3 potatoes",
        ("--limit", "10"): "10 crystals of each dataset (a fixed batch has 16)",
    }
    for arguments, words in cases.items():
        outcome = CliRunner().invoke(main, ["quickstart", "-o", str(tmp_path), "--device", "cpu", *arguments])
        assert outcome.exit_code == 2
        assert words in outcome.stderr
        assert len(outcome.stderr.strip().splitlines()) == 1
    with pytest.raises(InputError, match="1 probes"):
        run(limit=10, probes=1)
