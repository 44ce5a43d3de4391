"""Killed, out of disk, or with data that changes: files on disk are whole, and a measurement continues with them."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
import zlib
from pathlib import Path

import pytest
from click.testing import CliRunner
from crystals import entries
from formats import WRITERS, check_in_process, tables_equal, write_lines
from full_disk import largest_file
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nodebudget import SizeTable
from nodebudget.cli import main
from nodebudget.datasets.cache.checkpoint import MeasureCheckpoint
from nodebudget.datasets.graph_settings import GraphSettings
from nodebudget.datasets.measure import MeasureOptions, measure
from nodebudget.datasets.readers import source as sources
from nodebudget.errors import CrystalError, InputError, RecordError

CRYSTALS = entries(6, 12)
BROKEN = {"jid": "broken", "atoms": {**CRYSTALS[0]["atoms"], "coords": None}}


class Stop(Exception):  # noqa: N818
    """An interruption."""


def interrupted(path, output, after, **options):
    """Measure and stop after this many samples."""

    def stop(done, total):
        if done >= after:
            raise Stop

    with pytest.raises(Stop):
        measure(path, output=output, cache=False, progress=stop, **options)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from([*WRITERS, "shards"]),
    stops=st.lists(st.integers(1, 11), max_size=3),
    chunk=st.integers(1, 5),
    broken=st.sets(st.integers(0, 11), max_size=3),
)
def test_interrupted_anywhere_and_resumed_equals_uninterrupted(name, stops, chunk, broken, tmp_path_factory):
    folder = tmp_path_factory.mktemp("law")
    made = [{**entry, "atoms": {**entry["atoms"], "coords": [[0.0]]}} if i in broken else entry
            for i, entry in enumerate(CRYSTALS)]  # fmt: skip
    if name == "ase.db":
        made = CRYSTALS
    path = WRITERS[name](folder / name, made)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nodebudget.datasets.readers.parquet.run_check", check_in_process)
        patch.setattr(sources, "CHUNK_RECORDS", chunk)
        whole = measure(path, on_error="skip", cache=False)
        for after in sorted(stops):
            interrupted(path, folder / "sizes.npz", after, on_error="skip")
            assert [found.name for found in folder.glob("sizes*")] == ["sizes.npz.part"]
        found = measure(path, on_error="skip", cache=False, output=folder / "sizes.npz")
    tables_equal(found, whole)
    tables_equal(SizeTable.load(folder / "sizes.npz"), whole)
    assert not list(folder.glob("*.part"))


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(keep=st.integers(0, 2000), junk=st.binary(max_size=40))
def test_a_part_that_is_cut_or_damaged_anywhere_is_used_up_to_there(keep, junk, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cut")
    path, output = write_lines(folder / "a.jsonl", CRYSTALS), folder / "s.csv"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "CHUNK_RECORDS", 2)
        interrupted(path, output, 8)
        part = folder / "s.csv.part"
        content = part.read_bytes()
        head = content.index(b"\n") + 1
        part.write_bytes(content[: max(head, keep)] + junk)
        found = measure(path, output=output, cache=False)
    assert found.fingerprint() == measure(CRYSTALS).fingerprint()


def test_what_was_measured_is_not_measured_again(tmp_path, monkeypatch):
    path, output = write_lines(tmp_path / "a.jsonl", CRYSTALS), tmp_path / "s.npz"
    monkeypatch.setattr(sources, "CHUNK_RECORDS", 3)
    interrupted(path, output, 6)
    seen, notes = [], []
    measure(
        path,
        output=output,
        cache=False,
        progress=lambda done, total: seen.append(done),
        options=MeasureOptions(note=notes.append),
    )
    assert seen == [3, 6, 9, 12]
    assert notes == ["continuing after 6 samples that were measured before"]


def test_a_crystal_that_ended_the_run_can_be_skipped_afterwards(tmp_path):
    path, output = write_lines(tmp_path / "a.jsonl", [*CRYSTALS[:5], BROKEN, *CRYSTALS[5:]]), tmp_path / "s.npz"
    for _ in range(2):
        with pytest.raises(CrystalError, match=r"crystal 5 \(broken\)"):
            measure(path, output=output)
    assert len(measure(path, output=output, on_error="skip")) == 12


def test_a_part_of_another_measurement_is_refused_and_kept(tmp_path):
    path, output, part = write_lines(tmp_path / "a.jsonl", CRYSTALS), tmp_path / "s.npz", tmp_path / "s.npz.part"
    interrupted(path, output, 1)
    content = part.read_bytes()
    with pytest.raises(RecordError, match=r"different graphs.*--no-resume"):
        measure(path, output=output, graphs=GraphSettings(neighbors=4))
    write_lines(path, CRYSTALS[:6])
    with pytest.raises(RecordError, match="different data"):
        measure(path, output=output)
    assert part.read_bytes() == content
    assert len(measure(path, output=output, options=MeasureOptions(resume=False))) == 6
    for foreign in (b"my thesis\n", b"my thesis", b"\x00" * 20, b'{"a": 1}\n'):
        part.write_bytes(foreign)
        with pytest.raises(RecordError, match="is not the file of a measurement"):
            measure(path, output=output, cache=False, options=MeasureOptions(force=True))
        assert part.read_bytes() == foreign


def test_two_processes_to_one_output(tmp_path):
    path, output = write_lines(tmp_path / "a.jsonl", CRYSTALS), tmp_path / "s.npz"
    with (
        MeasureCheckpoint(tmp_path / "s.npz.part", {}),
        pytest.raises(InputError, match="another process is writing"),
    ):
        measure(path, output=output)


def test_data_that_changes_while_it_is_read_gives_no_sizes(tmp_path):
    path, output = write_lines(tmp_path / "a.jsonl", CRYSTALS), tmp_path / "s.npz"

    def change(done, total):
        with path.open("a") as file:
            file.write(json.dumps(CRYSTALS[0]) + "\n")

    for options in ({"output": output}, {}):
        with pytest.raises(InputError, match="has changed while it was read"):
            measure(path, progress=change, **options)
        assert [found.name for found in tmp_path.iterdir()] == ["a.jsonl"]


@pytest.mark.parametrize("name", [name for name in WRITERS if name != "shards"])
def test_data_that_is_cut_before_or_while_it_is_read_is_refused(name, tmp_path, monkeypatch):
    path = WRITERS[name](tmp_path / name, CRYSTALS)
    content = path.read_bytes()
    monkeypatch.setattr(sources, "CHUNK_RECORDS", 2)

    def cut(done, total):
        os.truncate(path, len(content) * 2 // 3)

    with pytest.raises(InputError):
        measure(path, progress=cut)
    # A tar is padded with zeros beyond its end.
    for part in (0.3, 0.6, 0.9):
        path.write_bytes(content[: int(len(content.rstrip(b"\0")) * part)])
        with pytest.raises(InputError):
            measure(path)
    assert [found.name for found in tmp_path.iterdir()] == [name]


def kill_when(process, part, lines):
    while process.is_alive() and not (part.exists() and part.read_bytes().count(b"\n") > lines):
        time.sleep(0.01)
    process.kill()
    process.join()
    return process.exitcode


def test_killed_twice_and_resumed(tmp_path):
    """A process is killed as soon as some chunks are on disk, and another one that resumes as well."""
    many = [{**entry, "jid": f"{n}-{entry['jid']}"} for n in range(150) for entry in CRYSTALS]
    path, output = write_lines(tmp_path / "a.jsonl", many), tmp_path / "s.csv"
    part = tmp_path / "s.csv.part"
    for chunks in (2, 7):
        process = multiprocessing.get_context("fork").Process(
            target=measure, args=(path,), kwargs={"output": output, "cache": False}
        )
        process.start()
        code = kill_when(process, part, chunks)
        assert code == -signal.SIGKILL
        assert not output.exists()
        lines = part.read_bytes().splitlines(keepends=True)
        for line in lines[:-1]:
            assert line[:8] == b"%08x" % zlib.crc32(line[9:-1])
    seen = []
    measure(path, output=output, cache=False, progress=lambda done, total: seen.append(done))
    assert seen[0] == 128
    found = SizeTable.load(output)
    assert found.fingerprint() == measure(many).fingerprint()
    assert list(found.ids) == [entry["jid"] for entry in many]
    assert not part.exists()


@pytest.mark.parametrize("size", [0, 700, 9000])
def test_a_disk_that_fills_up_leaves_rows_to_resume_with(size, tmp_path):
    """The disk is full at the header of the part, at its first rows, or at later ones."""
    many = [{**entry, "jid": f"{n}-{entry['jid']}"} for n in range(50) for entry in CRYSTALS]
    path, output = write_lines(tmp_path / "a.jsonl", many), tmp_path / "s.csv"
    with largest_file(size):
        failed = CliRunner().invoke(main, ["measure", str(path), "-o", str(output), "-q", "--json"])
    assert failed.exit_code == 2
    [line] = failed.stderr.splitlines()
    assert "could not be written" in line
    assert "free some space" in line
    assert not output.exists()
    assert measure(path, output=output).fingerprint() == measure(many).fingerprint()
    assert len(SizeTable.load(output)) == len(many)
    assert sorted(found.name for found in tmp_path.iterdir()) == [".nodebudget", "a.jsonl", "s.csv"]


def test_a_disk_too_full_for_the_cache(tmp_path):
    path = write_lines(tmp_path / "a.jsonl", CRYSTALS)
    with largest_file(100):
        done = CliRunner().invoke(main, ["measure", str(path), "--json"])
    assert json.loads(done.stdout)["graphs"] == 12
    assert "sizes are not cached" in done.stderr
    assert not list((tmp_path / ".nodebudget").iterdir())


def test_a_folder_that_cannot_be_written_is_refused_before_the_work(tmp_path):
    path = write_lines(tmp_path / "a.jsonl", CRYSTALS)
    # Not even root can write there.
    with pytest.raises(InputError, match=r"written|no folder"):
        measure(path, output="/proc/nodebudget.npz", cache=False)
    assert Path("/proc").is_dir()


def test_a_run_that_measured_nothing_leaves_nothing(tmp_path):
    with pytest.raises(InputError), MeasureCheckpoint(tmp_path / "out.npz.part", {"data": "some"}):
        raise InputError("a package is not there", hint="install it")
    assert not list(tmp_path.iterdir())
