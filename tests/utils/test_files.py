"""Files are written whole or not at all."""

import pytest

from nodebudget.errors import InputError
from nodebudget.utils import files


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    target = tmp_path / "a.txt"
    target.write_text("old")

    def fails(file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(InputError, match="No space left on device"):
        files.write_whole(target, fails, force=True)
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_existing_files_are_kept_without_force(tmp_path):
    target = tmp_path / "a.txt"
    files.write_whole(target, lambda file: file.write(b"1"), force=False)
    with pytest.raises(InputError, match="exists; pass --force"):
        files.write_whole(target, lambda file: file.write(b"2"), force=False)
    files.write_whole(target, lambda file: file.write(b"3"), force=True)
    assert target.read_text() == "3"


@pytest.mark.parametrize(("place", "words"), [(".", "is a folder"), ("no/where.json", "there is no folder")])
def test_places_that_cannot_be_written_are_refused_before_the_work(tmp_path, place, words):
    with pytest.raises(InputError, match=words):
        files.check_output(tmp_path / place, force=True)
