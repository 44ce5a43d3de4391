"""The quickstart, on fewer crystals and a narrower network than usual."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from nodebudget import Calibration, SizeTable
from nodebudget.analysis import quickstart
from nodebudget.analysis.quickstart import Options, run_quickstart
from nodebudget.cli import main
from nodebudget.errors import MissingError

SMALL = ["--device", "cpu", "--limit", "60", "--hidden-features", "16", "--batch-size", "8", "--probes", "12"]


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    folder = tmp_path_factory.mktemp("quickstart") / "out"
    outcome = CliRunner().invoke(main, ["quickstart", "-o", str(folder), *SMALL, "--json"])
    assert outcome.exit_code == 0, outcome.stderr
    return json.loads(outcome.stdout)


def run_of(result, dataset, batching):
    return next(run for run in result["runs"] if (run["dataset"], run["batching"]) == (dataset, batching))


def test_the_budget_levels_the_measured_peaks(result):
    for dataset in ("small cells", "large cells"):
        fixed, budget = (run_of(result, dataset, batching) for batching in ("fixed", "budget"))
        assert budget["measured_bytes"]["cv"] <= 0.02
        assert budget["measured_bytes"]["cv"] < 0.5 * fixed["measured_bytes"]["cv"]
        assert budget["measured_bytes"]["max"] <= result["memory"]
        assert budget["graphs"] == 60
        assert budget["graphs_left_out"] == 0


def test_predictions_meet_measurements(result):
    for run in result["runs"]:
        assert run["predicted_bytes"]["mean"] == pytest.approx(run["measured_bytes"]["mean"], rel=0.02)


def test_the_artefacts_are_there_and_can_be_used(result):
    files = {name: Path(path) for name, path in result["files"].items()}
    assert all(path.stat().st_size > 0 for path in files.values())
    assert len(SizeTable.load(files["large cells, sizes"])) == 60
    assert len(json.loads(files["large cells"].read_text())) == 60
    assert Calibration.load(files["calibration"]).holdout.n == 4
    assert json.loads(files["table"].read_text())["runs"] == result["runs"]
    assert files["picture"].read_bytes().startswith(b"\x89PNG")


def test_people_get_a_table(tmp_path):
    outcome = CliRunner().invoke(main, ["quickstart", "-o", str(tmp_path), *SMALL, "--limit", "20"])
    assert outcome.exit_code == 0, outcome.stderr
    assert "a line-graph edge" in outcome.stdout
    assert "large cells, budget" in outcome.stdout
    assert str(tmp_path / "peaks.png") in outcome.stderr


def test_alignn_is_trained_without_dgl_where_dgl_cannot_use_the_device(tmp_path, monkeypatch):
    def no_cuda(device):
        raise MissingError("DGL 1.1.3 is built without CUDA", hint="another wheel")

    monkeypatch.setattr(quickstart, "check_dgl_on", no_cuda)
    assert quickstart._choose_workload("cpu") == "alignn"
    with pytest.warns(UserWarning, match="DGL 1.1.3 is built without CUDA: ALIGNN is trained without DGL"):
        assert quickstart._choose_workload("cuda:0") == "alignn-pure"
    options = Options(folder=tmp_path, workload="alignn-pure", limit=40, hidden_features=16, batch_size=8, probes=12)
    result = run_quickstart(options, lambda step, done, total: None)
    assert result["calibration"].context["model"]["name"].endswith("ALIGNNAtomWisePure")
    for dataset in ("small cells", "large cells"):
        budget = run_of(result, dataset, "budget")
        assert budget["graphs"] == 40
        assert budget["measured_bytes"]["cv"] <= 0.02


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    outcome = CliRunner().invoke(main, ["quickstart", "-o", str(tmp_path / "file" / "x"), *SMALL])
    assert outcome.exit_code == 2
    assert "can't be made" in outcome.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["--memory", "3 potatoes"], "3 potatoes"), (["--memory", "1MiB"], "1.00 MiB"), (["--probes", "1"], "1 probes")],
)
def test_wrong_input(tmp_path, arguments, words):
    outcome = CliRunner().invoke(main, ["quickstart", "-o", str(tmp_path), *SMALL, "--limit", "20", *arguments])
    assert outcome.exit_code in (1, 2)
    assert words in outcome.stderr
    assert "Traceback" not in outcome.stderr
