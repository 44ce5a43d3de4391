"""JSON lines: whole ones are read, torn and damaged ones are not, whatever happens to the file."""

from __future__ import annotations

import json
import resource
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nodebudget.errors import InputError, RecordError
from nodebudget.utils.jsonl import JsonLines

HEADER = {"kind": "test", "data": "x"}
ENTRIES = [HEADER, {"a": 1}, {"a": [None, "ü"]}, {}]

anywhere = settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])


def written(path: Path, entries: list[dict[str, object]] = ENTRIES, **options: object) -> JsonLines:
    lines = JsonLines(path, **options)
    lines.open(overwrite=True)
    for entry in entries:
        lines.append(entry)
    lines.close()
    return lines


def entries(lines: JsonLines, offset: int = 0) -> list[dict[str, object] | None]:
    return [entry for entry, _ in lines.read(offset)]


@anywhere
@given(
    made=st.lists(st.dictionaries(st.text(), st.none() | st.integers() | st.text())),
    checksums=st.booleans(),
    cut=st.integers(0, 99),
)
def test_cut_anywhere_it_gives_the_lines_before_and_can_be_appended_to(made, checksums, cut, tmp_path):
    lines = written(tmp_path / "lines", made, checksums=checksums)
    content = lines.path.read_bytes()
    assert entries(lines) == made
    lines.path.write_bytes(content[: len(content) - min(cut, len(content))])
    whole = lines.path.read_bytes().count(b"\n")
    assert entries(lines) == made[:whole]
    lines.open()
    lines.drop_torn_line()
    lines.append({"more": 1})
    lines.close()
    assert entries(lines) == [*made[:whole], {"more": 1}]


def test_lines_are_read_as_they_grow(tmp_path):
    lines = written(tmp_path / "lines")
    offsets = [offset for _, offset in lines.read()]
    assert entries(lines, offsets[1]) == ENTRIES[2:]
    with lines.path.open("ab") as file:
        file.write(b'{"half":')
    assert (entries(lines, offsets[-1]), lines.tail) == ([], b'{"half":')


@pytest.mark.parametrize("line", [b"[1]", b"text", b"\xff", b"[" * 10_000, b"1"])
def test_a_damaged_line_is_none(line, tmp_path):
    lines = written(tmp_path / "lines")
    lines.path.write_bytes(line + b"\n\n" + lines.path.read_bytes())
    assert entries(lines) == [None, *ENTRIES]


def test_a_changed_byte_is_seen_with_checksums(tmp_path):
    lines = written(tmp_path / "lines", checksums=True)
    lines.path.write_bytes(lines.path.read_bytes().replace(b'"a":1', b'"a":2'))
    assert entries(lines) == [HEADER, None, *ENTRIES[2:]]


def test_lines_that_are_too_long_and_files_that_are_missing(tmp_path):
    lines = JsonLines(tmp_path / "lines", max_line=2**10)
    with pytest.raises(RecordError, match=r"can't be read: No such file"):
        entries(lines)
    for content in (b"x" * 1025, b'{"a": 1}\n' + b"x" * 2**20):
        lines.path.write_bytes(content)
        with pytest.raises(RecordError, match=r"a line of over 1\.00 KiB"):
            entries(lines)


class TestHeader:
    def check(self, path: Path, expected: dict[str, object] = HEADER, **options: bool) -> int:
        return JsonLines(path, **options).check_header(expected, "test", "start over")

    @pytest.mark.parametrize("checksums", [True, False])
    def test_the_same(self, checksums, tmp_path):
        lines = written(tmp_path / "lines", checksums=checksums)
        assert entries(lines, self.check(lines.path, checksums=checksums)) == ENTRIES[1:]
        header = lines.path.read_bytes().splitlines()[0]
        for cut in range(len(header)):
            lines.path.write_bytes(header[:cut])
            assert self.check(lines.path, checksums=checksums) == 0

    def test_another(self, tmp_path):
        path = written(tmp_path / "lines").path
        with pytest.raises(RecordError, match=r"belongs to another test \(different data, more\); start over"):
            self.check(path, {**HEADER, "data": "y", "more": 1})
        assert self.check(path, {"kind": "test"}) > 0

    @pytest.mark.parametrize("content", [b"my thesis\n", b"my thesis", b"\0" * 20, b'{"kind":"other"}\n', b"[]\n"])
    def test_a_foreign_file_is_refused_and_kept(self, content, tmp_path):
        path = tmp_path / "lines"
        path.write_bytes(content)
        with pytest.raises(RecordError, match="is not the file of a test"):
            self.check(path)
        assert path.read_bytes() == content


def test_a_line_that_does_not_fit_on_the_disk_leaves_nothing(tmp_path):
    lines = JsonLines(tmp_path / "lines")
    lines.open()
    lines.append({"a": 1})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20, limits[1]))
    try:
        with pytest.raises(InputError, match="could not be written: File too large; free some space"):
            lines.append({"a": "b" * 100})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert entries(lines) == [{"a": 1}]
    lines.append({"a": 2})
    lines.close()
    assert entries(lines) == [{"a": 1}, {"a": 2}]


def test_a_second_writer_is_refused_until_the_first_is_done(tmp_path):
    first, second = JsonLines(tmp_path / "lines"), JsonLines(tmp_path / "lines")
    first.open(lock=True)
    with pytest.raises(InputError, match="another process is writing"):
        second.open(lock=True)
    first.path.unlink()
    first.close()
    second.open(lock=True)
    second.append({"a": 1})
    second.close()
    assert json.loads(second.path.read_text()) == {"a": 1}


def test_a_folder_that_is_missing(tmp_path):
    with pytest.raises(InputError, match="could not be written: No such file"):
        JsonLines(tmp_path / "none" / "lines").open()
