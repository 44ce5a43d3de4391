"""Dataset → sizes: how many nodes, edges and line-graph edges every graph has.

Graphs are counted as they are. Crystals are counted as alignn would make graphs of them, exactly, without
making them: tens of times faster.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor
from contextlib import closing
from typing import Any

from nodebudget.datasets.cache.fingerprint import QUICK
from nodebudget.datasets.counting.graph import is_graph
from nodebudget.datasets.counting.neighbors import UnusableError
from nodebudget.datasets.counting.rows import Rows, SizeOf
from nodebudget.datasets.graph_settings import GraphSettings
from nodebudget.datasets.measure_path import Options, Progress, check_how, measure_source
from nodebudget.datasets.read_limits import Bounds
from nodebudget.datasets.readers.open_dataset import Data, open_data, open_source
from nodebudget.datasets.readers.source import Named, grouped
from nodebudget.datasets.size_table import SizeTable
from nodebudget.datasets.workers import measure_chunks
from nodebudget.errors import CrystalError, InputError

__all__ = ["Bounds", "Data", "GraphSettings", "measure_dataset", "measure_path", "open_data"]


def measure(data: Any, **options: Any) -> SizeTable:
    """Count the nodes, edges and line-graph edges of every graph of a dataset.

    Args:
        data: A path, as `measure_path` takes it, or a dataset in memory, as `measure_dataset` takes it.
        **options: As the one or the other takes them.

    Returns:
        One row a graph.

    Raises:
        InputError: The data is empty or of no supported kind.
        CrystalError: A sample can't be read and `on_error` is "raise".
        MissingError: A package that this needs is not there.
    """
    if isinstance(data, (str, os.PathLike)):
        return measure_path(data, **options)
    return measure_dataset(data, **options)


def measure_path(
    path: str | os.PathLike[str],
    *,
    graphs: GraphSettings | None = None,
    workers: int = 0,
    executor: Executor | None = None,
    on_error: str = "raise",
    progress: Progress | None = None,
    allow_pickle: bool = False,
    cache: bool = True,
    fingerprint: str = QUICK,
    output: str | os.PathLike[str] | None = None,
    force: bool = False,
    resume: bool = True,
    bounds: Bounds | None = None,
    note: Callable[[str], object] | None = None,
) -> SizeTable:
    """Measure a dataset on disk, reading it from front to back in bounded memory.

    Args:
        path: What `open_data` takes, packed .jsonl and .tar as well; measured sizes are loaded as they are.
        graphs: How alignn would make graphs of crystals; default: k-nearest, 12 neighbours, cutoff 8 Å.
        workers: Processes for crystals; 0: none but this one. The result is the same.
        executor: Counts crystals instead: any `concurrent.futures.Executor`, such as that of a Dask client. It is
            left open. The result is the same.
        on_error: "raise", or "skip" to leave out crystals that can't be read: see `measure_dataset`.
        progress: Called with the number of samples done and of all, or None where only the end tells.
        allow_pickle: Read an LMDB of pickled graphs, which can run any code that its maker put there.
        cache: Take sizes from `.nodebudget/` beside the data where the data has not changed, and keep them there.
        fingerprint: How a change is noticed: "quick" by length, time and parts of the content, "thorough" by
            reading everything.
        output: Write the sizes here too: .npz, .csv or .parquet. Meanwhile rows are kept in `OUTPUT.part`.
        force: Overwrite the output.
        resume: Go on with the rows that an interrupted call to the same output left.
        bounds: What a file may ask for before it is refused.
        note: Called with what is worth knowing: that the cache was used or can't be, that a measurement goes on.

    Returns:
        One row a graph, with ids.

    Raises:
        InputError: The path is nothing that can be measured, is empty, or changed while it was read.
        RecordError: `OUTPUT.part` belongs to another measurement.
        CrystalError: A crystal can't be read and `on_error` is "raise".
        MissingError: A package that this needs is not there.
    """
    limits = bounds or Bounds()
    options = Options(
        graphs, workers, executor, on_error, progress, cache, fingerprint, output, force, resume, limits, note
    )
    return measure_source(open_source(path, allow_pickle=allow_pickle, bounds=limits), path, options)


def measure_dataset(
    dataset: Any,
    *,
    graphs: GraphSettings | None = None,
    workers: int = 0,
    executor: Executor | None = None,
    on_error: str = "raise",
    size_of: SizeOf | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> SizeTable:
    """Measure a dataset in memory.

    Args:
        dataset: Anything with `len` and `[i]` that holds DGL graphs, PyG `Data`, tuples that start with
            such a graph (and its line graph), JARVIS dicts, or Atoms of jarvis, ase or pymatgen; what
            `open_data` returns; or a SizeTable, which is returned as it is.
        graphs: How alignn would make graphs of crystals; default: k-nearest, 12 neighbours, cutoff 8 Å.
        workers: Processes for crystals; 0: none but this one. The result is the same. Graphs are always
            read in this process.
        executor: Counts crystals instead: any `concurrent.futures.Executor`, left open.
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
    check_how(workers, on_error)
    if isinstance(dataset, SizeTable):
        return dataset
    settings: dict[str, Any] = {}
    rows = Rows(on_error, named=isinstance(dataset, Data), size_of=size_of)
    if isinstance(dataset, Data):
        if isinstance(dataset.items, SizeTable):
            return dataset.items
        settings = {"source": dataset.source} if dataset.source else {}
    elif not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__") or isinstance(dataset, (str, Mapping)):
        raise InputError(
            f"a {type(dataset).__name__} is no dataset",
            limit="something with a length and items: a list of graphs, a torch Dataset",
            hint="for a file or folder use nodebudget.datasets.measure.measure_path",
        )
    if not len(dataset):
        raise InputError("the dataset is empty", hint="give one with at least one graph or crystal")
    options = graphs or GraphSettings()
    first = _sample(dataset, 0)[1]
    how: dict[str, Any] = {}
    if not is_graph(first) and not isinstance(first, (tuple, list)):
        settings = {"graphs": options.to_dict(), **settings}
        how = {"workers": workers, "executor": executor}
    samples = ((_sample(dataset, index), 0) for index in range(len(dataset)))
    # Closed at once when a crystal is refused, so that no process works on.
    with closing(measure_chunks(grouped(samples, 0, _as_they_are), options, **how)) as found:
        for chunk, chunk_rows in found:
            for (_, sample), row in zip(chunk.payload, chunk_rows, strict=True):
                rows.add(row, sample)
                if progress is not None:
                    progress(rows.seen, len(dataset))
    return rows.table(settings)


def _as_they_are(payload: list[Named]) -> Iterator[Named]:
    """Hand on samples."""
    yield from payload


def _sample(dataset: Any, index: int) -> Named:
    """Take a sample; a reader's word on one that can't be read is taken for the sample."""
    try:
        return None, dataset[index]
    except CrystalError as error:
        return error.name or None, UnusableError(error.reason)
