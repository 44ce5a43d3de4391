"""Logs of runs that were killed, cut, left open or are none, read back."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest
import torch
from paths import FIXTURES, ROOT
from torch.utils.data import DataLoader

from nodebudget import MemoryMonitor
from nodebudget.errors import RecordError
from nodebudget.monitor.log_reader import read_run
from nodebudget.monitor.summary import summarize

TRAINING = """
import sys, torch
torch.set_num_threads(1)
sys.path.insert(0, {tests!r})
from crystals import entries
from nodebudget import MemoryMonitor
from nodebudget.workloads.alignn import AlignnWorkload
workload = AlignnWorkload(alignn_layers=1, gcn_layers=1, hidden_features=8)
samples = [workload.sample(entry) for entry in entries(6, 8)]
monitor = MemoryMonitor({path!r}, model=workload.model)
for epoch in range({epochs}):
    for batch in monitor.watch([workload.batch(samples[:4]), workload.batch(samples[4:])]):
        workload.step(batch)
"""


def training(path, epochs):
    code = TRAINING.format(tests=str(FIXTURES), path=str(path), epochs=epochs)
    return subprocess.Popen([sys.executable, "-W", "ignore", "-c", code], cwd=ROOT)


def test_a_killed_run_leaves_a_readable_log(tmp_path):
    path = tmp_path / "run.jsonl"
    process = training(path, 10**6)
    try:
        while not (path.exists() and path.read_bytes().count(b'"event":"step"') >= 5):
            assert process.poll() is None
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    run = read_run(path)
    assert len(run.steps) >= 5
    assert [step["step"] for step in run.steps] == list(range(1, len(run.steps) + 1))
    assert run.end is None
    assert "killed" in summarize(run)["status"]


def test_a_run_that_was_never_closed_ends_with_its_process(tmp_path):
    path = tmp_path / "run.jsonl"
    assert training(path, 2).wait() == 0
    run = read_run(path)
    assert run.end["status"] == "exit"
    assert run.end["steps"] == len(run.steps) == 4


def test_worker_processes_write_nothing_into_the_log(tmp_path):
    with MemoryMonitor(tmp_path / "run.jsonl") as monitor:
        loader = DataLoader(_Keeps(monitor), batch_size=2, num_workers=2)
        assert sum(1 for _ in monitor.watch(loader)) == 3
    run = read_run(monitor.path)
    assert [event["event"] for event in run.events] == ["epoch"]
    assert len(run.steps) == 3


class _Keeps(torch.utils.data.Dataset):
    def __init__(self, monitor):
        self.monitor = monitor

    def __len__(self):
        return 6

    def __getitem__(self, index):
        self.monitor.log("from a worker")
        return index


class TestReading:
    @pytest.mark.parametrize("cut", range(1, 60, 7))
    def test_a_cut_last_line_is_left_out(self, cut, tmp_path):
        path = tmp_path / "run.jsonl"
        with MemoryMonitor(path) as monitor:
            for _ in monitor.watch(range(3)):
                pass
        whole = path.read_bytes().rstrip(b"\n")
        path.write_bytes(whole[:-cut])
        run = read_run(path)
        assert len(run.steps) == 3
        assert run.end is None

    @pytest.mark.parametrize(
        ("content", "says"),
        [
            ("", "is not a file of kind 'nodebudget.run'"),
            ("hello\n", "is not a file of kind 'nodebudget.run'"),
            ("\x00\x01\x02", "is not a file of kind 'nodebudget.run'"),
            ("[1, 2]\n", "is not a file of kind 'nodebudget.run'"),
            ('{"kind": "nodebudget.calibration", "schema_version": 1}\n', "is not a file of kind 'nodebudget.run'"),
            ('{"kind": "nodebudget.run", "schema_version": 99}\n', "schema version 99"),
        ],
    )
    def test_another_file(self, content, says, tmp_path):
        path = tmp_path / "run.jsonl"
        path.write_text(content)
        with pytest.raises(RecordError, match=says):
            read_run(path)

    def test_a_file_that_is_not_there(self, tmp_path):
        with pytest.raises(RecordError, match="can't be read"):
            read_run(tmp_path / "none.jsonl")
