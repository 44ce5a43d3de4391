"""Sizes kept beside the data: used while it does not change, and never otherwise."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from crystals import entries
from formats import WRITERS, structure_files, write_lines, write_list

from nodebudget import SizeTable
from nodebudget.cli import main
from nodebudget.datasets import graph_settings as settings
from nodebudget.datasets.cache.fingerprint import fingerprint
from nodebudget.datasets.cache.size_cache import SizeCache
from nodebudget.datasets.graph_settings import GraphSettings
from nodebudget.datasets.measure import MeasureOptions, measure
from nodebudget.errors import CrystalError, InputError

CRYSTALS = entries(6, 12)


def cached(folder):
    return sorted((folder / ".nodebudget").iterdir())


def measured(path, **options):
    """Return the table, and whether anything was measured for it."""
    seen = []
    table = measure(path, progress=lambda done, total: seen.append(done), **options)
    return table, bool(seen)


@pytest.mark.parametrize("name", WRITERS)
def test_unchanged_data_is_not_measured_again(name, tmp_path):
    path = WRITERS[name](tmp_path / name, CRYSTALS)
    first, fresh = measured(path)
    again, remeasured = measured(path)
    assert (fresh, remeasured) == (True, False)
    assert again.fingerprint() == first.fingerprint()
    assert list(again.ids) == list(first.ids)
    assert again.settings == first.settings
    assert measured(path, cache=False)[1]
    assert len(cached(tmp_path)) == 1


def test_each_setting_has_its_sizes(tmp_path):
    path = write_lines(tmp_path / "a.jsonl", CRYSTALS)
    few = GraphSettings(neighbors=4)
    tables = {graphs: measured(path, graphs=graphs)[0] for graphs in (GraphSettings(), few)}
    assert tables[few]["edges"].sum() < tables[GraphSettings()]["edges"].sum()
    for graphs, table in tables.items():
        again, remeasured = measured(path, graphs=graphs)
        assert not remeasured
        assert again.fingerprint() == table.fingerprint()


def test_a_new_version_of_counting_invalidates_cached_sizes(tmp_path, monkeypatch):
    path = write_lines(tmp_path / "a.jsonl", CRYSTALS)
    measured(path)
    monkeypatch.setattr("nodebudget.datasets.measure.COUNTING", settings.COUNTING + 1)
    assert measured(path)[1]


def rewritten(path, content, stat):
    """Write other content with the same time."""
    path.write_bytes(content)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def test_a_changed_file_is_detected(tmp_path):
    path = write_lines(tmp_path / "a.jsonl", CRYSTALS)
    measured(path)
    stat, content = path.stat(), path.read_bytes()
    # The same length and the same time: the content tells.
    for place in (0, len(content) // 2, len(content) - 40):
        digit = next(i for i in range(place, len(content)) if content[i : i + 1].isdigit())
        other = content[:digit] + (b"1" if content[digit : digit + 1] != b"1" else b"2") + content[digit + 1 :]
        rewritten(path, other, stat)
        assert measured(path)[1]
    rewritten(path, content, stat)
    assert measured(path)[1]
    assert not measured(path)[1]
    # The same content and another time.
    os.utime(path, ns=(0, 0))
    assert measured(path)[1]


def test_changes_that_only_a_thorough_fingerprint_detects(tmp_path):
    path = tmp_path / "large.bin"
    path.write_bytes(bytes(20 * 2**20))
    stat = path.stat()
    prints = {how: fingerprint([path], how) for how in ("quick", "thorough")}
    changed = bytearray(20 * 2**20)
    changed[200_000] = 1
    rewritten(path, changed, stat)
    assert fingerprint([path], "quick") == prints["quick"]
    assert fingerprint([path], "thorough") != prints["thorough"]
    changed[200_000], changed[-1] = 0, 1
    rewritten(path, changed, stat)
    assert fingerprint([path], "quick") != prints["quick"]
    # A thorough one heeds the content alone.
    rewritten(path, bytes(20 * 2**20), stat)
    os.utime(path, ns=(5, 5))
    assert fingerprint([path], "thorough") == prints["thorough"]
    with pytest.raises(InputError, match="fingerprint is"):
        fingerprint([path], "slow")


def test_folders_of_files_that_come_go_and_change(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    for name, content in structure_files(CRYSTALS):
        (folder / name).write_bytes(content)
    assert measured(folder)[1]
    assert not measured(folder)[1]
    assert cached(tmp_path)
    assert not (folder / ".nodebudget").exists()
    (folder / "POSCAR-03.vasp").unlink()
    table, remeasured = measured(folder)
    assert (len(table), remeasured) == (11, True)
    time.sleep(0.01)
    (folder / "POSCAR-04.vasp").write_bytes((folder / "POSCAR-05.vasp").read_bytes())
    assert measured(folder)[1]


def test_skipped_crystals_are_cached(tmp_path):
    broken = {"jid": "broken", "atoms": {}}
    path = write_lines(tmp_path / "a.jsonl", [*CRYSTALS, broken])
    first, _ = measured(path, on_error="skip")
    again, remeasured = measured(path, on_error="skip")
    assert (again.settings, remeasured) == (first.settings, False)
    with pytest.raises(CrystalError, match=r"crystal 12 \(broken\)"):
        measure(path)


def test_a_copy_with_the_same_times_has_the_same_cached_sizes(tmp_path):
    (tmp_path / "one").mkdir()
    path = write_lines(tmp_path / "one" / "a.jsonl", CRYSTALS)
    measured(path)
    subprocess.run(["cp", "-rp", tmp_path / "one", tmp_path / "two"], check=True)
    table, remeasured = measured(tmp_path / "two" / "a.jsonl")
    assert not remeasured
    assert table.settings["source"] == str(tmp_path / "two" / "a.jsonl")


@pytest.mark.parametrize("junk", [b"", b"junk", b"PK\x03\x04junk"])
def test_damaged_sizes_are_replaced(junk, tmp_path):
    path = write_lines(tmp_path / "a.jsonl", CRYSTALS)
    table, _ = measured(path)
    [file] = cached(tmp_path)
    file.write_bytes(junk)
    again, remeasured = measured(path)
    assert (again.fingerprint(), remeasured) == (table.fingerprint(), True)
    assert not measured(path)[1]


def test_sizes_of_other_data_in_the_cache_are_not_used(tmp_path):
    path = write_lines(tmp_path / "a.jsonl", CRYSTALS)
    measured(path)
    [file] = cached(tmp_path)
    SizeTable.from_counts(np.ones(12), np.ones(12), np.ones(12)).save(file, force=True)
    assert measured(path)[1]


def test_a_place_that_cannot_be_written_means_no_cache(tmp_path):
    path = write_lines(tmp_path / "a.jsonl", CRYSTALS)
    (tmp_path / ".nodebudget").write_text("a file where the folder would be")
    notes = []
    assert measure(path, options=MeasureOptions(note=notes.append)).fingerprint() == measure(CRYSTALS).fingerprint()
    [note] = notes
    assert note.startswith("sizes are not cached: ")


def as_another_user(folder, results):
    if not os.getuid():
        os.setuid(65534)
    results.put(SizeCache(folder / "a.jsonl", {}).save(SizeTable.from_counts([1]), "x"))


def test_a_read_only_folder_means_no_cache():
    """As a user who may read the data and no more."""
    fork = multiprocessing.get_context("fork")
    results = fork.SimpleQueue()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_lines(folder / "a.jsonl", CRYSTALS)
        folder.chmod(0o555)
        process = fork.Process(target=as_another_user, args=(folder, results))
        process.start()
        process.join()
        assert "can't be written: Permission denied" in results.get()
        assert [path.name for path in folder.iterdir()] == ["a.jsonl"]
        folder.chmod(0o755)


def measure_often(path, results):
    results.put([int(measure(path)["edges"].sum()) for _ in range(15)])


def test_processes_that_share_a_cache(tmp_path):
    """Two at once, time and again: both end well, and leave a whole file."""
    path = write_list(tmp_path / "a.json", CRYSTALS)
    fork = multiprocessing.get_context("fork")
    results = fork.SimpleQueue()
    processes = [fork.Process(target=measure_often, args=(path, results)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert set(results.get() + results.get()) == {int(measure(CRYSTALS)["edges"].sum())}
    assert not measured(path)[1]
    assert len(cached(tmp_path)) == 1


def test_the_command_says_that_it_used_the_cache(tmp_path):
    path = write_lines(tmp_path / "a.jsonl", CRYSTALS)

    def call(*options):
        return CliRunner().invoke(main, ["measure", str(path), "--json", *options])

    first, again, remeasured = call(), call(), call("--no-cache")
    assert "cache" not in first.stderr
    assert "data has not changed (--no-cache measures again)" in again.stderr
    assert "cache" not in remeasured.stderr
    assert json.loads(first.stdout) == json.loads(again.stdout) == json.loads(remeasured.stdout)
    assert call("-q").stderr == ""
    assert "cache" not in call("--fingerprint", "thorough").stderr
    assert "cache" in call("--fingerprint", "thorough").stderr
    assert call("--no-cache", "-o", str(tmp_path / "s.npz")).exit_code == 0
    assert Path(tmp_path / "s.npz").exists()
