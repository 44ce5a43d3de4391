"""Equivalent batch sizes."""

import csv
import json
import os
from dataclasses import replace

import numpy as np
import pytest
from calibrations import fitted
from click.testing import CliRunner
from paths import GOLDEN

from nodebudget import SizeTable, suggest_batch_size
from nodebudget.analysis.batch_statistics import GraphCosts, simulate_max
from nodebudget.analysis.equivalent_batch_size import advise_learning_rate
from nodebudget.analysis.safe_batch_size import Risk, Trial, largest_safe_batch_size
from nodebudget.cli import main
from nodebudget.errors import DoesNotFitError, InputError, OversizedError
from nodebudget.report.suggestion import Answer, answers_table, suggestion_report
from nodebudget.report.text.render import FORMATS, render

A = SizeTable.from_counts([30, 40], [360, 480], [4320, 5760])
B = SizeTable.from_counts([20, 20], [300, 300], [4500, 4500])


def test_the_guides_example():
    assert suggest_batch_size(35, 64, 20).batch_size == 112


def test_each_basis_gives_its_own_answer_and_the_best_leads():
    answer = suggest_batch_size(A, 64, B)
    assert answer.by == {"nodes": 112, "edges": 89, "line_edges": 71, "bytes": None}
    assert (answer.batch_size, answer.basis) == (71, "line_edges")


def test_with_a_calibration_the_answer_goes_by_bytes():
    calibration = fitted()
    answer = suggest_batch_size(A, 64, B, calibration=calibration)
    means = [calibration.graph_bytes(data).mean() for data in (A, B)]
    assert answer.basis == "bytes"
    assert answer.batch_size == int(64 * means[0] / means[1])


def test_an_answer_is_at_least_one():
    assert suggest_batch_size(10, 1, 1000).batch_size == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((35, 0, 20), "batch_size is 0"),
        ((35, -4, 20), "batch_size is -4"),
        ((0, 64, 20), "mean of 0"),
        ((float("nan"), 64, 20), "mean of nan"),
        ((35, 64, SizeTable.from_counts([])), "is empty"),
        ((SizeTable.from_counts([0]), 64, SizeTable.from_counts([0])), "no size in common"),
    ],
)
def test_wrong_input(arguments, words):
    with pytest.raises(InputError, match=words):
        suggest_batch_size(*arguments)


def test_the_command_answers_with_json(tmp_path):
    arguments = ["suggest", "--reference", "35", "--batch-size", "64", "--target", "20", "--json"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0
    answer = json.loads(result.stdout)
    assert answer["batch_size"] == 112
    assert answer["by"] == {"nodes": 112, "edges": None, "line_edges": None, "bytes": None}


def test_the_command_takes_sizes_and_a_calibration(tmp_path):
    A.save(tmp_path / "a.npz")
    B.save(tmp_path / "b.csv")
    fitted().save(tmp_path / "cal.json")
    arguments = ["suggest", "--reference", str(tmp_path / "a.npz"), "--batch-size", "64"]
    arguments += ["--target", str(tmp_path / "b.csv"), "--calibration", str(tmp_path / "cal.json")]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0
    assert "predicted bytes" in result.stdout
    assert "as predicted by the calibration.\n" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--reference", "nowhere.json", "--batch-size", "64", "--target", "20"], "nowhere.json"),
        (["--reference", "35", "--batch-size", "0", "--target", "20"], "--batch-size is 0"),
        (["--reference", "35", "--batch-size", "64", "--target", "-3"], "mean of -3"),
        (["--reference", "35", "--batch-size", "64", "--target", "20", "--calibration", "no.json"], "no.json"),
    ],
)
def test_wrong_input_of_the_command_is_one_sentence_and_exit_2(arguments, words):
    result = CliRunner().invoke(main, ["suggest", *arguments])
    assert result.exit_code == 2
    assert words in result.stderr
    assert "Traceback" not in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def heavy(graphs=2000, seed=0):
    """Sizes with a heavy tail, as databases of crystals have them."""
    nodes = np.rint((np.random.default_rng(seed).pareto(2.5, graphs) + 1) * 8).astype(int)
    return SizeTable.from_counts(nodes, nodes * 12, nodes * 144)


HEAVY = heavy()


def two_pieces():
    """A calibration whose peak is a maximum over two moments of the step."""
    one = fitted()
    other = {name: value * (0.2 if name == "fixed" else 1.05) for name, value in one.coefficients.items()}
    return replace(one, further_segments=(other,))


@pytest.mark.parametrize("calibration", [fitted(), two_pieces()], ids=["one piece", "two pieces"])
def test_the_largest_safe_batch_size_fits_in_fresh_epochs_and_a_larger_one_does_not(calibration):
    risk = largest_safe_batch_size(HEAVY, calibration, "2GiB", 0.99)
    assert risk.confirmed
    assert risk.trial.passed
    assert risk.trial.upper <= 0.01
    graphs, room = GraphCosts.of_bytes(calibration, HEAVY), calibration.max_prediction(2 * 2**30)

    def failures(batch_size):
        seen = simulate_max(graphs.values, batch_size, 2000, np.random.default_rng(7))
        return int((graphs.batch_costs(seen) > room).sum())

    assert failures(risk.batch_size) <= 40
    assert failures(round(risk.batch_size * 1.1)) > 20


def test_in_a_heavy_tail_the_normal_approximation_would_have_said_too_much():
    risk = largest_safe_batch_size(HEAVY, fitted(), "2GiB", 0.99)
    assert risk.by_normal > risk.batch_size
    assert risk.gain > 1.1
    assert risk.max_bytes > 1.05 * risk.mean_bytes
    assert risk.budget_max <= 2 * 2**30


def test_equal_graphs_are_safe_up_to_what_fits():
    calibration = fitted()
    sizes = SizeTable.from_counts([20] * 500, [240] * 500, [2880] * 500)
    risk = largest_safe_batch_size(sizes, calibration, "1GiB")
    each = calibration.graph_bytes(sizes)[0]
    assert risk.batch_size == int((calibration.max_prediction(2**30) - calibration.fixed) // each)
    assert risk.trial.failures == 0


def test_a_dataset_that_fits_as_a_whole_is_one_batch():
    assert largest_safe_batch_size(A, fitted(), "1TiB").batch_size == len(A)


def test_a_large_dataset_goes_by_the_distribution_and_says_so():
    nodes = np.rint(np.random.default_rng(0).lognormal(3, 0.6, 150_000)).astype(int) + 1
    sizes = SizeTable.from_counts(nodes, nodes * 12, nodes * 144)
    risk = largest_safe_batch_size(sizes, fitted(), "4GiB")
    assert not risk.confirmed
    assert risk.trial.epochs == 20
    assert "from the distribution of sums" in render(suggestion_report([answer("large", risk)]))


@pytest.mark.parametrize(
    ("memory", "probability", "error", "words"),
    [
        ("2GiB", 0, InputError, "probability of 0"),
        ("2GiB", 1.0, InputError, "probability of 1.0"),
        ("2GiB", float("nan"), InputError, "probability of nan"),
        ("lots", 0.99, InputError, "lots"),
        ("1MiB", 0.99, DoesNotFitError, "without any graph"),
        ("70MiB", 0.99, OversizedError, "larger than a batch may be"),
    ],
)
def test_wrong_input_of_risk(memory, probability, error, words):
    with pytest.raises(error, match=words):
        largest_safe_batch_size(HEAVY, fitted(), memory, probability)


def test_learning_rates_follow_both_rules():
    advice = advise_learning_rate(64, 256)
    assert (advice.linear, advice.square_root) == (4, 2)
    assert "Goyal et al. 2017" in advice.sentences[0]
    assert "Krizhevsky 2014" in advice.sentences[1]
    with pytest.raises(InputError, match="0 graphs per step"):
        advise_learning_rate(64, 0)


RISK = Risk(
    76, 0.999, 2**31, 82, Trial(10_000, 4, 9.15e-4, True), True, 1.5e9, 1.85e9, 98, (106.8, 0.4), 2.13e9, 2.14e9
)


def answer(name, risk=None, reference=A):
    return Answer(name, suggest_batch_size(reference, 64, B), advise_learning_rate(64, 71), risk)


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("suggest_one", lambda: render(suggestion_report([answer("b")]), 80)),
        ("suggest_many", lambda: render(suggestion_report([answer("b", RISK), answer("with_under_score", RISK)]), 80)),
        *(
            (f"suggest_{style}", lambda write=write: write(answers_table([answer("b", RISK), answer("c_d", None)])))
            for style, write in FORMATS.items()
        ),
    ],
)
def test_text_is_as_it_was_looked_at(name, make):
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("NODEBUDGET_GOLDEN") == "write":
        path.write_text(make() + "\n")
    assert make() + "\n" == path.read_text()


@pytest.fixture
def files(tmp_path):
    HEAVY.save(tmp_path / "heavy.npz")
    B.save(tmp_path / "b.csv")
    fitted().save(tmp_path / "cal.json")
    return tmp_path


def test_the_command_takes_several_targets_and_a_memory(files):
    arguments = ["suggest", "--reference", str(files / "heavy.npz"), "--batch-size", "64", "--probability", "0.99"]
    arguments += ["--target", str(files / "heavy.npz"), "--target", str(files / "b.csv")]
    arguments += ["--calibration", str(files / "cal.json"), "--memory", "2GiB"]
    result = CliRunner().invoke(main, [*arguments, "--json"])
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["batch_size"] == 64
    assert [entry["target"] for entry in found["targets"]] == ["heavy", "b"]
    assert found["targets"][0]["risk"]["batch_size"] < found["targets"][0]["risk"]["budget_graphs"]["mean"]
    table = CliRunner().invoke(main, [*arguments, "--format", "csv", "-q"])
    rows = list(csv.DictReader(table.stdout.splitlines()))
    assert [row["dataset"] for row in rows] == ["heavy", "b"]
    assert rows[0]["equal line-graph edges"] == "64"


@pytest.mark.parametrize(
    ("arguments", "words", "code"),
    [
        (["--memory", "2GiB"], "--memory without --calibration", 2),
        (["--json", "--format", "md"], "--json and --format together", 2),
        (["--calibration", "cal.json", "--memory", "2GiB"], "--memory with a mean of 20", 2),
        (["--calibration", "cal.json", "--memory", "70MiB", "--target", "heavy.npz"], "larger than a batch may be", 1),
    ],
)
def test_wrong_use_of_risk_is_one_sentence(files, monkeypatch, arguments, words, code):
    monkeypatch.chdir(files)
    given = [] if "--target" in arguments else ["--target", "20"]
    result = CliRunner().invoke(main, ["suggest", "--reference", "35", "--batch-size", "64", *given, "-q", *arguments])
    assert result.exit_code == code
    assert words in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
