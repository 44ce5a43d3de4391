"""The data loading study: pairs of runs that differ in one setting, each in its own process."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import psutil
import pytest
import torch
from click.testing import CliRunner
from crystals import entries
from data_loading import Options, Study, _check_shared, _reason, _run, run_study
from data_loading.__main__ import main
from data_loading.claims import Noise, judge
from data_loading.host import host_memory, stable_memory
from data_loading.pairs import find, pairs_of
from data_loading.report import study_text
from data_loading.setup import Outcome, Setup
from paths import ROOT

from nodebudget.errors import DoesNotFitError, InputError, WorkloadError

MIB = 2**20
BASE = Setup("nowhere", "cpu", 4)
TOOK = Outcome(
    device=100 * MIB,
    reserved=None,
    host=500 * MIB,
    pss=600 * MIB,
    uss=550 * MIB,
    in_flight=0,
    processes=1,
    batch=10 * MIB,
    pinned=0,
    pinned_graph=0,
    graphs=5 * MIB,
    graph_devices=("cpu",),
    text=50 * MIB,
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("study") / "crystals.json"
    path.write_text(json.dumps(entries(most=12, count=16)))
    return str(path)


@pytest.fixture(scope="module")
def measured(data):
    """What the command prints, as a user runs it."""
    options = ["--device", "cpu", "--data", data, "--batch-size", "4", "--workers", "1", "--json"]
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts/studies/data_loading"), *options], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def pair(measured, name):
    return next(entry for entry in measured["pairs"] if entry["setting"] == name)


def claim(measured, number):
    return next(entry for entry in measured["claims"] if entry["number"] == number)


@pytest.mark.slow
def test_workers_hold_batches_in_host_memory_as_the_formula_says(measured):
    found = pair(measured, "prefetch_factor")
    assert found["formula_host_bytes"] == 6 * found["a"]["batch"]
    assert found["host_bytes"] == pytest.approx(found["formula_host_bytes"], rel=0.2)
    assert found["b"]["in_flight"] - found["a"]["in_flight"] == pytest.approx(found["formula_host_bytes"], rel=0.2)
    assert found["a"]["processes"] == 2


@pytest.mark.slow
def test_a_worker_takes_memory_itself(measured):
    assert claim(measured, 3)["host"] == "confirmed"
    found = pair(measured, "num_workers")
    assert found["host_bytes"] > 2 * found["b"]["batch"]
    assert found["a"]["processes"] == 1


@pytest.mark.slow
def test_a_cache_of_encodings_is_in_host_memory_and_spares_the_encoder(measured):
    found = pair(measured, "text cache")
    assert found["b"]["text"] % (768 * 4) == 0
    assert found["formula_host_bytes"] > found["b"]["text"]
    assert found["device_bytes"] < 0
    assert measured["noise"]["host"] < 0.2 * found["formula_host_bytes"]


@pytest.mark.slow
def test_a_graph_cache_is_on_the_host(measured):
    found = pair(measured, "graph cache")
    assert found["b"]["graph_devices"] == ["cpu"]
    assert found["a"]["graphs"] == 0
    assert found["b"]["graphs"] > 0
    assert found["device_bytes"] == 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="PyTorch pins here")
@pytest.mark.slow
def test_without_a_gpu_nothing_is_claimed_of_device_memory(measured):
    assert {entry["device"] for entry in measured["claims"]} == {"not measured"}
    assert "no accelerator is found" in claim(measured, 2)["reason"]
    assert pair(measured, "pin_memory")["b"]["pinned"] == 0
    said = " ".join(measured["not_measured"])
    assert "without an accelerator PyTorch ignores it" in said
    assert "traced on the CPU" in said


@pytest.mark.parametrize("cuda", [False, True])
def test_the_runs_of_a_pair_differ_in_one_setting(cuda):
    for made in pairs_of(BASE, 2, cuda=cuda):
        first, second = asdict(made.a), asdict(made.b)
        assert sum(first[name] != second[name] for name in first) == 1, made.name


def outcomes(changes, cuda=True):
    """Outcomes of all runs, alike but for those whose setup has one of these (field, value)."""
    pairs = pairs_of(BASE, 2, cuda=cuda)
    found = {setup: TOOK for made in pairs for setup in (made.a, made.b)}
    for (name, value), change in changes.items():
        found |= {setup: replace(took, **change) for setup, took in found.items() if getattr(setup, name) == value}
    return find(pairs, found)


@pytest.mark.parametrize(
    ("number", "where", "change"),
    [
        (2, ("pin_memory", True), {"device": 110 * MIB, "pinned": 10 * MIB}),
        (3, ("num_workers", 2), {"device": 140 * MIB, "processes": 3}),
        (4, ("graphs", "cached"), {"graph_devices": ("cuda:0",)}),
        (5, ("text", "cached"), {"device": 150 * MIB}),
    ],
)
def test_what_raises_device_memory_is_confirmed(number, where, change):
    usual = {("pin_memory", True): {"pinned": 10 * MIB}, ("num_workers", 2): {"processes": 3}}
    claims = judge(outcomes({**usual, where: change}), Noise(0, 0), cuda=True)
    verdicts = {entry.number: entry.device for entry in claims}
    assert verdicts.pop(number) == "confirmed"
    assert set(verdicts.values()) == {"refuted"}
    # Within the noise of two equal runs it is none.
    assert judge(outcomes(usual), Noise(200 * MIB, 0), cuda=True)[0].device == "refuted"


@pytest.mark.parametrize(
    ("batch", "more", "verdict"), [(10, 110, "confirmed"), (10, 10, "refuted"), (2, 1, "not measured")]
)
def test_host_memory_follows_the_formula_or_not_or_there_is_too_little_to_tell(batch, more, verdict):
    usual = {("num_workers", 2): {"processes": 3, "batch": batch * MIB}}
    findings = outcomes({**usual, ("prefetch_factor", 8): {"host": TOOK.host + more * MIB}})
    assert judge(findings, Noise(0, 0), cuda=True)[1].host == verdict


def test_people_get_a_table_and_verdicts():
    findings = outcomes({("num_workers", 2): {"processes": 3, "host": 560 * MIB}}, cuda=False)
    claims = judge(findings, Noise(0, MIB), cuda=False)
    about = {"device": "cpu", "name": "a processor"}
    text = study_text(Study(about, 16, 4, Noise(0, MIB), findings, claims, ("nothing",)))
    assert "traced on the CPU (a processor)" in text
    assert "num_workers" in text
    assert "+60.0 MiB" in text
    assert "10.0 MiB per worker process" in text
    assert "Claim 5" in text
    assert text.endswith("Not measured on this machine: nothing.")


class _Large(torch.utils.data.Dataset):
    def __len__(self):
        return 64

    def __getitem__(self, index):
        return torch.ones(MIB // 4)


def mapped_shared_memory():
    """Shared memory in the PSS of this process and all that it started, bytes."""
    here = psutil.Process()
    rolled = [Path(f"/proc/{one.pid}/smaps_rollup").read_text() for one in (here, *here.children(recursive=True))]
    lines = [line for text in rolled for line in text.splitlines() if line.startswith("Pss_Shmem:")]
    return sum(int(line.split()[1]) * 1024 for line in lines)


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="the system does not tell PSS by kind")
def test_batches_on_their_way_from_workers_are_counted():
    before = host_memory()
    loader = torch.utils.data.DataLoader(_Large(), batch_size=4, num_workers=1, prefetch_factor=4)
    waiting = iter(loader)
    batch = next(waiting)
    found = stable_memory()
    assert before.in_flight == 0
    assert before.processes + 1 == found.processes
    # Four made ahead, and the one at hand.
    assert found.in_flight == pytest.approx(5 * batch.nbytes, rel=0.05)
    assert found.total - before.total >= found.in_flight
    assert found.uss <= found.pss
    # No process maps those that wait, so PSS has at most the one at hand. Its part for shared memory alone, since the
    # whole changes with every other program that starts or ends.
    assert mapped_shared_memory() < 2 * batch.nbytes


def test_settling_waits_until_nothing_changes():
    started = time.monotonic()
    changes = iter([*(replace(host_memory(), total=count) for count in range(10, 60, 10))])
    last = replace(host_memory(), total=70)
    assert stable_memory(lambda: next(changes, last)).total == 70
    assert time.monotonic() > started


@pytest.mark.slow
def test_a_run_that_fails_names_itself_and_the_reason(tmp_path):
    with pytest.raises(WorkloadError, match=r"num_workers=2.*FileNotFoundError.*--batch-size"):
        _run(replace(BASE, folder=str(tmp_path), num_workers=2))


@pytest.mark.parametrize(
    ("returncode", "stderr", "reason"),
    [
        (-9, "", "ended by SIGKILL"),
        (1, "Traceback\nValueError: wide", "ValueError: wide"),
        (1, "", "without a message"),
    ],
)
def test_the_reason_is_a_signal_or_the_last_line(returncode, stderr, reason):
    assert reason in _reason(subprocess.CompletedProcess([], returncode, "", stderr))


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="no shared memory as files")
def test_batches_that_do_not_fit_into_shared_memory_are_refused_before_a_worker_dies():
    _check_shared(BASE, 2**60)
    with pytest.raises(DoesNotFitError, match="--shm-size"):
        _check_shared(replace(BASE, num_workers=2), 2**60)


@pytest.mark.parametrize("wrong", [{"batch_size": 0}, {"workers": 0}, {"limit": 1}])
def test_options_that_can_not_be(wrong):
    with pytest.raises(InputError, match=r"is [01] "):
        Options(**wrong)


def test_a_crystal_that_makes_no_graph_is_named(tmp_path):
    path = tmp_path / "crystals.json"
    path.write_text(json.dumps([entries(4, 1)[0], {"jid": "broken", "atoms": {"elements": ["Si"]}}]))
    result = CliRunner().invoke(main, ["--device", "cpu", "--data", str(path)])
    assert result.exit_code == 2
    assert "crystal 1 (broken) can't be read" in result.stderr.splitlines()[-1]


def test_no_crystals():
    with pytest.raises(InputError, match="no crystals"):
        run_study([], Options(), lambda *_: None)


def test_wrong_usage_is_one_sentence_and_exit_2(tmp_path, data):
    sizes = tmp_path / "sizes.csv"
    sizes.write_text("nodes\n3\n")
    cases = {
        ("--device", "cpu", "--data", str(sizes)): "holds sizes, but the study needs crystals",
        ("--device", "cpu", "--data", data, "--limit", "1"): "limit is 1",
        ("--device", "tpu", "--data", data): "'tpu'",
    }
    for arguments, words in cases.items():
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 2, arguments
        assert words in result.stderr
        assert len(result.stderr.strip().splitlines()) == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there(data):
    result = CliRunner().invoke(main, ["--gpu", "0", "--data", data])
    assert result.exit_code == 3
    assert "CUDA is not available" in result.stderr
