"""A dataset on disk to a table: from the cache where the data has not changed, else measured and kept meanwhile."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from contextlib import closing, nullcontext, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from nodebudget.datasets.cache.checkpoint import MeasureCheckpoint
from nodebudget.datasets.cache.fingerprint import QUICK, fingerprint
from nodebudget.datasets.cache.size_cache import Cache
from nodebudget.datasets.counting.rows import Rows
from nodebudget.datasets.graph_settings import BUILT, COUNTING, GraphSettings
from nodebudget.datasets.read_limits import Bounds
from nodebudget.datasets.readers.open_dataset import is_empty
from nodebudget.datasets.readers.source import Source
from nodebudget.datasets.size_table import SUFFIXES, SizeTable
from nodebudget.datasets.workers import measure_chunks
from nodebudget.errors import CrystalError, InputError, NodeBudgetError
from nodebudget.utils.checks import check_choice, check_count
from nodebudget.utils.files import check_output
from nodebudget.utils.optional_imports import installed, require

#: Called with the number of samples done and of all, or None where that is not known.
Progress = Callable[[int, "int | None"], object]


@dataclass(frozen=True)
class Options:
    """How a dataset on disk is measured: see `nodebudget.datasets.measure.measure_path`."""

    graphs: GraphSettings | None = None
    workers: int = 0
    executor: Executor | None = None
    on_error: str = "raise"
    progress: Progress | None = None
    cache: bool = True
    fingerprint: str = QUICK
    output: str | os.PathLike[str] | None = None
    force: bool = False
    resume: bool = True
    bounds: Bounds = field(default_factory=Bounds)
    note: Callable[[str], object] | None = None

    def __post_init__(self) -> None:
        check_how(self.workers, self.on_error)
        if self.output is not None:
            _check_suffix(self.output)
            check_output(self.output, force=self.force)

    def say(self, text: str) -> None:
        """Hand a note on."""
        if self.note is not None:
            self.note(text)


def check_how(workers: int, on_error: str) -> None:
    """Refuse what is no way to measure.

    Raises:
        InputError: It is none.
    """
    check_choice("on_error", on_error, ("raise", "skip"))
    check_count("workers", workers, 0)


def partial_of(output: str | os.PathLike[str]) -> Path:
    """Return where rows are kept until the output is written."""
    return Path(f"{os.fspath(output)}.part")


def measure_source(source: Source | SizeTable, path: str | os.PathLike[str], options: Options) -> SizeTable:
    """Measure what `open_source` opened at `path`, and write the output.

    Raises:
        InputError: The data is empty, damaged, or changed while it was read; or the output can't be written.
        CrystalError: A crystal can't be read and is not to be skipped.
        MissingError: A package that this needs is not there.
    """
    if isinstance(source, SizeTable):
        return _saved(source, options)
    depends = _depends(source, options)
    before = fingerprint(source.files, options.fingerprint)
    identity = {"data": before, **depends}
    cache = Cache(path, {**depends, "fingerprint": options.fingerprint}) if options.cache else None
    table = None if cache is None else cache.load(before)
    if table is not None and cache is not None:
        options.say(f"sizes are those of {cache.path}, since the data has not changed (--no-cache measures anew)")
        _refuse_skipped(table, options.on_error)
        found = SizeTable(table.columns, table.ids, {**table.settings, "source": str(path)})
        _forget(options, identity)
        return _saved(found, options)
    return _measured(source, path, options, identity, cache)


def _measured(
    source: Source, path: str | os.PathLike[str], options: Options, identity: Mapping[str, Any], cache: Cache | None
) -> SizeTable:
    output = options.output
    with (
        nullcontext()
        if output is None
        else MeasureCheckpoint(partial_of(output), identity, resume=options.resume) as kept
    ):
        rows = _collect(source, options, kept)
        # Read again, so that sizes of a file that was written meanwhile are never taken for those of the new one.
        if fingerprint(source.files, options.fingerprint) != identity["data"]:
            if kept is not None:
                kept.remove()
            raise InputError(f"{str(path)!r} has changed while it was read", hint="measure it again when it is whole")
        if not rows.seen:
            if kept is not None:
                kept.remove()
            raise is_empty(path)
        settings = {} if source.kind == "graphs" else {"graphs": (options.graphs or GraphSettings()).to_dict()}
        table = _saved(rows.table({**settings, "source": str(path)}), options)
        if kept is not None:
            kept.remove()
    if cache is not None and (reason := cache.save(table, identity["data"])):
        options.say(f"sizes are not cached: {reason}")
    return table


def _collect(source: Source, options: Options, kept: MeasureCheckpoint | None) -> Rows:
    rows = Rows(options.on_error, named=True)
    total, show = source.count(), options.progress or (lambda done, total: None)
    for chunk_rows in kept.rows() if kept is not None else ():
        for row in chunk_rows:
            rows.add(row)
        show(rows.seen, total)
    if rows.seen:
        options.say(f"going on from {rows.seen:,} that were measured before")
    how: dict[str, Any] = {"workers": options.workers, "executor": options.executor} if source.travels else {}
    chunks = source.chunks(rows.seen)
    # Closed at once when a crystal is refused, so that no process works on.
    with closing(measure_chunks(chunks, options.graphs or GraphSettings(), **how)) as found:
        for chunk, chunk_rows in found:
            if kept is not None:
                kept.add(chunk.first, chunk_rows)
            for row in chunk_rows:
                rows.add(row)
            show(rows.seen, total)
    return rows


def _depends(source: Source, options: Options) -> dict[str, Any]:
    """Return what the sizes depend on, beside the data."""
    graphs = None if source.kind == "graphs" else options.graphs or GraphSettings()
    packages = ["jarvis-tools", *(["alignn"] if graphs is not None and graphs.strategy in BUILT else [])]
    return {
        "graphs": None if graphs is None else graphs.to_dict(),
        "bounds": asdict(options.bounds),
        "counting": COUNTING,
        "packages": {} if graphs is None else {name: installed(name) for name in packages},
    }


def _refuse_skipped(table: SizeTable, on_error: str) -> None:
    skipped = table.settings.get("skipped")
    if skipped and on_error == "raise":
        raise CrystalError(skipped[0]["index"], skipped[0]["name"], skipped[0]["reason"])


def _forget(options: Options, identity: Mapping[str, Any]) -> None:
    """Remove what an interrupted run to the same output left, now that its sizes are known."""
    if options.output is not None and (left := partial_of(options.output)).exists():
        with suppress(NodeBudgetError), MeasureCheckpoint(left, identity) as kept:
            kept.remove()


def _saved(table: SizeTable, options: Options) -> SizeTable:
    if options.output is not None:
        table.save(options.output, force=options.force)
    return table


def _check_suffix(output: str | os.PathLike[str]) -> None:
    if not str(output).endswith(SUFFIXES):
        raise InputError(
            f"{str(output)!r} is no file of sizes",
            limit=f"suffix {', '.join(SUFFIXES)}",
            hint="choose one of these suffixes",
        )
    if str(output).endswith(".parquet"):
        require("pyarrow.parquet")
