"""Logs of runs that were killed, cut, not closed, appended to, or are other files."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from paths import ROOT
from torch.utils.data import DataLoader

from nodebudget import MemoryMonitor, read_run
from nodebudget.errors import InputError, RecordError
from nodebudget.monitor.log_reader import RunReader
from nodebudget.monitor.summary import summarize

#: Trains until it is killed, or for two epochs.
TRAINING = """
import itertools, sys
from nodebudget import MemoryMonitor
monitor = MemoryMonitor(sys.argv[1], device="cpu")
for epoch in range(2) if sys.argv[2] == "end" else itertools.count():
    for batch in monitor.watch([1, 2]):
        pass
    print(epoch, flush=True)
"""


def training(path: Path, until: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", TRAINING, str(path), until]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def test_a_killed_run_leaves_a_readable_log(tmp_path):
    path = tmp_path / "run.jsonl"
    with training(path, "killed") as process:
        try:
            for _ in range(3):
                assert process.stdout.readline()
        finally:
            process.send_signal(signal.SIGKILL)
    run = read_run(path)
    assert len(run.steps) >= 6
    assert [step["step"] for step in run.steps] == list(range(1, len(run.steps) + 1))
    assert run.end is None
    assert "killed" in summarize(run)["status"]


def test_a_run_that_was_never_closed_ends_with_its_process(tmp_path):
    path = tmp_path / "run.jsonl"
    with training(path, "end") as process:
        process.communicate()
    run = read_run(path)
    assert run.end["status"] == "exit"
    assert run.end["steps"] == len(run.steps) == 4


def test_worker_processes_write_nothing_into_the_log(tmp_path):
    with MemoryMonitor(tmp_path / "run.jsonl") as monitor:
        loader = DataLoader(_Logging(monitor), batch_size=2, num_workers=2)
        assert sum(1 for _ in monitor.watch(loader)) == 3
    run = read_run(monitor.path)
    assert [event["event"] for event in run.events] == ["epoch"]
    assert len(run.steps) == 3


class _Logging(torch.utils.data.Dataset):
    def __init__(self, monitor):
        self.monitor = monitor

    def __len__(self):
        return 6

    def __getitem__(self, index):
        self.monitor.log("from a worker")
        return index


def log_of(path, **how):
    with MemoryMonitor(path, **how) as monitor:
        for _ in monitor.watch(range(3)):
            pass
    return path


class TestWriting:
    def test_a_log_that_exists(self, tmp_path):
        path = log_of(tmp_path / "run.jsonl")
        with pytest.raises(InputError, match="exists"):
            MemoryMonitor(path)
        with path.open("a") as file:
            file.write('{"event":"step","st')
        log_of(path, existing="append")
        run = read_run(path)
        assert (run.parts, run.damaged, len(run.steps), run.end["status"]) == (2, 0, 6, "done")
        log_of(path, existing="overwrite")
        assert read_run(path).parts == 1
        with pytest.raises(InputError, match="existing is 'keep'"):
            MemoryMonitor(path, existing="keep")

    def test_another_file_is_not_appended_to(self, tmp_path):
        path = tmp_path / "run.jsonl"
        for content in ("my thesis", "my thesis\n", '{"kind":"nodebudget.plan"}\n'):
            path.write_text(content)
            with pytest.raises(RecordError, match="is not the file of a monitored run"):
                MemoryMonitor(path, existing="append")
            assert path.read_text() == content
        path.write_text('{"kind":"nodebudget.run","schema_v')
        assert read_run(log_of(path, existing="append")).parts == 1

    def test_a_folder_that_is_missing(self, tmp_path):
        with pytest.raises(InputError, match="no folder"):
            MemoryMonitor(tmp_path / "none" / "run.jsonl")

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
    def test_a_full_disk_ends_the_log_and_not_the_training(self):
        with pytest.warns(UserWarning, match=r"the log ends here: '/dev/full' could not be written: No space left"):
            monitor = MemoryMonitor("/dev/full", existing="overwrite")
        assert sum(1 for _ in monitor.watch(range(3))) == 3
        monitor.close()

    @pytest.mark.parametrize("value", [float("nan"), torch.ones(1), {1, 2}])
    def test_a_value_that_is_not_json_does_not_end_the_training(self, value, tmp_path):
        with MemoryMonitor(tmp_path / "run.jsonl") as monitor:
            with pytest.warns(UserWarning, match="a line is missing in"):
                monitor.log("validation", mae=value)
            monitor.log("validation", mae=0.1)
        assert [event["mae"] for event in read_run(monitor.path).events] == [0.1]

    def test_each_rank_has_its_own_file(self, tmp_path, monkeypatch):
        from nodebudget.monitor import log

        monkeypatch.setattr(log, "world_and_rank", lambda *_: (2, 1))
        path = tmp_path / "run.jsonl"
        log_of(path)
        assert [path.name for path in tmp_path.iterdir()] == ["run.rank1.jsonl"]
        assert read_run(tmp_path / "run.rank1.jsonl").header["rank"] == 1


class TestReading:
    @pytest.mark.parametrize("cut", range(1, 60, 7))
    def test_a_torn_last_line_is_left_out(self, cut, tmp_path):
        path = log_of(tmp_path / "run.jsonl")
        whole = path.read_bytes().rstrip(b"\n")
        path.write_bytes(whole[:-cut])
        run = read_run(path)
        assert len(run.steps) == 3
        assert run.end is None

    def test_a_log_is_read_as_it_grows_and_again_when_it_is_overwritten(self, tmp_path):
        whole = log_of(tmp_path / "run.jsonl")
        lines, path = whole.read_bytes().splitlines(keepends=True), tmp_path / "growing.jsonl"
        path.write_bytes(lines[0][:40])
        reader = RunReader(path)
        assert reader.run.parts == 0
        for count in range(1, len(lines) + 1):
            path.write_bytes(b"".join(lines[:count]) + b'{"half')
            assert reader.update()
            assert not reader.update()
        assert reader.run == read_run(whole)
        path.write_bytes(lines[0] + lines[1])
        assert reader.update()
        assert (reader.run.steps, len(reader.run.events)) == ([], 1)

    @pytest.mark.parametrize(
        ("content", "words"),
        [
            ("", "is not a file of kind 'nodebudget.run'"),
            ("hello\n", "is not a file of kind 'nodebudget.run'"),
            ("\x00\x01\x02", "is not a file of kind 'nodebudget.run'"),
            ("[1, 2]\n", "is not a file of kind 'nodebudget.run'"),
            ('{"kind": "nodebudget.calibration", "schema_version": 1}\n', "its kind is 'nodebudget.calibration'"),
            ('{"kind": "nodebudget.run", "schema_version": 99}\n', "schema version 99"),
        ],
    )
    def test_another_file(self, content, words, tmp_path):
        path = tmp_path / "run.jsonl"
        path.write_text(content)
        with pytest.raises(RecordError, match=words):
            read_run(path)

    def test_a_file_that_is_missing(self, tmp_path):
        with pytest.raises(RecordError, match="can't be read"):
            read_run(tmp_path / "none.jsonl")
