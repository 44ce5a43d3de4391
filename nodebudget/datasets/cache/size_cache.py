"""Measured sizes, kept beside the data: `.nodebudget/NAME-KEY.npz`, one file per dataset and settings."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nodebudget.datasets.size_table import SizeTable
from nodebudget.errors import NodeBudgetError

_FOLDER = ".nodebudget"  #: The folder, beside the data.
_ENTRY = "cache"  #: The entry of the settings that holds the fingerprint of the data.


class SizeCache:
    """The sizes of the dataset at a path or pattern, under one set of settings on which they depend.

    Processes may share it: each writes a whole file and moves it into place, and what they write is the same.
    """

    def __init__(self, data: str | os.PathLike[str], settings: Mapping[str, Any]) -> None:
        place = Path(os.path.abspath(data))  # noqa: PTH100 - links are not followed: the cache is beside the link
        key = hashlib.sha256(json.dumps([place.name, dict(settings)], sort_keys=True).encode()).hexdigest()
        # The key makes the name unique; the rest shows whose sizes these are.
        shown = "".join(letter if letter.isalnum() or letter in "._-" else "_" for letter in place.name)[:100]
        self.path = place.parent / _FOLDER / f"{shown}-{key[:12]}.npz"

    def load(self, fingerprint: str) -> SizeTable | None:
        """Return the sizes, or None where there are none or the data has changed since."""
        try:
            if not self.path.is_file():
                return None
            table = SizeTable.load(self.path)
        except (NodeBudgetError, OSError, MemoryError):
            # Damaged or unreadable: the next measurement replaces it.
            return None
        settings = dict(table.settings)
        if settings.pop(_ENTRY, None) != fingerprint:
            return None
        return SizeTable(table.columns, table.ids, settings)

    def save(self, table: SizeTable, fingerprint: str) -> str:
        """Write sizes; return why they can't be written, or ""."""
        settings = {**table.settings, _ENTRY: fingerprint}
        try:
            self.path.parent.mkdir(exist_ok=True)
            SizeTable(table.columns, table.ids, settings).save(self.path, force=True)
        except OSError as error:
            return f"{str(self.path.parent)!r} can't be written: {error.strerror}"
        except NodeBudgetError as error:
            return error.what
        return ""
