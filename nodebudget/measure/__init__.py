"""Dataset → sizes: how many nodes, edges and line-graph edges every graph has.

Graphs are counted as they are. Crystals are counted as alignn would make graphs of them, exactly, without
making them: tens of times faster.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import closing
from typing import Any

from nodebudget.errors import CrystalError, InputError
from nodebudget.measure.graphs import is_graph
from nodebudget.measure.pool import measure_all
from nodebudget.measure.readers import Data, open_data
from nodebudget.measure.rows import Rows, SizeOf
from nodebudget.measure.settings import GraphSettings
from nodebudget.sizes import SizeTable

__all__ = ["Data", "GraphSettings", "measure_dataset", "measure_path", "open_data"]

#: Called with the number of samples done and of all.
Progress = Callable[[int, int], object]


def measure_path(
    path: str | os.PathLike[str],
    *,
    graphs: GraphSettings | None = None,
    workers: int = 0,
    on_error: str = "raise",
    progress: Progress | None = None,
    allow_pickle: bool = False,
) -> SizeTable:
    """Measure a dataset on disk.

    Args:
        path: What `open_data` takes; measured sizes are loaded as they are.
        graphs: How alignn would make graphs of crystals; default: k-nearest, 12 neighbours, cutoff 8 Å.
        workers: Processes for crystals; 0: none but this one. The result is the same.
        on_error: "raise", or "skip" to leave out crystals that can't be read: see `measure_dataset`.
        progress: Called with the number of samples done and of all.
        allow_pickle: Read an LMDB of pickled graphs, which can run any code that its maker put there.

    Returns:
        One row a graph, with ids.

    Raises:
        InputError: The path is nothing that can be measured, or is empty.
        CrystalError: A crystal can't be read and `on_error` is "raise".
        MissingError: A package that this needs is not there.
    """
    data = open_data(path, allow_pickle=allow_pickle)
    return measure_dataset(data, graphs=graphs, workers=workers, on_error=on_error, progress=progress)


def measure_dataset(
    dataset: Any,
    *,
    graphs: GraphSettings | None = None,
    workers: int = 0,
    on_error: str = "raise",
    size_of: SizeOf | None = None,
    progress: Progress | None = None,
) -> SizeTable:
    """Measure a dataset in memory.

    Args:
        dataset: Anything with `len` and `[i]` that holds DGL graphs, PyG `Data`, tuples that start with
            such a graph (and its line graph), JARVIS dicts, or Atoms of jarvis, ase or pymatgen; what
            `open_data` returns; or a SizeTable, which is returned as it is.
        graphs: How alignn would make graphs of crystals; default: k-nearest, 12 neighbours, cutoff 8 Å.
        workers: Processes for crystals; 0: none but this one. The result is the same. Graphs are always
            read in this process.
        on_error: "raise", or "skip" to leave out samples that can't be read. They are listed in
            `settings["skipped"]` (index, name, reason), the indices of those kept in `settings["indices"]`.
        size_of: Sample → further sizes by name, such as {"tokens": 312}.
        progress: Called with the number of samples done and of all.

    Returns:
        One row a graph, in the dataset's order, with ids where the samples have them.

    Raises:
        InputError: The dataset is empty or no dataset.
        CrystalError: A sample can't be read and `on_error` is "raise".
        MissingError: A package that this needs is not there.
    """
    if isinstance(dataset, SizeTable):
        return dataset
    if isinstance(dataset, Data):
        if isinstance(dataset.items, SizeTable):
            return dataset.items
        source = {"source": dataset.source} if dataset.source else {}
        return _measure(dataset.items, dataset.ids, graphs, workers, on_error, size_of, progress, source)
    if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__") or isinstance(dataset, (str, Mapping)):
        raise InputError(
            f"a {type(dataset).__name__} is no dataset",
            limit="something with a length and items: a list of graphs, a torch Dataset",
            hint="for a file or folder use nodebudget.measure.measure_path",
        )
    return _measure(dataset, None, graphs, workers, on_error, size_of, progress, {})


def _measure(
    dataset: Any,
    ids: list[str] | None,
    graphs: GraphSettings | None,
    workers: int,
    on_error: str,
    size_of: SizeOf | None,
    progress: Progress | None,
    settings: dict[str, Any],
) -> SizeTable:
    if on_error not in ("raise", "skip"):
        raise InputError(f"on_error is {on_error!r}", limit="'raise' or 'skip'", hint="give one of them")
    if isinstance(workers, bool) or not isinstance(workers, int) or workers < 0:
        raise InputError(
            f"workers is {workers!r}", limit="a number of processes, 0 for none", hint="give the number of cores, or 0"
        )
    total = len(dataset)
    if not total:
        raise InputError("the dataset is empty", hint="give one with at least one graph or crystal")
    options = graphs or GraphSettings()
    first = _sample(dataset, 0)
    graphs_are_there = is_graph(first) or isinstance(first, (tuple, list))
    if not graphs_are_there:
        settings = {"graphs": options.to_dict(), **settings}
    samples = (_sample(dataset, index) for index in range(total))
    rows = Rows(on_error, ids, size_of)
    # Closed at once when a crystal is refused, so that no process works on.
    with closing(measure_all(samples, options, 0 if graphs_are_there else workers)) as found:
        for done, (sample, row) in enumerate(found, 1):
            rows.add(sample, row)
            if progress is not None:
                progress(done, total)
    return rows.table(settings)


def _sample(dataset: Any, index: int) -> Any:
    """Take a sample; a reader's word on one that can't be read is taken for the sample."""
    try:
        return dataset[index]
    except CrystalError as error:
        return error
