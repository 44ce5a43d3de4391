"""`nodebudget monitor`: a summary, a live view, and files that are not logs."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import threading
import time

import pytest
from calibrations import calibration
from click.testing import CliRunner
from paths import ROOT
from rich.console import Console

from nodebudget import MemoryMonitor, SizeTable, read_run
from nodebudget.cli import main
from nodebudget.monitor.summary import summarize
from nodebudget.report.formats import duration
from nodebudget.report.run import run_report
from nodebudget.report.text.live_view import live_view
from nodebudget.report.text.render import render

TABLE = SizeTable.from_counts(nodes=[10, 20, 30, 40], edges=[100, 200, 300, 400])
CALIBRATION = calibration(2.0**20, per_node=2.0**20)


def begin(path, **how):
    return MemoryMonitor(path, calibration=CALIBRATION, sizes=TABLE, device="cpu", batches=8, **how)


@pytest.fixture
def log(tmp_path):
    path = tmp_path / "run.jsonl"
    with begin(path) as monitor:
        for _ in range(2):
            for _ in monitor.watch([[0, 1], [2, 3]]):
                pass
    return path


def add(path, **changes):
    """Write what a GPU would have been seen to do: measured peaks beside the predicted ones."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        if line.get("event") == "step":
            line |= {"measured": round(line["predicted"] * 1.1), "reserved": 2 * line["predicted"], "retries": 1}
            line |= changes
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def invoke(*arguments):
    return CliRunner().invoke(main, ["monitor", *map(str, arguments)])


def test_a_summary(log):
    done = invoke(log)
    assert done.exit_code == 0, done.output
    assert "4 of 8 batches" in done.output
    assert "predicted peak" in done.output
    assert "51.0 MiB" in done.output  # a mean of 50 nodes
    assert "counts no peak" in done.output
    assert "measured peak" not in done.output


def test_a_summary_of_measured_peaks(log):
    add(log)
    done = invoke(log, "--capacity", "1GiB")
    assert "Measured peaks are 10.00% over the predicted ones" in done.output
    assert "4 times the allocator emptied its cache" in done.output
    assert "The highest step took 142 MiB, 14% of 1.00 GiB" in done.output


def test_json(log):
    add(log)
    done = invoke(log, "--json", "--capacity", "1GiB")
    found = json.loads(done.stdout)
    assert found["batches"] == 4
    assert found["of"] == 8
    assert found["epochs"] == 2
    assert found["status"] == "done"
    assert found["drift"] == pytest.approx(0.1, abs=1e-6)
    assert found["retries"] == 4
    assert found["capacity"] == 2**30
    assert found["sizes"]["nodes"] == {"mean": 50, "min": 30, "max": 70, "cv": pytest.approx(0.4)}
    assert found["predicted"]["max"] == 71 * 2**20
    assert found["predicted"]["cv"] == pytest.approx(20 / 51)
    assert len(found["slowest"]) == 4
    assert found["seconds_left"] is None


@pytest.mark.parametrize("content", ["", "text\n", '{"kind": "nodebudget.calibration"}\n'])
def test_another_file_is_one_sentence(content, tmp_path):
    path = tmp_path / "other.json"
    path.write_text(content)
    done = invoke(path)
    assert done.exit_code == 2
    assert done.stderr.startswith("nodebudget: ")
    assert len(done.stderr.splitlines()) == 1


def test_a_missing_file_and_a_wrong_capacity(tmp_path, log):
    assert invoke(tmp_path / "none.jsonl").exit_code == 2
    assert "not an amount of memory" in invoke(log, "--capacity", "much").stderr


def test_a_run_without_a_batch(tmp_path):
    path = tmp_path / "run.jsonl"
    begin(path).close()
    done = invoke(path)
    assert done.exit_code == 0, done.output
    assert "0 of 8 batches" in done.output
    assert json.loads(invoke(path, "--json").stdout)["predicted"] is None


def test_following_ends_with_the_run(tmp_path):
    path = tmp_path / "run.jsonl"
    monitor = begin(path)

    def train():
        for _ in monitor.watch([[0], [1], [2]]):
            time.sleep(0.05)
        monitor.close()

    thread = threading.Thread(target=train)
    thread.start()
    done = invoke(path, "--follow")
    thread.join()
    assert done.exit_code == 0, done.output
    assert "3 of 8 batches" in done.output
    assert done.output.rstrip().count("done") == 1


def test_following_a_run_whose_process_is_gone_ends(tmp_path):
    path = tmp_path / "run.jsonl"
    monitor = begin(path)
    gone = subprocess.Popen(["true"])
    gone.wait()
    header = json.loads(path.read_text().splitlines()[0])
    path.write_text(json.dumps({**header, "pid": gone.pid}) + "\n")
    done = invoke(path, "--follow")
    assert done.exit_code == 0, done.output
    assert "running, or killed" in done.stdout
    assert done.stderr == ""
    monitor.close()


def test_ctrl_c_ends_following_with_a_summary(tmp_path, monkeypatch):
    path = tmp_path / "run.jsonl"
    monitor = begin(path)
    for _ in monitor.watch([[0], [1]]):
        pass

    def interrupt(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr("nodebudget.cli.monitor.time.sleep", interrupt)
    done = invoke(path, "--follow")
    assert done.exit_code == 0
    assert "2 of 8 batches" in done.output
    monitor.close()


def drawn(view):
    console = Console(file=io.StringIO(), width=110, color_system=None)
    console.print(view)
    return console.file.getvalue()


def test_the_live_view(log):
    add(log)
    lines = log.read_text().splitlines()[:-1]
    log.write_text("\n".join(lines) + "\n")
    run = read_run(log)
    run.add({"event": "warning", "about": "leak", "step": 4, "text": "a leak: [it] grows"})
    text = drawn(live_view(run, 2**30, gpu="driver: 3.00 GiB of 80.0 GiB in use"))
    assert "batch 4 of 8" in text
    assert "left" in text
    assert "graphs/s" in text
    assert "of 1.00 GiB" in text
    assert "2 graphs, 70 nodes, 700 edges" in text
    assert "driver: 3.00 GiB" in text
    assert "step 4: a leak: [it] grows" in text
    for name in ("measured peak", "predicted peak", "reserved by PyTorch", "resident set"):
        assert name in text


def test_the_live_view_of_a_run_that_has_just_begun(tmp_path):
    monitor = begin(tmp_path / "run.jsonl")
    assert "no batch yet" in drawn(live_view(read_run(monitor.path), None))
    monitor.close()


def test_time_left_is_of_the_epoch_where_the_run_is_not_known(tmp_path):
    monitor = MemoryMonitor(tmp_path / "run.jsonl", device="cpu")
    for done, _ in enumerate(monitor.watch(range(10)), start=1):
        if done == 4:
            found = summarize(read_run(monitor.path))
            text = drawn(live_view(read_run(monitor.path), None))
            break
    monitor.close()
    assert found["seconds_left"] > 0
    assert "batch 3 of 10" in text
    assert "left in this epoch" in text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0123, "12.3 ms"),
        (6.14, "6.14 s"),
        (245, "4:05"),
        (3723, "1:02:03"),
        (59.97, "1:00"),
        (0.9999, "1.00 s"),
        (0, "0 s"),
        (3e-6, "3.00 µs"),
        (2e-10, "0.200 ns"),
    ],
)
def test_times_for_people(seconds, text):
    assert duration(seconds) == text


def test_run_text_needs_no_device(log):
    run = read_run(log)
    run.header["device"] = {}
    assert "a device (unknown)" in render(run_report(run))


@pytest.mark.slow
def test_the_overhead_benchmark_runs():
    script = str(ROOT / "scripts" / "benchmarks" / "monitor_overhead.py")
    command = [sys.executable, script, "--steps", "3", "--hidden", "8", "--layers", "1", "--batch", "4", "--json"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["steps"] == 3
    # No bounds here: on steps this small and few they would be those of the machine.
    assert found["alone_share_of_step"] > 0
