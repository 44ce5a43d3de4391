"""Files of any kind that a page is made of, recognised by their content."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nodebudget.calibration import memory_model
from nodebudget.calibration.memory_model import Calibration
from nodebudget.datasets.size_table import SUFFIXES, SizeTable
from nodebudget.errors import InputError, RecordError
from nodebudget.monitor import log_reader
from nodebudget.report import quickstart
from nodebudget.sampling import plan
from nodebudget.sampling.plan_io import read_plan
from nodebudget.utils.files import TEXT, read_text
from nodebudget.utils.records import read_record

#: Kinds in the order in which a page shows them, and what several are called.
KINDS = {
    "calibration": "calibrations",
    "sizes": "datasets",
    "plan": "plans",
    "quickstart": "quickstarts",
    "run": "runs",
}

#: The kind that a record names → one of `KINDS`.
_RECORDS = {memory_model.KIND: "calibration", plan.KIND: "plan", log_reader.KIND: "run", quickstart.KIND: "quickstart"}

_READERS: dict[str, Callable[[str], Any]] = {
    "calibration": Calibration.load,
    "sizes": SizeTable.load,
    "plan": read_plan,
    "quickstart": lambda path: read_record(path, quickstart.KIND, quickstart.SCHEMA_VERSION),
    "run": log_reader.read_run,
}

_SUPPORTED = "supported: runs, calibrations, plans, sizes, and the runs.json of a quickstart"


@dataclass(frozen=True, eq=False)
class Input:
    """A file that was read."""

    path: str  #: As the user gave it.
    name: str  #: Its file name where no other file has the same, else the path.
    kind: str  #: One of `KINDS`.
    value: Any  #: What it holds: a Calibration, SizeTable, SavedPlan, Run, or a dict for "quickstart".


def read_inputs(paths: Sequence[str]) -> list[Input]:
    """Read files, each once; raise an InputError, or a RecordError, over one that can't be read."""
    different = list(dict.fromkeys(map(str, paths)))
    if not different:
        raise InputError("no file to report on", limit=_SUPPORTED, hint="name one or more")
    short = [Path(path).name or path for path in different]
    names = short if len(set(short)) == len(short) else different
    return [_read(path, name) for path, name in zip(different, names, strict=True)]


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
    record = _first_value(path)
    if isinstance(record, list):
        raise _refuse(path, "it holds a list", "of crystals, measure them first: nodebudget measure DATA -o sizes.npz")
    kind = record.get("kind") if isinstance(record, dict) else None
    if isinstance(kind, str) and kind in _RECORDS:
        return _RECORDS[kind]
    raise _refuse(path, f"its kind is {kind!r}" if kind else "it names no kind", "name other files")


def _is_plan(path: str) -> bool:
    try:
        with Path(path).open("rb") as file, zipfile.ZipFile(file) as archive:
            return "offsets.npy" in archive.namelist()
    except (zipfile.BadZipFile, ValueError):
        return False  # not an archive: the reader of sizes says so


def _first_value(path: str) -> Any:
    """Return the first JSON value of a file: all of a record, or the header of a log."""
    try:
        with Path(path).open("rb") as file:
            line = file.readline(TEXT).decode()
        try:
            return json.loads(line) or json.loads(read_text(path, max_bytes=plan.TEXT))
        except (json.JSONDecodeError, RecursionError):
            return json.loads(read_text(path, max_bytes=plan.TEXT))
    except (ValueError, RecursionError) as error:
        reason = "it is not a text" if isinstance(error, UnicodeDecodeError) else "it is not JSON"
        if not isinstance(error, (UnicodeError, json.JSONDecodeError, RecursionError)):
            reason = str(error)
        raise _refuse(path, reason, "name other files, or make this one again if it was cut") from error


def _refuse(path: str | os.PathLike[str], why: str, hint: str) -> RecordError:
    return RecordError(f"{str(path)!r} can't be shown: {why}", limit=_SUPPORTED, hint=hint)
