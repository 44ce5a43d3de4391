"""Records: what they say, and when they may be used."""

import dataclasses
import json
from importlib import resources

import jsonschema
import pytest
import torch
from click.testing import CliRunner
from paths import FIXTURES, GOLDEN
from scripted_probe import CONFIG, CRYSTALS, SIZES, scripted
from workloads import Linear

from nodebudget import Calibration, NodeBudgetSampler, SizeTable
from nodebudget.analysis.device_budget import device_budget
from nodebudget.calibration.calibrate import calibrate
from nodebudget.calibration.compatibility import (
    check_applicable,
    different_graph_settings,
    graph_settings_of,
)
from nodebudget.calibration.memory_model import SCHEMA_VERSION
from nodebudget.cli import main
from nodebudget.datasets.graph_settings import GraphSettings
from nodebudget.datasets.measure import measure
from nodebudget.errors import RecordError


@pytest.fixture(scope="module")
def made():
    workload, probe = scripted()
    return calibrate(workload, CRYSTALS, SIZES, probe, config=CONFIG), workload, probe


def changed(calibration, section, **values):
    context = {**calibration.context, section: {**calibration.context[section], **values}}
    return dataclasses.replace(calibration, context=context)


def test_a_record_is_valid_by_the_schema_in_the_package(made, tmp_path):
    schema = json.loads(resources.files("nodebudget").joinpath("schemas/calibration.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    record = json.loads(made[0].save(tmp_path / "cal.json").read_text())
    jsonschema.validate(record, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**record, "floor": "much"}, schema)


def test_where_it_was_made_nothing_is_warned_of(made, recwarn):
    calibration, workload, probe = made
    check_applicable(calibration, workload=workload, probe=probe)
    assert not recwarn


def test_another_model_is_refused_or_warned_of(made):
    other = Linear(torch.device("cpu"), width=9)
    with pytest.raises(RecordError, match="model parameters was 16, is 18"):
        check_applicable(made[0], workload=other)
    with pytest.warns(UserWarning, match="model parameters was 16, is 18"):
        check_applicable(made[0], workload=other, allow_mismatch=True)


@pytest.mark.parametrize(
    ("section", "values", "words"),
    [
        ("device", {"name": "Another GPU"}, "device name was Another GPU, is scripted"),
        ("packages", {"torch": "1.0"}, "torch was 1.0, is"),
    ],
)
def test_another_device_or_version_is_warned_of(made, section, values, words):
    with pytest.warns(UserWarning, match=words):
        check_applicable(changed(made[0], section, **values), probe=made[2])


def call(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def planned(made, tmp_path, monkeypatch):
    """A plan's command line, and the calibration that it goes by: of `workloads:Linear`, 8 wide."""
    monkeypatch.chdir(FIXTURES)
    SIZES.save(tmp_path / "sizes.npz")
    made[0].save(tmp_path / "cal.json")
    return ["plan", tmp_path / "sizes.npz", "--calibration", tmp_path / "cal.json", "--memory", "100MB"]


def test_a_plan_by_a_calibration_of_the_same_model(planned):
    result = call(*planned, "--workload", "workloads:Linear", "--json")
    assert result.exit_code == 0, result.stderr
    assert result.stderr == ""


def test_a_plan_by_a_calibration_of_another_model(planned, tmp_path):
    wider = tmp_path / "wider.toml"
    wider.write_text('workload = "workloads:Linear"\n[arguments]\nwidth = 9\n')
    refused = call(*planned, "--workload", wider, "--json")
    assert refused.exit_code == 2
    assert "the calibration is of another model: model parameters was 16, is 18" in refused.stderr
    allowed = call(*planned, "--workload", wider, "--allow-mismatch", "--json")
    assert allowed.exit_code == 0, allowed.stderr
    assert "nodebudget: the calibration was made with another setup: model parameters was 16, is 18" in allowed.stderr


RECORDS = {path.stem.rpartition("_v")[2]: path for path in (GOLDEN).glob("calibration_v*")}


@pytest.mark.parametrize("version", RECORDS)
def test_records_of_every_schema_version_are_read(version, tmp_path):
    """Each was written by the nodebudget of its time, for `workloads:Linear` on the CPU."""
    record = json.loads(RECORDS[version].read_text())
    assert record["schema_version"] == int(version)
    calibration = Calibration.load(RECORDS[version])
    assert calibration.predict_bytes(graphs=1, nodes=100, edges=0, line_edges=0) == pytest.approx(104 + 36 * 100)
    assert len(calibration.observations) == 12
    assert device_budget(2**32, calibration, setting="default").memory > 2**31
    again = Calibration.load(calibration.save(tmp_path / "cal.json"))
    assert again == calibration


def test_the_newest_schema_version_has_a_record_of_its_own():
    assert str(SCHEMA_VERSION) in RECORDS


FOUR = GraphSettings(neighbors=4)


@pytest.fixture
def of_four(made):
    """The same calibration, made on graphs of four neighbors."""
    settings = {**made[0].context["data"]["settings"], "graphs": FOUR.to_dict()}
    return changed(made[0], "data", settings=settings)


def test_the_graphs_of_a_calibration(made, of_four):
    assert graph_settings_of(made[0]) == GraphSettings()
    assert graph_settings_of(of_four) == FOUR
    for wrong in (None, 3, {"neighbors": 0}, {"neighbours": 4}):
        assert graph_settings_of(changed(made[0], "data", settings={"graphs": wrong})) is None
    assert graph_settings_of(dataclasses.replace(made[0], context={})) is None
    assert graph_settings_of(dataclasses.replace(made[0], context={"data": [1]})) is None


def test_how_measured_graphs_differ_is_said():
    assert different_graph_settings(SIZES, GraphSettings()) == ""
    assert different_graph_settings(SIZES, FOUR) == "neighbors 12 instead of 4"
    assert different_graph_settings(SIZES, None) == ""
    assert different_graph_settings(SizeTable.from_counts([1, 2]), FOUR) == ""


def test_crystals_become_the_graphs_that_the_calibration_was_made_on(of_four, tmp_path):
    expected = measure(CRYSTALS, graphs=FOUR)
    sampler = NodeBudgetSampler(CRYSTALS, calibration=of_four, memory="1GiB")
    assert sampler.sizes["edges"].tolist() == expected["edges"].tolist() != SIZES["edges"].tolist()
    data, record = tmp_path / "crystals.json", of_four.save(tmp_path / "cal.json")
    data.write_text(json.dumps(CRYSTALS))
    max_edges = int(SIZES["edges"].max())
    how = ["--max-edges", str(max_edges), "--calibration", str(record), "--memory", "1GiB", "--json"]
    planned = CliRunner().invoke(main, ["plan", str(data), *how])
    assert planned.exit_code == 0, planned.stderr
    assert json.loads(planned.stdout)["lower_bound"] == -(-int(expected["edges"].sum()) // max_edges)
    assert "of other graphs" not in planned.stderr
    compared = CliRunner().invoke(
        main, ["compare", str(data), str(data), "--batch-size", "2", "--calibration", str(record), "--json"]
    )
    assert compared.exit_code == 0, compared.stderr
    mean = expected["edges"].mean()
    assert f"{mean:.6f}"[:6] in compared.stdout


def test_sizes_of_other_graphs_are_noted(of_four, tmp_path):
    record, sizes = of_four.save(tmp_path / "cal.json"), SIZES.save(tmp_path / "sizes.npz")
    options = ["--calibration", str(record)]
    for command in (
        ["plan", str(sizes), *options, "--memory", "1GiB"],
        ["compare", str(sizes), "--batch-size", "2", *options],
        ["suggest", "--reference", str(sizes), "--batch-size", "2", "--target", str(sizes), *options],
    ):
        done = CliRunner().invoke(main, command)
        assert done.exit_code == 0, done.stderr
        assert "were measured on other graphs than the calibration: neighbors 12 instead of 4" in done.stderr
