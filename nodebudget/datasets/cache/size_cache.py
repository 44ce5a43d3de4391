"""Sizes that were measured before, kept beside the data: `.nodebudget/NAME-KEY.npz`, a file a dataset and settings."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nodebudget.datasets.size_table import SizeTable
from nodebudget.errors import NodeBudgetError

#: The folder, beside the data.
FOLDER = ".nodebudget"
#: The entry of the settings that says what a table belongs to.
_ENTRY = "cache"


class Cache:
    """The sizes of one dataset under one set of settings.

    Processes may share it: each writes a whole file and moves it into place, and what they write is the same.

    Args:
        data: The dataset, or the pattern that names it.
        settings: What the sizes depend on, beside the data.
    """

    def __init__(self, data: str | os.PathLike[str], settings: Mapping[str, Any]) -> None:
        place = Path(os.path.abspath(data))  # noqa: PTH100 - links are not followed: the cache is beside the link
        key = hashlib.sha256(json.dumps([place.name, dict(settings)], sort_keys=True).encode()).hexdigest()
        self.path = place.parent / FOLDER / f"{_plain(place.name)}-{key[:12]}.npz"

    def load(self, fingerprint: str) -> SizeTable | None:
        """Return the sizes, or None where there are none or the data has changed since."""
        try:
            if not self.path.is_file():
                return None
            table = SizeTable.load(self.path)
        except (NodeBudgetError, OSError, MemoryError):
            # Damaged, or not to be read: measuring anew replaces it.
            return None
        settings = dict(table.settings)
        if settings.pop(_ENTRY, None) != fingerprint:
            return None
        return SizeTable(table.columns, table.ids, settings)

    def save(self, table: SizeTable, fingerprint: str) -> str:
        """Keep sizes; return why they can't be kept, or "" where they are."""
        settings = {**table.settings, _ENTRY: fingerprint}
        try:
            self.path.parent.mkdir(exist_ok=True)
            SizeTable(table.columns, table.ids, settings).save(self.path, force=True)
        except OSError as error:
            return f"{str(self.path.parent)!r} can't be written: {error.strerror}"
        except NodeBudgetError as error:
            return error.what
        return ""


def _plain(name: str) -> str:
    """Return a name that is safe to look at; what makes it unique is the key."""
    return "".join(letter if letter.isalnum() or letter in "._-" else "_" for letter in name)[:100]
