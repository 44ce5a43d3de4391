"""Sizes of a dataset as a workload has them."""

from __future__ import annotations

from typing import Any

from nodebudget.measure import Data, measure_dataset, measure_path
from nodebudget.sizes import SizeTable
from nodebudget.workload import Workload


def measure_for(workload: Workload, path: str, opened: Data, **how: Any) -> SizeTable:
    """Measure a dataset with the graphs, and the further sizes, of a workload.

    Args:
        workload: What is trained.
        path: Where the dataset is.
        opened: The same, opened.
        **how: As `nodebudget.measure.measure_path` takes them.

    Raises:
        InputError: It can't be measured.
    """
    graphs, size_of = getattr(workload, "graphs", None), getattr(workload, "size_of", None)
    if size_of is None:
        return measure_path(path, graphs=graphs, **how)
    how.pop("allow_pickle", None)
    return measure_dataset(opened, graphs=graphs, size_of=size_of, **how)
