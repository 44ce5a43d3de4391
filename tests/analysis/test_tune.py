"""Tuning: the analysis with scripted times, and a real run on a small network."""

import io
import itertools
import json

import numpy as np
import pytest
import torch
from calibrations import fitted
from click.testing import CliRunner
from crystals import entries
from paths import FIXTURES
from scripted_probe import ScriptedProbe
from workloads import Linear

from nodebudget import SizeTable
from nodebudget.analysis import tune
from nodebudget.analysis.throughput import Advice, TimedBudget, analyse, format_rate
from nodebudget.analysis.tune import TuneConfig, budget_grid
from nodebudget.calibration.calibrate import calibrate
from nodebudget.calibration.time_model import TimedStep, fit_times
from nodebudget.cli import main
from nodebudget.datasets.measure import measure
from nodebudget.errors import DoesNotFitError, InputError, WorkloadError
from nodebudget.profiling.open import open_probe
from nodebudget.report.plots import save_picture
from nodebudget.report.text.render import render
from nodebudget.report.throughput import throughput_report

CRYSTALS = entries(most=8, count=40)
SIZES = measure(CRYSTALS)
FIXED, A_GRAPH, AN_EDGE = 0.01, 1e-4, 2e-6


def step(graphs, edges, scatter=0.0):
    """A step that takes 10 ms and a little a graph and an edge."""
    return TimedStep({"graphs": graphs, "edges": edges}, FIXED + A_GRAPH * graphs + AN_EDGE * edges, scatter)


def point(budget, graphs, scatter=0.0):
    steps = tuple(step(graphs, graphs * edges, scatter) for edges in (90, 100, 130))
    return TimedBudget(budget, {"graphs": graphs, "edges": 100 * graphs}, steps)


LADDER = [point(2**27 * 2**rung, 10 * 2**rung) for rung in range(10)]


def test_the_time_model_finds_what_the_script_says():
    model = analyse(LADDER).time_model
    assert model.coefficients == pytest.approx({"fixed": FIXED, "per_graph": A_GRAPH, "per_edge": AN_EDGE})
    assert model.mape == pytest.approx(0, abs=1e-9)
    assert model.predict_seconds({"graphs": 7, "edges": 500}) == pytest.approx(step(7, 500).seconds)


def test_throughput_is_graphs_over_the_median_step():
    advice = analyse(LADDER[::-1])
    assert [entry.budget_bytes for entry in advice.curve] == sorted(entry.budget_bytes for entry in LADDER)
    first = advice.curve[0]
    assert first.seconds == pytest.approx(step(10, 1000).seconds)
    assert first.graphs_per_second == pytest.approx(10 / first.seconds)
    assert first.edges_per_second == pytest.approx(1000 / first.seconds)
    assert first.model_seconds == pytest.approx(first.seconds)


def test_the_smallest_budget_within_two_percent_of_the_best_is_recommended():
    advice = analyse(LADDER)
    best = max(entry.graphs_per_second for entry in advice.curve)
    within = [entry for entry in advice.curve if entry.graphs_per_second >= 0.98 * best]
    assert advice.recommended_bytes == within[0].budget_bytes == 2**34
    assert advice.largest_bytes == LADDER[-1].budget_bytes
    assert advice.sentence == (
        "Use a budget of 16.0 GiB, about 1280 graphs per batch: 3,249 graphs per second, 98% of the best measured; "
        "the largest that fits, 64.0 GiB, changes it by +1.9%."
    )


def test_budgets_over_the_memory_or_out_of_it_are_left_out():
    lost = TimedBudget(2**37, {"graphs": 10_240, "edges": 1_024_000}, ())
    assert analyse([*LADDER, lost]).largest_bytes == 2**36
    advice = analyse([*LADDER, lost], memory=2**30)
    assert advice.largest_bytes == advice.recommended_bytes == 2**30
    assert advice.sentence.endswith("it is the largest timed budget.")
    for points, memory in (([lost], None), (LADDER, 2**20)):
        with pytest.raises(DoesNotFitError, match="none of the timed budgets fits"):
            analyse(points, memory)


def test_too_few_steps_are_refused():
    with pytest.raises(InputError, match="2 timed steps do not determine 3 coefficients"):
        fit_times([step(1, 10), step(2, 30)])


def test_what_is_written_has_the_promised_keys():
    said = json.loads(json.dumps(analyse(LADDER).to_dict()))
    assert said.keys() >= {"curve", "recommended_bytes", "largest_bytes", "time_model", "recommendation"}
    keys = {"budget_bytes", "graphs_per_second", "edges_per_second", "seconds", "graphs_per_batch"}
    assert all(entry.keys() >= keys for entry in said["curve"])


def test_the_table_marks_the_recommendation_and_says_when_times_scatter():
    text = render(throughput_report(analyse(LADDER)), 80)
    (marked,) = [line for line in text.splitlines() if " * " in line]
    assert "16.0 GiB" in marked
    assert "Time of a step: 10.0 ms fixed + 100 µs per graph + 2.00 µs per edge (mean error 0.0%)." in text
    assert "Repeats" not in text
    noisy = [point(2**30 * 2**rung, 10 * 2**rung, scatter=0.05) for rung in range(8)]
    loud = render(throughput_report(analyse(noisy)))
    assert "Repeats of a step differ by up to ±5%" in loud


def test_the_picture_is_a_png():
    file = io.BytesIO()
    save_picture(throughput_report(analyse(LADDER)).draw(), file, "timed on nothing")
    assert file.getvalue().startswith(b"\x89PNG\r\n\x1a\n")
    save_picture(throughput_report(analyse(LADDER[:1] * 2)).draw(), io.BytesIO())


def test_rates_as_people_write_them():
    assert [format_rate(rate) for rate in (0.1234, 12.34, 1234567.8)] == ["0.123", "12.3", "1,234,568"]


def test_the_ladder_goes_from_the_largest_graph_to_the_memory():
    sizes = SizeTable.from_counts(np.arange(1, 201), 12 * np.arange(1, 201), 140 * np.arange(1, 201))
    calibration = fitted()
    memory = int(calibration.fixed + 0.3 * calibration.graph_bytes(sizes).sum())
    budgets = budget_grid(sizes, calibration, memory, 6)
    assert len(budgets) == 6
    assert budgets == sorted(budgets)
    assert budgets[-1] <= memory
    least = calibration.fixed + calibration.graph_bytes(sizes).max()
    assert budgets[0] >= least
    # Twice the memory that all graphs need is not tried: nothing would be different.
    ample = 2 * int(calibration.fixed + calibration.graph_bytes(sizes).sum())
    assert budget_grid(sizes, calibration, ample, 6)[-1] < 0.8 * ample
    with pytest.raises(DoesNotFitError, match="larger than a batch may be"):
        budget_grid(sizes, calibration, int(least) - 2**16, 6)


@pytest.mark.parametrize("wrong", [{"budgets": 1}, {"batches": 0}, {"repeats": 0}])
def test_absurd_efforts_are_refused(wrong):
    with pytest.raises(InputError):
        TuneConfig(**wrong)


@pytest.fixture(scope="module")
def calibration():
    workload = Linear(torch.device("cpu"), width=4096)
    return calibrate(workload, CRYSTALS, SIZES, open_probe("cpu"))


def tuned(calibration, workload=None, sizes=SIZES, **options):
    workload = workload or Linear(torch.device("cpu"), width=4096)
    probe = ScriptedProbe(lambda: 0, free=2**30)
    return tune.tune(workload, CRYSTALS, sizes, probe, calibration, **options)


def test_a_real_run(calibration):
    seen = []
    advice = tuned(
        calibration, config=TuneConfig(budgets=4, batches=2, repeats=2), progress=lambda *done: seen.append(done)
    )
    assert isinstance(advice, Advice)
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert len(advice.curve) == 4
    assert advice.curve[-1].graphs_per_batch == len(CRYSTALS)
    assert all(entry.seconds > 0 and entry.model_seconds > 0 for entry in advice.curve)
    assert advice.recommended_bytes in [entry.budget_bytes for entry in advice.curve]


def test_running_out_of_memory_ends_the_climb(calibration):
    class Limited(Linear):
        def step(self, batch):
            if len(batch) > 100:
                raise torch.cuda.OutOfMemoryError("CUDA out of memory")
            super().step(batch)

    advice = tuned(calibration, Limited(torch.device("cpu"), width=4096))
    everything = tuned(calibration)
    assert advice.largest_bytes < everything.largest_bytes


def test_a_step_that_takes_too_long_ends_the_climb(calibration, monkeypatch):
    # A clock that gains a second whenever it is read: every step takes one.
    ticks = itertools.count()
    monkeypatch.setattr(tune.time, "perf_counter", lambda: float(next(ticks)))
    with pytest.raises(InputError, match="do not determine"):
        tuned(calibration, config=TuneConfig(max_step_seconds=0.5))
    assert len(tuned(calibration, config=TuneConfig(max_step_seconds=2.0)).curve) == 8


def test_sizes_of_another_dataset_and_steps_that_raise(calibration):
    with pytest.raises(InputError, match="3 sizes for a dataset of 40"):
        tuned(calibration, sizes=SIZES.take([0, 1, 2]))
    with pytest.raises(WorkloadError, match="a training step raised ValueError: the label is missing;"):
        tuned(calibration, Linear(torch.device("cpu"), fail_over=5))


@pytest.fixture
def files(tmp_path, calibration):
    (tmp_path / "crystals.json").write_text(json.dumps(CRYSTALS))
    calibration.save(tmp_path / "cal.json")
    (tmp_path / "wide.toml").write_text('workload = "workloads:Linear"\n[arguments]\nwidth = 4096\n')
    return tmp_path


def invoke(files, *more, data="crystals.json", record="cal.json", workload=None):
    given = ["--data", str(files / data), "--calibration", str(files / record)]
    return CliRunner().invoke(main, ["tune", *given, "--workload", workload or str(files / "wide.toml"), *more])


QUICK = ["--device", "cpu", "--memory", "64MiB", "--budgets", "4", "--batches", "2", "--repeats", "1"]


def test_the_command_prints_json_writes_and_draws(files, monkeypatch):
    monkeypatch.chdir(FIXTURES)
    out, plot = files / "tune.json", files / "tune.png"
    result = invoke(files, *QUICK, "-o", str(out), "--plot", str(plot), "--json")
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    assert said.keys() >= {"curve", "recommended_bytes", "largest_bytes", "time_model", "device", "created"}
    record = json.loads(out.read_text())
    assert (record["kind"], record["schema_version"]) == ("nodebudget.tune", 1)
    assert record["curve"] == said["curve"]
    assert plot.read_bytes().startswith(b"\x89PNG")
    again = invoke(files, *QUICK, "--plot", str(plot))
    assert again.exit_code == 2
    assert "exists" in again.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([], 2, "give --gpu 0, or --device cpu"),
        (["--device", "cpu", "--memory", "3 potatoes"], 2, "not an amount of memory"),
        (["--device", "cpu", "--memory", "1KiB"], 1, "a training step takes"),
        (["--device", "cpu", "--budgets", "1"], 2, "--budgets is 1"),
        (["--device", "cpu", "--plot", "no/where.png"], 2, "there is no folder"),
        pytest.param(
            ["--gpu", "0"],
            3,
            "CUDA is not available",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"),
        ),
    ],
)
def test_wrong_input_is_one_sentence(files, monkeypatch, arguments, code, words):
    monkeypatch.chdir(FIXTURES)
    result = invoke(files, *arguments)
    assert result.exit_code == code, result.output
    assert words in result.stderr
    assert "Traceback" not in result.output


def test_files_that_cannot_be_tuned_with(files, monkeypatch):
    monkeypatch.chdir(FIXTURES)
    SIZES.save(files / "sizes.npz")
    for options, words in (
        ({"data": "sizes.npz"}, "holds sizes, not crystals"),
        ({"data": "none.json"}, "none.json"),
        ({"record": "crystals.json"}, "is not a file of kind 'nodebudget.calibration'"),
    ):
        result = invoke(files, *QUICK, **options)
        assert result.exit_code == 2
        assert words in result.stderr


def test_a_calibration_of_another_model_is_refused_or_noted(files, monkeypatch):
    monkeypatch.chdir(FIXTURES)
    result = invoke(files, *QUICK, workload="workloads:Linear")
    assert result.exit_code == 2
    assert "the calibration is of another model: model parameters was 8192, is 16" in result.stderr
    allowed = invoke(files, *QUICK, "--allow-mismatch", workload="workloads:Linear")
    assert allowed.exit_code == 0, allowed.output
    assert "nodebudget: the calibration was made with another setup: model parameters was 8192" in allowed.stderr
    assert "Use a budget of " in allowed.stdout
