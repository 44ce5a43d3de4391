"""`nodebudget calibrate --gpu N` from the command line, in a process of its own."""

from __future__ import annotations

import json

import pytest
from on_device import MIB

from nodebudget import Calibration


def toml(folder, **arguments):
    lines = [f"{name} = {value}" for name, value in arguments.items()]
    path = folder / "workload.toml"
    path.write_text('workload = "linegraph_net:LineGraphWorkload"\n[arguments]\n' + "\n".join(lines) + "\n")
    return str(path)


def test_the_record_holds_what_was_measured_on_the_gpu(calibrate, tmp_path):
    out = tmp_path / "cal.json"
    done = calibrate("--gpu", "0", "-o", str(out))
    assert done.returncode == 0, done.stderr
    record = Calibration.load(out)
    device = record.context["device"]
    assert device["device"] == "cuda:0"
    assert device["memory"] > 0
    assert device["cuda"]
    assert device["allocator"] == "default"
    assert len(record.observations) == 18
    for seen in record.observations:
        assert seen.reserved >= seen.allocated >= seen.peak > seen.resident > 0
        assert seen.outside is not None
        assert seen.retries == 0
    # Allocations do not depend on what is computed.
    assert record.holdout.n == 6
    assert record.holdout.mape <= 0.005
    assert record.holdout.max_under <= 0.01
    # A stretch of a planned epoch, with either setting of the allocator.
    soaked = record.context["allocator"]
    assert set(soaked) == {"default", "expandable"}
    for overhead in soaked.values():
        assert overhead["how"] == "replayed"
        assert overhead["reserved"] >= overhead["allocated"] >= overhead["requested"] > 0
        assert overhead["least"] > overhead["requested"]
    assert soaked["expandable"]["reserved"] <= soaked["default"]["reserved"]


def test_the_allocators_settings_are_in_the_record(calibrate):
    done = calibrate("--gpu", "0", "--json", PYTORCH_ALLOC_CONF="expandable_segments:True")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["device"]["allocator"] == "expandable_segments:True"


@pytest.mark.usefixtures("stand_in")
def test_a_dgl_without_cuda_is_named_before_a_step_runs_into_it(calibrate):
    done = calibrate("--gpu", "0", workload="alignn")
    assert done.returncode == 3
    assert "DGL 1.1.3 is built without CUDA" in done.stderr
    assert "--workload alignn-pure" in done.stderr


@pytest.mark.usefixtures("stand_in")
def test_the_second_of_two_devices(calibrate):
    done = calibrate("--gpu", "1", "--json", STUBCUDA_DEVICES=2)
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert record["device"]["device"] == "cuda:1"
    assert all(entry["reserved"] >= entry["peak"] for entry in record["observations"])


def test_a_device_that_is_not_there(calibrate):
    done = calibrate("--gpu", "99")
    assert done.returncode == 3
    assert "there is no GPU 99" in done.stderr
    assert "numbered from 0" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.usefixtures("stand_in")
def test_probes_stay_within_what_a_half_full_device_has_left(calibrate, tmp_path):
    total = 640 * MIB
    workload = toml(tmp_path, width=256, hold=total // 2)
    done = calibrate("--gpu", "0", "--json", workload=workload, STUBCUDA_BYTES=total)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)["observations"]
    assert {entry["role"] for entry in seen} <= {"floor", "fit", "holdout", "repeat"}
    assert len(seen) < 18, "everything was tried, so the limit was not"
    for entry in seen:
        assert entry["resident"] > total // 2
        assert entry["peak"] - entry["resident"] <= 0.85 * (total - entry["resident"])


@pytest.mark.usefixtures("stand_in")
def test_a_device_too_small_for_a_single_graph(calibrate, tmp_path):
    done = calibrate("--gpu", "0", workload=toml(tmp_path, width=256, layers=4), STUBCUDA_BYTES=60 * MIB)
    assert done.returncode == 1
    sentence = done.stderr.strip().splitlines()[-1]
    assert "not even a training step on crystal" in sentence
    assert "AFLOW-" in sentence
    assert "MiB" in sentence
    assert "Traceback" not in done.stderr


@pytest.mark.usefixtures("stand_in")
def test_a_device_too_small_for_the_model(calibrate, tmp_path):
    done = calibrate("--gpu", "0", workload=toml(tmp_path, width=1024, layers=4), STUBCUDA_BYTES=60 * MIB)
    assert done.returncode == 1
    assert "making the workload" in done.stderr
    assert "ran out of memory" in done.stderr
    assert "Traceback" not in done.stderr
