"""Tables that are mapped instead of read, and plans that one process makes and others map."""

from __future__ import annotations

import mmap
import multiprocessing
import os
import signal
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from generated import TABLE, tables
from hypothesis import given

from nodebudget.datasets.size_table import SizeTable
from nodebudget.errors import InputError
from nodebudget.sampling.sampler import NodeBudgetSampler
from nodebudget.utils.mapped_arrays import map_arrays, write_arrays
from nodebudget.utils.shared_arrays import SharedArrays

NODES = np.maximum(1, np.random.default_rng(0).lognormal(3, 0.6, 3000)).astype(np.int64)
SIZES = SizeTable.from_counts(NODES, NODES * 12)


def is_mapped(array: Any) -> bool:
    while isinstance(array, np.ndarray):
        array = array.base
    return isinstance(array, mmap.mmap)


@given(table=tables())
def test_a_mapped_table_is_the_table(table: SizeTable, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = table.save(tmp_path_factory.mktemp("sizes") / "sizes.npz", compress=False)
    for found in (SizeTable.load(path, mmap=True), SizeTable.load(path)):
        assert found.fingerprint() == table.fingerprint()
        assert (found.ids is None) == (table.ids is None)
        assert table.ids is None or list(found.ids) == list(table.ids)


def test_columns_are_mapped_and_aligned(tmp_path: Path) -> None:
    for name in ("n", "a name", "length" * 20):
        table = TABLE.with_column(name, [7, 8, 9])
        path = table.save(tmp_path / "sizes.npz", compress=False, force=True)
        found = SizeTable.load(path, mmap=True)
        for column in (*found.columns.values(), found.ids):
            assert is_mapped(column)
            assert column.ctypes.data % 64 == 0
        assert not any(is_mapped(column) for column in SizeTable.load(path).columns.values())
        with zipfile.ZipFile(path) as archive:
            assert archive.testzip() is None


def test_settings_come_with_it(tmp_path: Path) -> None:
    table = SizeTable.from_counts([1], settings={"graphs": {"cutoff": 8.0}})
    assert SizeTable.load(table.save(tmp_path / "s.npz", compress=False), mmap=True).settings == table.settings


def test_a_table_without_graphs(tmp_path: Path) -> None:
    path = SizeTable.from_counts([]).save(tmp_path / "s.npz", compress=False)
    assert len(SizeTable.load(path, mmap=True)) == 0


@pytest.mark.parametrize("name", ["s.npz", "s.csv", "s.parquet"])
def test_what_cannot_be_mapped_is_refused_with_the_way_out(name: str, tmp_path: Path) -> None:
    path = TABLE.save(tmp_path / name)
    with pytest.raises(InputError, match=r"can't be mapped .*save it with compress=False"):
        SizeTable.load(path, mmap=True)


def sentence(path: Path) -> str:
    """Say in which words a file is refused, if it is."""
    try:
        SizeTable.load(path, mmap=True)
    except InputError as error:
        return str(error)
    return ""


def test_cut_and_altered_files_are_refused(tmp_path: Path) -> None:
    path = TABLE.save(tmp_path / "s.npz", compress=False)
    whole = path.read_bytes()
    for place in range(0, len(whole), 5):
        path.write_bytes(whole[:place])
        assert "is not a size table" in sentence(path)
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x5A]) + whole[place + 1 :])
        assert "\n" not in sentence(path)


def test_pickles_are_not_run(tmp_path: Path) -> None:
    np.savez(tmp_path / "s.npz", nodes=np.array([object()]), allow_pickle=True)
    with pytest.raises(InputError, match="is not a one-dimensional array of numbers"):
        SizeTable.load(tmp_path / "s.npz", mmap=True)


def test_a_file_that_is_replaced_stays_as_it_was_mapped(tmp_path: Path) -> None:
    path = SIZES.save(tmp_path / "s.npz", compress=False)
    mapped = SizeTable.load(path, mmap=True)
    SIZES.take(range(10)).save(path, compress=False, force=True)
    assert np.array_equal(mapped["nodes"], NODES)


def test_a_mapped_table_is_planned_alike(tmp_path: Path) -> None:
    mapped = SizeTable.load(SIZES.save(tmp_path / "s.npz", compress=False), mmap=True)
    assert list(NodeBudgetSampler(mapped, max_nodes=500)) == list(NodeBudgetSampler(SIZES, max_nodes=500))


def test_arrays_of_any_name_come_back(tmp_path: Path) -> None:
    arrays = {"a": np.arange(5), "ü": np.array(["x", "yz"]), "none": np.zeros(0)}
    with (tmp_path / "a.npz").open("wb") as file:
        write_arrays(file, arrays)
    found = map_arrays(tmp_path / "a.npz")
    assert {name: values.tolist() for name, values in found.items()} == {k: v.tolist() for k, v in arrays.items()}


def _rank(share: Path, rank: int, out: Any, barrier: Any) -> None:
    """Iterate some epochs as one rank does."""
    sampler = NodeBudgetSampler(SIZES, max_nodes=500, num_replicas=3, rank=rank, share=share)
    found = []
    for epoch in range(4):
        barrier.wait()
        sampler.set_epoch(epoch)
        assert is_mapped(sampler.plan.indices)
        found.append((len(sampler), list(sampler)))
    out.put((rank, found))


@pytest.mark.parametrize("context", ["fork", "spawn", "forkserver"])
def test_ranks_share_plans(context: str, tmp_path: Path) -> None:
    start = multiprocessing.get_context(context)
    out, barrier = start.Queue(), start.Barrier(3)
    ranks = [start.Process(target=_rank, args=(tmp_path, rank, out, barrier)) for rank in range(3)]
    for process in ranks:
        process.start()
    found = sorted(out.get(timeout=120) for _ in ranks)
    for process in ranks:
        process.join()
        assert process.exitcode == 0
    for rank, epochs in found:
        alone = NodeBudgetSampler(SIZES, max_nodes=500, num_replicas=3, rank=rank)
        for epoch, (length, batches) in enumerate(epochs):
            alone.set_epoch(epoch)
            assert length == len(alone)
            assert batches == list(alone)
    # Who made plans removed them when it ended.
    assert list(tmp_path.glob("*.npz")) == []


def test_what_is_there_is_not_made_again(tmp_path: Path) -> None:
    def never() -> Any:
        raise AssertionError

    assert SharedArrays(tmp_path, "run").get("key", lambda: {"a": np.arange(3)})["a"].tolist() == [0, 1, 2]
    found = SharedArrays(tmp_path, "run").get("key", never)["a"]
    assert is_mapped(found)
    assert found.tolist() == [0, 1, 2]
    first = NodeBudgetSampler(SIZES, max_nodes=500, share=tmp_path)
    second = NodeBudgetSampler(SIZES, max_nodes=500, share=tmp_path)
    assert list(first) == list(second)
    assert "planner" in first._provider.__dict__
    assert "planner" not in second._provider.__dict__


def test_old_plans_are_removed_and_mapped_ones_stay_readable(tmp_path: Path) -> None:
    sampler = NodeBudgetSampler(SIZES, max_nodes=500, share=tmp_path)
    first = sampler.plan
    expected = list(NodeBudgetSampler(SIZES, max_nodes=500))
    for epoch in range(1, 6):
        sampler.set_epoch(epoch)
        list(sampler)
    assert len(list(tmp_path.glob("*.npz"))) == 2
    assert list(first) == expected


def _hold(folder: Path, started: Any) -> None:
    shared = SharedArrays(folder, "run")

    def never() -> Any:
        started.set()
        signal.pause()

    shared.get("key", never)


def test_when_the_one_that_plans_is_killed_another_one_does(tmp_path: Path) -> None:
    start = multiprocessing.get_context("fork")
    started = start.Event()
    first = start.Process(target=_hold, args=(tmp_path, started))
    first.start()
    assert started.wait(60)
    waiting = start.Process(target=_get, args=(tmp_path,))
    waiting.start()
    waiting.join(0.5)
    assert waiting.is_alive()
    os.kill(first.pid, signal.SIGKILL)
    waiting.join(60)
    assert waiting.exitcode == 0


def _get(folder: Path) -> None:
    found = SharedArrays(folder, "run").get("key", lambda: {"a": np.arange(3)})
    assert found["a"].tolist() == [0, 1, 2]


def test_what_a_killed_writer_left_does_not_matter(tmp_path: Path) -> None:
    shared = SharedArrays(tmp_path, "run")
    (tmp_path / "nodebudget-run-key.npz").write_bytes(b"PK half of it")
    assert shared.get("key", lambda: {"a": np.arange(3)})["a"].tolist() == [0, 1, 2]
    again = SharedArrays(tmp_path, "run").get("key", dict)
    assert again["a"].tolist() == [0, 1, 2]


def test_shared_or_not_a_state_is_the_same(tmp_path: Path) -> None:
    alone = NodeBudgetSampler(SIZES, max_nodes=500)
    shared = NodeBudgetSampler(SIZES, max_nodes=500, share=tmp_path)
    for sampler in (alone, shared):
        next(iter(sampler))
        sampler.set_budget(max_nodes=300, consumed=1)
    assert alone.state_dict() == shared.state_dict()
    state = shared.state_dict(consumed=4)
    rest = list(alone)
    assert list(shared) == rest
    again = NodeBudgetSampler(SIZES, max_nodes=500, share=tmp_path)
    again.load_state_dict(state)
    assert list(again) == rest[3:]


def test_a_full_disk_ends_the_sharing_and_not_the_training(tmp_path: Path, monkeypatch: Any, caplog: Any) -> None:
    sampler = NodeBudgetSampler(SIZES, max_nodes=500, share=tmp_path)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    sampler.set_epoch(1)
    assert len(list(sampler)) == len(sampler)
    assert "No space left on device" in caplog.text


def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"plans can't be shared in .*file"):
        NodeBudgetSampler(SIZES, max_nodes=500, share=tmp_path / "file")
