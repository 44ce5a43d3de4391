"""`nodebudget tune` and `doctor` on a CUDA device."""

from __future__ import annotations

import json

from on_device import MIB, python


def test_tuning_times_budgets_up_to_what_fits(calibrate, data, tmp_path):
    record = tmp_path / "cal.json"
    assert calibrate("--gpu", "0", "-o", str(record)).returncode == 0
    command = ["-m", "nodebudget", "tune", "--gpu", "0", "--workload", "linegraph_net:LineGraphWorkload"]
    more = ["--calibration", str(record), "--memory", "256MiB", "--budgets", "4", "--repeats", "2", "--json"]
    done = python(*command, "--data", data, *more)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["device"]["device"] == "cuda:0"
    assert said["recommended_bytes"] <= said["largest_bytes"] <= 256 * MIB
    assert all(point["seconds"] > 0 for point in said["curve"])


def test_the_doctor_sees_the_device():
    done = python("-m", "nodebudget", "doctor", "--json")
    said = json.loads(done.stdout)
    assert said["device"] == "cuda:0"
    assert said["gpus"][0]["total_bytes"] >= said["gpus"][0]["free_bytes"] > 0
    by_name = {check["name"]: check["state"] for check in said["checks"]}
    assert by_name["CUDA"] == by_name["GPU 0"] == "ok"
    # DGL's wheels on PyPI are built without CUDA: said before a step runs into it.
    assert done.returncode == (0 if by_name["DGL"] == "ok" else 3)
