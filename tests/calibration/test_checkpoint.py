"""A calibration that is interrupted goes on where it was."""

import json

import pytest
from scripted_probe import CONFIG, CRYSTALS, SIZES, scripted

from nodebudget.calibration.calibrate import CalibrationConfig, calibrate
from nodebudget.errors import RecordError, WorkloadError


class StopError(Exception):
    """Stands for an interrupt."""


def interrupted_after(count, path):
    workload, probe = scripted()

    def stop(done, total):
        if done == count:
            raise StopError

    with pytest.raises(StopError):
        calibrate(workload, CRYSTALS, SIZES, probe, config=CONFIG, checkpoint=path, progress=stop)
    return probe


@pytest.mark.parametrize("count", [1, 5, 11])
def test_what_was_measured_is_not_measured_again(tmp_path, count):
    path = tmp_path / "probes.jsonl"
    interrupted_after(count, path)
    assert len(path.read_text().splitlines()) == 1 + count
    workload, probe = scripted()
    resumed = calibrate(workload, CRYSTALS, SIZES, probe, config=CONFIG, checkpoint=path, resume=True)
    assert len(probe.tried) == 2 + 12 - count
    workload, probe = scripted()
    whole = calibrate(workload, CRYSTALS, SIZES, probe, config=CONFIG)
    assert resumed.coefficients == whole.coefficients


def test_half_a_last_line_is_left_out(tmp_path):
    path = tmp_path / "probes.jsonl"
    interrupted_after(5, path)
    path.write_text(path.read_text()[:-20])
    workload, probe = scripted()
    calibrate(workload, CRYSTALS, SIZES, probe, config=CONFIG, checkpoint=path, resume=True)
    assert len(probe.tried) == 2 + 12 - 4


def test_without_resume_it_starts_anew(tmp_path):
    path = tmp_path / "probes.jsonl"
    interrupted_after(5, path)
    workload, probe = scripted()
    calibrate(workload, CRYSTALS, SIZES, probe, config=CONFIG, checkpoint=path)
    assert len(probe.tried) == 2 + 12


def test_another_calibration_is_refused(tmp_path):
    path = tmp_path / "probes.jsonl"
    interrupted_after(5, path)
    workload, probe = scripted()
    other = CalibrationConfig(12, 8, seed=1)
    with pytest.raises(RecordError, match=r"belongs to another calibration \(different config\)"):
        calibrate(workload, CRYSTALS, SIZES, probe, config=other, checkpoint=path, resume=True)
    path.write_text(json.dumps([]) + "\n")
    with pytest.raises(RecordError, match="is not the file of a calibration"):
        calibrate(workload, CRYSTALS, SIZES, probe, config=CONFIG, checkpoint=path, resume=True)


def test_a_calibration_that_saw_nothing_leaves_nothing(tmp_path):
    path = tmp_path / "probes.jsonl"
    workload, probe = scripted()

    def fails(samples):
        raise RuntimeError("at once")

    workload.batch = fails
    with pytest.raises(WorkloadError, match="at once"):
        calibrate(workload, CRYSTALS, SIZES, probe, config=CONFIG, checkpoint=path)
    assert not path.exists()
