"""Sizes of a dataset as a workload counts them."""

from __future__ import annotations

from typing import Any

from nodebudget.datasets.measure import measure
from nodebudget.datasets.readers.open_dataset import Data
from nodebudget.datasets.size_table import SizeTable
from nodebudget.workloads.protocol import Workload


def measure_for(workload: Workload, path: str, opened: Data, **options: Any) -> SizeTable:
    """Measure the dataset at `path` with the graphs, and the further sizes, of a workload.

    Args:
        workload: What is trained.
        path: The dataset.
        opened: The same, opened: its samples are measured where the workload counts further sizes.
        **options: As `nodebudget.measure` takes them.
    """
    graphs, size_of = getattr(workload, "graphs", None), getattr(workload, "size_of", None)
    return measure(path if size_of is None else opened, graphs=graphs, size_of=size_of, **options)
