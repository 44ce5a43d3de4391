"""Dataset → sizes: the numbers of nodes, edges and line-graph edges of every graph.

Graphs are counted as they are. Crystals are counted as the graphs that alignn would build, exactly, without building
them: tens of times faster.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor
from contextlib import closing, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nodebudget.datasets.cache.checkpoint import MeasureCheckpoint
from nodebudget.datasets.cache.fingerprint import QUICK, fingerprint
from nodebudget.datasets.cache.size_cache import SizeCache
from nodebudget.datasets.counting.graph import holds_graph
from nodebudget.datasets.counting.rows import Rows, SizeOf
from nodebudget.datasets.graph_settings import BUILT, COUNTING, GraphSettings
from nodebudget.datasets.read_limits import ReadLimits
from nodebudget.datasets.readers.open_dataset import Data, empty_dataset, open_data, open_source
from nodebudget.datasets.readers.source import Chunk, NamedSample, RecordSource, chunked
from nodebudget.datasets.sample_error import SampleError
from nodebudget.datasets.size_table import SizeTable, check_suffix
from nodebudget.datasets.workers import measure_chunks
from nodebudget.errors import CrystalError, InputError, NodeBudgetError
from nodebudget.utils.checks import check_choice, check_count
from nodebudget.utils.files import check_output
from nodebudget.utils.optional_imports import installed, require

MANY_CRYSTALS = 20_000  #: From this many crystals on, starting processes saves more time than it takes.

#: Called with the numbers of samples measured so far and in total (None where only the end tells).
Progress = Callable[[int, "int | None"], object]


@dataclass(frozen=True)
class MeasureOptions:
    """Options of `measure` that are rarely needed.

    Attributes:
        fingerprint: How a change of the data is detected: "quick" by length, time and samples of the content,
            "thorough" by reading all of it.
        force: Overwrite the output.
        resume: Continue with the rows that an interrupted call with the same output left in `OUTPUT.part`.
        read_limits: Sizes above which a file or a record is refused.
        crystals_only: Raise an InputError where the data holds graphs or sizes, to which `graphs` does not apply.
        note: Called with messages: the cache was used or can't be written, an interrupted measurement continues.
    """

    fingerprint: str = QUICK
    force: bool = False
    resume: bool = True
    read_limits: ReadLimits = field(default_factory=ReadLimits)
    crystals_only: bool = False
    note: Callable[[str], object] = lambda text: None


def measure(
    data: Any,
    *,
    graphs: GraphSettings | None = None,
    workers: int | Executor | None = 0,
    on_error: str = "raise",
    size_of: SizeOf | None = None,
    progress: Progress | None = None,
    cache: bool = True,
    allow_pickle: bool = False,
    output: str | os.PathLike[str] | None = None,
    options: MeasureOptions | None = None,
) -> SizeTable:
    """Count the nodes, edges and line-graph edges of every graph of a dataset.

    Args:
        data: A path that `open_data` takes, or a packed .jsonl.gz or .tar.gz, read from front to back in bounded
            memory. Or a dataset in memory: anything with `len` and `[i]` that holds DGL graphs, PyG `Data`, tuples
            that start with such a graph (and its line graph), JARVIS dicts, or Atoms of jarvis, ase or pymatgen; what
            `open_data` returns; or a SizeTable, which is returned as it is.
        graphs: How alignn builds graphs of crystals; default: k-nearest, 12 neighbours, cutoff 8 Å. Does not apply
            to data that holds graphs or sizes.
        workers: Processes that count crystals; 0: this process alone; None: one per CPU from 20,000 crystals on, else
            none. Or any `concurrent.futures.Executor`, which is left open. The result is the same. DGL graphs are
            always counted in this process.
        on_error: "raise", or "skip" to leave out samples that can't be read. They are listed in
            `settings["skipped"]` (index, name, reason), the indices of the others in `settings["indices"]`.
        size_of: Sample → further sizes by name, such as {"tokens": 312}. The samples of a path are then read as
            `open_data` reads them, without cache and checkpoint.
        progress: Called with the numbers of samples measured so far and in total (None where only the end tells).
        cache: Read the sizes of a path from `.nodebudget/` beside it where the data has not changed, else write
            them there.
        allow_pickle: Read an LMDB of pickled graphs, which can run any code that its maker put there.
        output: Also write the sizes here: .npz, .csv or .parquet. Rows of a path are kept in `OUTPUT.part` meanwhile,
            with which the same call continues after an interruption.
        options: Further options.

    Returns:
        One row per graph, in the dataset's order, with ids where samples have names; always with ids for a path.

    Raises:
        InputError: The data is not a dataset, is empty, is damaged, or changed while it was read; or the output can't
            be written.
        RecordError: `OUTPUT.part` belongs to another measurement.
        CrystalError: A sample can't be read and `on_error` is "raise".
        MissingError: A package that this needs is not installed.
    """
    options = options or MeasureOptions()
    _check_arguments(workers, on_error, output, options)
    path = os.fspath(data) if isinstance(data, (str, os.PathLike)) else ""
    how: dict[str, Any] = {"allow_pickle": allow_pickle, "read_limits": options.read_limits}
    if path and size_of is None:
        source = open_source(path, **how)
    else:
        source = _in_memory(open_data(path, **how) if path else data)
    kind = "sizes" if isinstance(source, SizeTable) else source.kind
    if options.crystals_only and kind != "crystals":
        raise InputError(
            f"{path or 'the dataset'!r} holds {kind}, to which graph settings do not apply",
            hint="leave the settings out, or give the crystals",
        )
    if isinstance(source, SizeTable):
        return _saved(source, output, options)
    name = data.source if isinstance(data, Data) else path
    run = _Measurement(source, name, graphs or GraphSettings(), workers, on_error, size_of, progress, output, options)
    return run.table(run.collect(None)) if isinstance(source, _InMemory) else run.on_disk(cache)


@dataclass(frozen=True)
class _Measurement:
    """One call of `measure`: its arguments, the source of the samples, and the path that the data came from, or ""."""

    source: RecordSource
    path: str
    graphs: GraphSettings
    workers: int | Executor | None
    on_error: str
    size_of: SizeOf | None
    progress: Progress | None
    output: str | os.PathLike[str] | None
    options: MeasureOptions

    def on_disk(self, use_cache: bool) -> SizeTable:
        """Read the sizes from the cache where the data has not changed since; otherwise measure."""
        how, depends = self.options.fingerprint, self._depends()
        data = fingerprint(self.source.files, how)
        identity = {"data": data, **depends}
        cache = SizeCache(self.path, {**depends, "fingerprint": how}) if use_cache else None
        table = None if cache is None else cache.load(data)
        if cache is not None and table is not None:
            self.options.note(
                f"sizes are read from {cache.path}, since the data has not changed (--no-cache measures again)"
            )
            return self._from_cache(table, identity)
        table = self._measured(identity)
        if cache is not None and (reason := cache.save(table, data)):
            self.options.note(f"sizes are not cached: {reason}")
        return table

    def _measured(self, identity: Mapping[str, Any]) -> SizeTable:
        with nullcontext() if self.output is None else self._checkpoint(self.output, identity) as checkpoint:
            rows = self.collect(checkpoint)
            # Data that was written to meanwhile has no sizes: some would be those of the old data.
            changed = fingerprint(self.source.files, self.options.fingerprint) != identity["data"]
            table = self.table(rows) if rows.seen and not changed else None
            if checkpoint is not None:
                checkpoint.remove()
        if changed:
            raise InputError(
                f"{self.path!r} has changed while it was read", hint="measure it again when it is complete"
            )
        if table is None:
            raise empty_dataset(self.path)
        return table

    def collect(self, checkpoint: MeasureCheckpoint | None) -> Rows:
        rows = Rows(self.on_error, self.source.named, self.size_of)
        total, show = self.source.count(), self.progress or (lambda done, total: None)
        for chunk_rows in () if checkpoint is None else checkpoint.rows():
            for row in chunk_rows:
                rows.add(row)
            show(rows.seen, total)
        if rows.seen:
            self.options.note(f"continuing after {rows.seen:,} samples that were measured before")
        # Closed at once when a crystal is refused, so that no process continues.
        with closing(measure_chunks(self.source.chunks(rows.seen), self.graphs, self._workers())) as measured:
            for chunk, chunk_rows in measured:
                if checkpoint is not None:
                    checkpoint.add(chunk.first, chunk_rows)
                for place, row in enumerate(chunk_rows):
                    rows.add(row, None if self.size_of is None else chunk.payload[place][1])
                show(rows.seen, total)
        return rows

    def _workers(self) -> int | Executor:
        if not self.source.picklable:
            return 0
        if self.workers is None:
            return (os.cpu_count() or 1) if self.source.estimated_count() >= MANY_CRYSTALS else 0
        return self.workers

    def table(self, rows: Rows) -> SizeTable:
        settings: dict[str, Any] = {"graphs": self.graphs.to_dict()} if self.source.kind == "crystals" else {}
        source = {"source": self.path} if self.path else {}
        return _saved(rows.table(settings | source), self.output, self.options)

    def _depends(self) -> dict[str, Any]:
        """Return what the sizes depend on, beside the data."""
        crystals, read_limits = self.source.kind == "crystals", self.options.read_limits
        packages = ["jarvis-tools", *(["alignn"] if self.graphs.strategy in BUILT else [])] if crystals else []
        return {
            "graphs": self.graphs.to_dict() if crystals else None,
            "bounds": {"record": read_limits.max_record, "expansion": read_limits.max_expansion},
            "structures": read_limits.structures,
            "counting": COUNTING,
            "packages": {name: installed(name) for name in packages},
        }

    def _from_cache(self, table: SizeTable, identity: Mapping[str, Any]) -> SizeTable:
        if self.on_error == "raise" and (skipped := table.settings.get("skipped")):
            raise CrystalError(skipped[0]["index"], skipped[0]["name"], skipped[0]["reason"])
        # An interrupted run with the same output may have left rows, which are of no use any more.
        if self.output is not None and Path(f"{os.fspath(self.output)}.part").exists():
            with suppress(NodeBudgetError), self._checkpoint(self.output, identity) as checkpoint:
                checkpoint.remove()
        return _saved(
            SizeTable(table.columns, table.ids, {**table.settings, "source": self.path}), self.output, self.options
        )

    def _checkpoint(self, output: str | os.PathLike[str], identity: Mapping[str, Any]) -> MeasureCheckpoint:
        return MeasureCheckpoint(f"{os.fspath(output)}.part", identity, resume=self.options.resume)


class _InMemory(RecordSource):
    """The samples of a dataset in memory."""

    def __init__(self, dataset: Any) -> None:
        super().__init__(Path())
        self._dataset, self.named = dataset, isinstance(dataset, Data)
        first = self._sample(0)[1]
        if holds_graph(first):
            self.kind, self.picklable = "graphs", False

    def count(self) -> int:
        return len(self._dataset)

    def chunks(self, start: int) -> Iterator[Chunk]:
        samples = ((self._sample(index), 0) for index in range(start, len(self._dataset)))
        yield from chunked(samples, start, _unchanged)

    def _sample(self, index: int) -> NamedSample:
        try:
            return None, self._dataset[index]
        except CrystalError as error:
            return error.name or None, SampleError(error.reason)


def _unchanged(sample: NamedSample) -> NamedSample:
    return sample


def _in_memory(dataset: Any) -> RecordSource | SizeTable:
    dataset = dataset.items if isinstance(dataset, Data) and isinstance(dataset.items, SizeTable) else dataset
    if isinstance(dataset, SizeTable):
        return dataset
    if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__") or isinstance(dataset, (bytes, Mapping)):
        raise InputError(
            f"a {type(dataset).__name__} is not a dataset",
            limit="a path, or something with a length and items: a list of graphs, a torch Dataset",
            hint="put the samples into a list",
        )
    if not len(dataset):
        raise InputError("the dataset is empty", hint="give one with at least one crystal or graph")
    return _InMemory(dataset)


def _saved(table: SizeTable, output: str | os.PathLike[str] | None, options: MeasureOptions) -> SizeTable:
    if output is not None:
        table.save(output, force=options.force)
    return table


def _check_arguments(
    workers: object, on_error: str, output: str | os.PathLike[str] | None, options: MeasureOptions
) -> None:
    """Refuse wrong arguments before the data is opened."""
    check_choice("on_error", on_error, ("raise", "skip"))
    if workers is not None and not isinstance(workers, Executor):
        check_count("workers", workers, 0)
    if output is not None:
        check_suffix(output)
        check_output(output, force=options.force)
        if str(output).endswith(".parquet"):
            require("pyarrow.parquet")
