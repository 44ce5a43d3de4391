"""Files of any kind that a page is made of, told apart by what is in them."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nodebudget.calibration import memory_model as costmodel
from nodebudget.calibration.memory_model import Calibration
from nodebudget.datasets.size_table import SUFFIXES, SizeTable
from nodebudget.errors import InputError, RecordError
from nodebudget.monitor import log_reader as log
from nodebudget.monitor.log_reader import read_run
from nodebudget.report.html import trials
from nodebudget.sampling import plan as batches
from nodebudget.sampling.plan_io import read_plan
from nodebudget.utils.files import TEXT, read_text
from nodebudget.utils.records import read_record

#: Kinds in the order in which a page shows them, as people call them.
KINDS = {"calibration": "calibration", "sizes": "sizes", "plan": "plan", "trial": "quickstart", "run": "run"}

_SAYS = {costmodel.KIND: "calibration", batches.KIND: "plan", log.KIND: "run", trials.KIND: "trial"}

_READERS: dict[str, Callable[[str], Any]] = {
    "calibration": Calibration.load,
    "sizes": SizeTable.load,
    "plan": read_plan,
    "trial": lambda path: read_record(path, trials.KIND, trials.SCHEMA_VERSION),
    "run": read_run,
}

_WANTED = "a run, a calibration, a plan or sizes"


@dataclass(frozen=True, eq=False)
class Input:
    """A file that was read.

    Attributes:
        path: As the user gave it.
        name: Its file name where that tells the files apart, else the path.
        kind: One of `KINDS`.
        value: What it holds: a Calibration, SizeTable, SavedPlan, Run, or a dict for "trial".
    """

    path: str
    name: str
    kind: str
    value: Any


def read_inputs(paths: Sequence[str]) -> list[Input]:
    """Read files, each once.

    Raises:
        InputError: No file, or one of sizes that can't be read.
        RecordError: A file is missing, damaged, of another kind, or of a version that can't be read.
        MissingError: Sizes as .parquet without pyarrow.
    """
    different = list(dict.fromkeys(map(str, paths)))
    if not different:
        raise InputError("no file to report on", limit=_WANTED, hint="name one or more")
    short = [Path(path).name or path for path in different]
    names = short if len(set(short)) == len(short) else different
    return [_read(path, name) for path, name in zip(different, names, strict=True)]


def of_kind(inputs: Sequence[Input], kind: str) -> list[Input]:
    """Return those of one kind."""
    return [entry for entry in inputs if entry.kind == kind]


def _read(path: str, name: str) -> Input:
    try:
        kind = _kind_of(path)
    except OSError as error:
        raise RecordError(f"{path!r} can't be read: {error.strerror or error}", hint="check the path") from error
    return Input(path, name, kind, _READERS[kind](path))


def _kind_of(path: str) -> str:
    suffix = Path(path).suffix.lower()
    if suffix == ".npz" and _is_plan(path):
        return "plan"
    if suffix in SUFFIXES:
        return "sizes"
    said = _first_value(path)
    found = said.get("kind") if isinstance(said, dict) else None
    if isinstance(found, str) and found in _SAYS:
        return _SAYS[found]
    if isinstance(said, list):
        raise _refuse(path, "it holds a list", "of crystals, measure them first: nodebudget measure DATA -o sizes.npz")
    raise _refuse(path, f"it says it is {found!r}" if found else "it does not say what it is", "name other files")


def _is_plan(path: str) -> bool:
    try:
        with Path(path).open("rb") as file, zipfile.ZipFile(file) as archive:
            return "offsets.npy" in archive.namelist()
    except (zipfile.BadZipFile, ValueError):
        return False  # no archive: what reads sizes says so


def _first_value(path: str) -> Any:
    """Return the first JSON value of a file: all of a record, or the header of a log."""
    try:
        with Path(path).open("rb") as file:
            line = file.readline(TEXT)
        return _parse(line.decode()) or _parse(read_text(path, max_bytes=batches.TEXT), whole=True)
    except (ValueError, RecursionError) as error:
        reason = "it is no text" if isinstance(error, UnicodeDecodeError) else "it is no JSON"
        if not isinstance(error, (UnicodeError, json.JSONDecodeError, RecursionError)):
            reason = str(error)
        raise _refuse(path, reason, "name other files, or make this one again if it was cut") from error


def _parse(text: str, *, whole: bool = False) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        if whole:
            raise
        return None


def _refuse(path: str | os.PathLike[str], why: str, hint: str) -> RecordError:
    return RecordError(f"{str(path)!r} is no record: {why}", limit=_WANTED, hint=hint)
