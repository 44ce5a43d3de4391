"""Sizes of a dataset as a workload has them."""

from __future__ import annotations

from typing import Any

from nodebudget.datasets.measure import measure_dataset, measure_path
from nodebudget.datasets.readers.open_dataset import Data
from nodebudget.datasets.size_table import SizeTable
from nodebudget.workloads.protocol import Workload


def measure_for(workload: Workload, path: str, opened: Data, **how: Any) -> SizeTable:
    """Measure a dataset with the graphs, and the further sizes, of a workload.

    Args:
        workload: What is trained.
        path: Where the dataset is.
        opened: The same, opened.
        **how: As `nodebudget.datasets.measure.measure_path` takes them.

    Raises:
        InputError: It can't be measured.
    """
    graphs, size_of = getattr(workload, "graphs", None), getattr(workload, "size_of", None)
    if size_of is None:
        return measure_path(path, graphs=graphs, **how)
    how.pop("allow_pickle", None)
    return measure_dataset(opened, graphs=graphs, size_of=size_of, **how)
