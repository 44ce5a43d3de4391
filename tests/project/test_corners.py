"""Corner cases that once failed silently."""

import json

import pytest
from calibrations import fitted
from click.testing import CliRunner
from paths import FIXTURES
from scripted_probe import CRYSTALS

from nodebudget import NodeBudgetSampler, SizeTable
from nodebudget.calibration.prediction_interval import PredictionBound
from nodebudget.cli import main
from nodebudget.datasets.measure import measure
from nodebudget.errors import InputError, RecordError

SIZES = SizeTable.from_counts(list(range(1, 501)), list(range(500, 0, -1)))


def test_a_state_belongs_to_what_is_balanced():
    first = NodeBudgetSampler(SIZES, max_nodes=1000, max_edges=13000, balance="nodes")
    other = NodeBudgetSampler(SIZES, max_nodes=1000, max_edges=13000, balance="edges")
    with pytest.raises(RecordError, match="balance"):
        other.load_state_dict(first.state_dict())


def test_a_state_beyond_the_epoch_is_refused():
    sampler = NodeBudgetSampler(SIZES, max_nodes=1000)
    with pytest.raises(RecordError, match="1000000000 batches consumed"):
        sampler.load_state_dict({**sampler.state_dict(), "consumed": 10**9})


def test_crystals_left_out_do_not_shift_the_others():
    broken = {"jid": "BROKEN", "atoms": {"elements": ["Si"]}}
    sizes = measure([CRYSTALS[0], broken, *CRYSTALS[1:6]], on_error="skip")
    seen = [index for batch in NodeBudgetSampler(sizes, max_graphs=2) for index in batch]
    assert sorted(seen) == [0, 2, 3, 4, 5, 6]
    few = NodeBudgetSampler(sizes.take([1, 3]), max_graphs=2)
    assert sorted(index for batch in few for index in batch) == [2, 4]


def test_two_maxima_of_one_column_are_refused():
    with pytest.raises(InputError, match="two maxima of nodes"):
        NodeBudgetSampler(SIZES, max_nodes=600, max_columns={"nodes": 700})


@pytest.mark.parametrize("name", ["graphs", "id"])
def test_names_with_a_meaning_are_no_columns(name):
    with pytest.raises(InputError, match=f"a column '{name}'"):
        SizeTable({"nodes": [1, 2], name: [1, 2]})


def test_errors_that_were_not_seen_are_not_taken_for_none():
    assert PredictionBound(0.0, 5, 1e9).margin(1e9, 0.99) > 1e-3


def test_too_few_probes_are_refused_before_measuring(tmp_path, monkeypatch):
    monkeypatch.chdir(FIXTURES)
    path = tmp_path / "crystals.json"
    path.write_text(json.dumps(CRYSTALS))
    arguments = ["calibrate", "--device", "cpu", "--workload", "workloads:Linear", "--data", str(path)]
    result = CliRunner().invoke(main, [*arguments, "--probes", "9"])
    assert result.exit_code == 2
    assert "9 probes leave 4 to fit 5 coefficients to" in result.stderr
    assert "calibrating" not in result.stderr


@pytest.mark.parametrize("text", [{"columns": "nodes"}, {"floor": -5}])
def test_a_calibration_of_the_wrong_shape_is_refused(tmp_path, text):
    from nodebudget import Calibration

    path = fitted().save(tmp_path / "cal.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), **text}))
    with pytest.raises(RecordError, match="damaged"):
        Calibration.load(path)


def test_a_failing_disk_or_folder_is_one_sentence(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied", "locked/x.json")

    monkeypatch.setattr("nodebudget.datasets.measure.open_source", refuse)
    result = CliRunner().invoke(main, ["measure", "x.json"])
    assert result.exit_code == 2
    assert "locked/x.json: Permission denied" in result.stderr
