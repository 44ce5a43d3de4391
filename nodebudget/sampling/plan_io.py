"""Plans on disk, read back to look at them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nodebudget.errors import RecordError, first_line
from nodebudget.sampling.plan import KIND, SCHEMA_VERSION, TEXT, FlatBatches
from nodebudget.utils.files import DAMAGE, check_archive
from nodebudget.utils.records import check_record, read_record


@dataclass(frozen=True, eq=False)
class SavedPlan(FlatBatches):
    """The batches of a file, without the sizes of their graphs.

    Attributes:
        metadata: Statistics (`nodebudget.sampling.plan.Plan.statistics`), `limits` (the budget), and `data` (a hash of
            the sizes).
    """

    metadata: Mapping[str, Any]


def read_plan(path: str | os.PathLike[str]) -> SavedPlan:
    """Read what `Plan.save` wrote, `.json` or `.npz`.

    Raises:
        RecordError: The file is missing, damaged, not a plan, or of an unsupported schema version.
    """
    read = _read_npz if Path(path).suffix == ".npz" else _read_json
    try:
        plan = read(path)
        _check(plan)
    except RecordError:
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        raise RecordError(f"{str(path)!r} can't be read: {reason}", hint="check the path") from error
    except DAMAGE as error:
        raise RecordError(f"{str(path)!r} is a damaged plan: {first_line(error)}", hint="plan again") from error
    return plan


def _read_json(path: str | os.PathLike[str]) -> SavedPlan:
    record = read_record(path, KIND, SCHEMA_VERSION, max_bytes=TEXT)
    batches = record.pop("plan")
    indices = np.array([graph for batch in batches for graph in batch], dtype=np.int64)
    return SavedPlan(indices, np.cumsum([0, *map(len, batches)]), record)


def _read_npz(path: str | os.PathLike[str]) -> SavedPlan:
    with Path(path).open("rb") as file:
        check_archive(file)
        with np.load(file, allow_pickle=False) as arrays:
            metadata = json.loads(arrays["about"].tobytes())
            indices, offsets = arrays["indices"], arrays["offsets"]
    return SavedPlan(indices, offsets, check_record(metadata, str(path), KIND, SCHEMA_VERSION))


def _check(plan: SavedPlan) -> None:
    indices, offsets = plan.indices, plan.offsets
    if any(array.ndim != 1 or array.dtype.kind not in "iu" for array in (indices, offsets)):
        raise ValueError("graphs and batches must be lists of whole numbers")
    if len(offsets) < 2 or offsets[0] != 0 or offsets[-1] != len(indices) or (np.diff(offsets) < 1).any():
        raise ValueError("batches must hold a graph or more each")
    if indices.min() < 0:
        raise ValueError("graphs are counted from 0")
