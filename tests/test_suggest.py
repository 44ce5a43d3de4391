"""Equivalent batch sizes."""

import json

import pytest
from click.testing import CliRunner
from test_costmodel import fitted

from nodebudget import SizeTable, suggest_batch_size
from nodebudget.cli import main
from nodebudget.errors import InputError

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
        ((35, 0, 20), "batch size of 0"),
        ((35, -4, 20), "batch size of -4"),
        ((0, 64, 20), "mean of 0"),
        ((float("nan"), 64, 20), "mean of nan"),
        ((35, 64, SizeTable.from_counts([])), "no crystals"),
        ((SizeTable.from_counts([0]), 64, SizeTable.from_counts([0])), "share no size"),
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
    assert result.stdout.strip().endswith("as the calibration predicts them.")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--reference", "nowhere.json", "--batch-size", "64", "--target", "20"], "nowhere.json"),
        (["--reference", "35", "--batch-size", "0", "--target", "20"], "batch size of 0"),
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
