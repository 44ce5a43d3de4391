"""The sizes are the same in whatever process they are counted, and however the work is split."""

from __future__ import annotations

import math
import multiprocessing
import os
import pickle
import random
import signal
import time
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor

import psutil
import pytest
from click.testing import CliRunner
from crystals import entries
from formats import WRITERS, check_in_process, tables_equal, write_lines
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nodebudget.cli import main
from nodebudget.datasets.graph_settings import GraphSettings
from nodebudget.datasets.measure import MeasureOptions, measure
from nodebudget.datasets.readers import source as sources
from nodebudget.datasets.readers.source import Chunk
from nodebudget.datasets.workers import dask_executor, measure_chunks
from nodebudget.errors import CrystalError, InputError, NodeBudgetError

CRYSTALS = entries(6, 12)


class Lazy(Executor):
    """Works as late as possible and in any order, on what another process would get."""

    def __init__(self, seed):
        self._random, self._todo = random.Random(seed), []

    def submit(self, work, /, *arguments, **options):
        lazy, future = self, LazyFuture()
        future.wake = lambda: lazy.run(future)
        self._todo.append((future, work, arguments))
        return future

    def run(self, wanted):
        while not wanted.done():
            future, work, arguments = self._todo.pop(self._random.randrange(len(self._todo)))
            function, values = pickle.loads(pickle.dumps((work, arguments)))
            future.set_result(pickle.loads(pickle.dumps(function(*values))))


class LazyFuture(Future):
    def result(self, timeout=None):
        self.wake()
        return super().result(timeout)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(list(WRITERS)),
    chunk=st.integers(1, 13),
    size=st.sampled_from([1, 2000, 10**7]),
    broken=st.sets(st.integers(0, 11), max_size=3),
    seed=st.integers(0, 99),
)
def test_sizes_are_equal_however_the_work_is_split(name, chunk, size, broken, seed, tmp_path_factory):
    made = [{**entry, "atoms": {**entry["atoms"], "coords": [[0.0]]}} if i in broken else entry
            for i, entry in enumerate(CRYSTALS)]  # fmt: skip
    path = WRITERS[name](tmp_path_factory.mktemp("split") / name, CRYSTALS if name == "ase.db" else made)
    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(3) as threads:
        patch.setattr("nodebudget.datasets.readers.parquet.run_check", check_in_process)
        whole = measure(path, on_error="skip", cache=False)
        patch.setattr(sources, "CHUNK_RECORDS", chunk)
        patch.setattr(sources, "CHUNK_BYTES", size)
        patch.setattr("nodebudget.datasets.workers._PENDING", 1 + seed % 7)
        for executor in (Lazy(seed), threads, 0):
            tables_equal(measure(path, on_error="skip", cache=False, workers=executor), whole)
        if broken and name != "ase.db":
            with pytest.raises(CrystalError) as caught:
                measure(path, workers=Lazy(seed), cache=False)
            assert caught.value.index == min(broken)


def test_workers_change_nothing():
    many = (CRYSTALS * 12)[:140]
    many[130] = {"jid": "broken", "atoms": {**CRYSTALS[0]["atoms"], "coords": [[math.nan] * 3]}}
    tables_equal(measure(many, on_error="skip", workers=1), measure(many, on_error="skip"))


def test_pending_chunks_are_bounded_in_bytes_and_number():
    read = []

    def chunks(size):
        for number in range(50):
            read.append(number)
            yield Chunk(number, 1, [(None, CRYSTALS[0])], iter, size)

    lazy, graphs = Lazy(0), GraphSettings()
    for size, pending in ((100 * 2**20, 3), (2**40, 1)):
        read.clear()
        measured = measure_chunks(chunks(size), graphs, workers=lazy)
        next(measured)
        assert len(read) == pending
        measured.close()


def test_a_pool_of_the_caller_whose_process_dies(tmp_path):
    many = [{**entry, "jid": f"{n}-{entry['jid']}"} for n in range(30) for entry in CRYSTALS]
    path, output = write_lines(tmp_path / "a.jsonl", many), tmp_path / "s.npz"
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        tables_equal(measure(path, workers=pool, cache=False), measure(path, cache=False))
        assert pool.submit(int, "7").result() == 7  # it was left open

        def kill(done, total):
            for process in list(pool._processes.values()):
                os.kill(process.pid, signal.SIGKILL)

        with pytest.raises(NodeBudgetError, match=r"process that measured crystals died"):
            measure(path, workers=pool, output=output, progress=kill)
    assert (tmp_path / "s.npz.part").exists()
    notes = []
    table = measure(path, output=output, options=MeasureOptions(note=notes.append))
    assert "continuing after" in notes[0]
    assert table.fingerprint() == measure(many).fingerprint()


def test_workers_end_when_the_process_that_started_them_is_killed(tmp_path):
    many = [{**entry, "jid": f"{n}-{entry['jid']}"} for n in range(300) for entry in CRYSTALS]
    path, part = write_lines(tmp_path / "a.jsonl", many), tmp_path / "s.npz.part"
    options = {"output": tmp_path / "s.npz", "workers": 1, "cache": False}
    process = multiprocessing.get_context("fork").Process(target=measure, args=(path,), kwargs=options)
    process.start()
    while process.is_alive() and not (part.exists() and part.read_bytes().count(b"\n") > 1):
        time.sleep(0.02)
    children = psutil.Process(process.pid).children()
    process.kill()
    process.join()
    assert children
    _, left = psutil.wait_procs(children, timeout=30)
    assert left == []


def local_cluster(*, processes):
    options = {"processes": processes, "dashboard_address": None, "memory_limit": None, "silence_logs": 50}
    return pytest.importorskip("distributed").LocalCluster(n_workers=2, threads_per_worker=1, **options)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_dask_cluster_one_of_whose_processes_is_killed(tmp_path, monkeypatch):
    many = [{**entry, "jid": f"{n}-{entry['jid']}"} for n in range(20) for entry in CRYSTALS]
    path = write_lines(tmp_path / "a.jsonl", many)
    monkeypatch.setattr(sources, "CHUNK_RECORDS", 10)
    monkeypatch.setattr("nodebudget.datasets.workers._PENDING", 8)
    with local_cluster(processes=True) as cluster, dask_executor(cluster.scheduler_address) as executor:
        processes = [worker.pid for worker in cluster.workers.values()]

        def kill(done, total):
            if done == 50:
                os.kill(processes[0], signal.SIGKILL)

        table = measure(path, workers=executor, progress=kill, cache=False)
    monkeypatch.undo()
    tables_equal(table, measure(path, cache=False))
    with pytest.raises(ProcessLookupError):
        os.kill(processes[0], 0)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_command_on_a_dask_cluster(tmp_path):
    path = write_lines(tmp_path / "a.jsonl", CRYSTALS)

    def call(*options):
        return CliRunner().invoke(main, ["measure", str(path), "--json", "--no-cache", *options])

    with local_cluster(processes=False) as cluster:
        on_cluster = call("--dask", cluster.scheduler_address)
    assert on_cluster.exit_code == 0, on_cluster.output
    assert on_cluster.stdout == call().stdout
    both = call("--dask", cluster.scheduler_address, "--workers", "2")
    assert (both.exit_code, both.stdout) == (2, "")
    assert "--dask together with --workers" in both.stderr


def test_a_scheduler_that_does_not_answer():
    pytest.importorskip("distributed")
    for address in ("no address at all", "tcp://127.0.0.1:1", "udp://127.0.0.1:1"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("nodebudget.datasets.workers._DASK_TIMEOUT", 1)
            with pytest.raises(InputError, match="no Dask scheduler answers"), dask_executor(address):
                pass
