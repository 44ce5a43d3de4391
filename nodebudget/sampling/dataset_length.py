"""Whether a dataset is as long as when its sizes were measured."""

from __future__ import annotations

import os
from typing import Any

from nodebudget.datasets.size_table import SizeTable
from nodebudget.errors import InputError


class DatasetLength:
    """The length of a dataset, to be compared later; of a path and of sizes nothing is known."""

    def __init__(self, dataset: Any) -> None:
        self._dataset: Any = None if isinstance(dataset, (str, os.PathLike, SizeTable)) else dataset
        self._then = self._now()

    def _now(self) -> int | None:
        return len(self._dataset) if hasattr(type(self._dataset), "__len__") else None

    def check(self) -> None:
        """Raise an `InputError` if the dataset grew or shrank."""
        if self._now() != self._then:
            raise InputError(
                f"the dataset has {self._now()} samples",
                limit=f"it had {self._then} when the sampler was made",
                hint="make another sampler after changing the dataset",
            )

    def __getstate__(self) -> dict[str, Any]:
        # Samplers are sent to other processes, which have the dataset already or need its sizes alone.
        return {"_dataset": None, "_then": None}
