"""Sizes of the samples that a workload trains on, whose graphs may be its own."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from nodebudget.datasets.counting.columns import LengthCollector, count_tensors, tensor_lengths
from nodebudget.datasets.counting.graph import count_graph, holds_graph
from nodebudget.datasets.counting.rows import entry_id
from nodebudget.datasets.measure import measure
from nodebudget.datasets.readers.open_dataset import Data, open_data
from nodebudget.datasets.sample_error import SampleError
from nodebudget.datasets.size_table import STANDARD, SizeTable
from nodebudget.errors import CrystalError, InputError, first_line
from nodebudget.utils.checks import check_choice
from nodebudget.workloads.protocol import Workload
from nodebudget.workloads.run_step import run_step

WORKLOAD = "workload"  #: Key of a table's settings: the workload whose samples were counted.


def measure_samples(
    workload: Workload,
    data: Any,
    *,
    on_error: str = "raise",
    progress: Callable[[int, int | None], object] | None = None,
    **options: Any,
) -> SizeTable:
    """Count the graphs that a workload trains on.

    A workload with `graphs` builds alignn's graphs, whose sizes follow from the crystals without building them. One
    with `sample` alone makes graphs of its own: each sample is made once and counted, by the workload's `sizes(sample)`
    or, if it has none, as a graph of DGL, PyTorch Geometric or alignn.

    Args:
        workload: The training step.
        data: A path or a dataset, as `nodebudget.measure` takes them.
        on_error: "raise", or "skip" to leave out crystals that can't be read.
        progress: Called with the numbers of samples measured so far and in total.
        **options: Further arguments of `nodebudget.measure`.

    Returns:
        One row per item of the data. `settings["workload"]` names the workload whose own graphs were counted.

    Raises:
        InputError: The data is not a dataset, or samples can't be counted.
        CrystalError: A crystal can't be read and `on_error` is "raise".
        WorkloadError: `sample` or `sizes` raised.
    """
    graphs, size_of = getattr(workload, "graphs", None), getattr(workload, "size_of", None)
    counts_itself = hasattr(workload, "sizes")
    if isinstance(data, SizeTable) or graphs is not None or not (counts_itself or hasattr(workload, "sample")):
        named = {"on_error": on_error, "progress": progress, **options}
        if isinstance(data, (str, os.PathLike)) or holds_crystals(data):
            return measure(data, graphs=graphs, size_of=size_of, **named)
        lengths = LengthCollector(size_of)
        return lengths.add_to(measure(data, graphs=graphs, size_of=lengths, **named))
    check_choice("on_error", on_error, ("raise", "skip"))
    opened = data
    if isinstance(data, (str, os.PathLike)):
        reading = options["options"].read_limits if options.get("options") is not None else None
        opened = open_data(data, allow_pickle=options.get("allow_pickle", False), read_limits=reading)
    if isinstance(opened, Data) and isinstance(opened.items, SizeTable):
        return opened.items
    if not len(opened):
        raise InputError("the dataset is empty", hint="give one with one crystal or more")
    return _count_all(workload, opened, on_error, progress or (lambda done, total: None))


def count_sample(workload: Workload, sample: Any) -> dict[str, float]:
    """Count one sample of a workload: its sizes by name, lengths of tensors, and `size_of` where items are samples.

    Raises a SampleError where it can't be counted, a WorkloadError where the workload's function raises.
    """
    sizes: Callable[[Any], Mapping[str, float]] | None = getattr(workload, "sizes", None)
    if sizes is not None:
        return run_step(lambda: dict(sizes(sample)), "sizes(sample)")
    try:
        counted: dict[str, float] = dict(count_graph(sample))
    except SampleError:
        counted = count_tensors(sample)
    counted = {**tensor_lengths(sample), **counted}
    size_of = getattr(workload, "size_of", None)
    if size_of is not None and not hasattr(workload, "sample"):
        counted |= run_step(lambda: dict(size_of(sample)), "size_of(sample)")
    return counted


def _count_all(
    workload: Workload, dataset: Any, on_error: str, progress: Callable[[int, int | None], object]
) -> SizeTable:
    size_of, lengths = getattr(workload, "size_of", None), LengthCollector()
    counts_itself = hasattr(workload, "sizes")
    rows: list[dict[str, float]] = []
    names: list[str | None] = []
    skipped: list[dict[str, Any]] = []
    for index in range(len(dataset)):
        try:
            item = dataset[index]
            sample = run_step(lambda item=item: workload.sample(item), f"sample() of item {index}")  # type: ignore[attr-defined, misc]
            sizes = count_sample(workload, sample)
            if not counts_itself:
                sizes = {name: value for name, value in sizes.items() if name in STANDARD}
                lengths(sample)
        except SampleError as error:
            raise InputError(
                f"the samples of {_name(workload)} can't be counted: {first_line(error)}",
                hint="give the workload a method sizes(sample) that returns {'nodes': …, 'edges': …}",
            ) from error
        except CrystalError as error:
            if on_error == "raise":
                raise
            skipped.append({"index": index, "name": error.name, "reason": error.reason})
            continue
        rows.append({**sizes, **(size_of(item) if size_of is not None else {})})
        names.append(entry_id(item))
        progress(index + 1, len(dataset))
    if not rows:
        raise InputError(f"not one of {len(dataset)} crystals could be read", hint="check that this is the dataset")
    settings: dict[str, Any] = {WORKLOAD: _name(workload)}
    if skipped:
        left = np.delete(np.arange(len(dataset)), [entry["index"] for entry in skipped])
        settings |= {"skipped": skipped, "indices": left.tolist()}
    ids = None if None in names else [str(name) for name in names]
    return lengths.add_to(table_of(rows, ids, settings))


def table_of(rows: Sequence[Mapping[str, float]], ids: Sequence[str] | None, settings: Mapping[str, Any]) -> SizeTable:
    """Return a table of the sizes of samples, which have the same sizes, nodes among them, or raise an InputError."""
    for index, row in enumerate(rows):
        if row.keys() != rows[0].keys():
            raise InputError(
                f"sample {index} has the sizes {', '.join(row)}",
                limit=f"the first sample has {', '.join(rows[0])}",
                hint="give every sample the same sizes",
            )
    if "nodes" not in rows[0]:
        raise InputError("the workload's sizes have no 'nodes'", hint="return the number of nodes, or of atoms")
    columns: dict[str, Any] = {name: [row[name] for row in rows] for name in rows[0]}
    return SizeTable.from_counts(**columns, ids=ids, settings=settings)


def _name(workload: Workload) -> str:
    return str(getattr(workload, "name", type(workload).__qualname__))


def holds_crystals(dataset: Any) -> bool:
    """Return whether a dataset's items are crystals, which have no graph yet."""
    if isinstance(dataset, SizeTable):
        return False
    first = dataset[0] if len(dataset) else None
    return not holds_graph(first)
