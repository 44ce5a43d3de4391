"""Records: what they say, and when they may be used."""

import dataclasses
import json
from importlib import resources

import jsonschema
import pytest
import torch
from test_calibrate import CRYSTALS, EFFORT, SIZES, scripted
from workloads import Linear

from nodebudget.applicable import check_applicable, differences
from nodebudget.calibrate import calibrate
from nodebudget.errors import RecordError


@pytest.fixture(scope="module")
def made():
    workload, probe = scripted()
    return calibrate(workload, CRYSTALS, SIZES, probe, effort=EFFORT), workload, probe


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


def test_where_it_was_made_nothing_differs(made):
    calibration, workload, probe = made
    assert differences(calibration, workload=workload, probe=probe) == []
    check_applicable(calibration, workload=workload, probe=probe)


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
