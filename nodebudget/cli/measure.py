"""`nodebudget measure`: dataset → sizes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import click
from rich.table import Table

from nodebudget.cli.common import (
    Command,
    json_option,
    note,
    output_options,
    pickle_option,
    print_json,
    progress,
    quiet_option,
)
from nodebudget.datasets.graph_settings import STRATEGIES, GraphSettings
from nodebudget.datasets.size_table import SizeTable
from nodebudget.errors import InputError, printable
from nodebudget.report.console import PlainConsole
from nodebudget.utils.byte_units import parse_bytes
from nodebudget.utils.size_labels import size_label

#: From so many crystals on, starting processes costs less than they save.
_MANY = 20_000
#: Skipped crystals that are named one by one.
_NAMED = 20

_HELP = """Count nodes, edges and line-graph edges of every crystal of DATA.

DATA is a JARVIS-style JSON (.json, .json.gz, .json.zip) or an entry a line (.jsonl, .jsonl.gz), Parquet with a column
atoms or cif, an ASE database (.db), a .tar or .tar.gz (webdataset shards among them), a folder with id_prop.csv, of
structure files or of shards, a DGL graph cache (.bin), an LMDB as alignn writes it, several by a pattern
('part-{00..99}.tar', 'part-?.jsonl'), or sizes measured before (.npz, .csv, .parquet).

Crystals are counted exactly as alignn would make graphs of them. For the strategies k-nearest and radius_graph
no graph is built; for the others alignn builds each one, which takes tens of times longer.

DATA is read bit by bit. With -o, what is measured is kept in FILE.part until all is done: the same command goes on
after an interruption. Sizes are kept in .nodebudget/ beside DATA and are used while DATA does not change.

\b
Example:
  nodebudget measure dft_3d.json.zip --neighbors 12 --cutoff 8 -o sizes.npz
"""


#: Options that say how alignn makes graphs.
_SETTINGS = ("strategy", "neighbors", "cutoff", "three_body_cutoff", "canonize")


@click.command("measure", cls=Command, help=_HELP, short_help="Count nodes, edges and line-graph edges.")
@click.argument("data", type=click.Path())
@output_options("Write the sizes here: .npz, .csv or .parquet.")
@click.option("--strategy", type=click.Choice(STRATEGIES), help="alignn's neighbor_strategy.  [default: k-nearest]")
@click.option("--neighbors", type=int, help="alignn's max_neighbors.  [default: 12]")
@click.option("--cutoff", type=float, help="alignn's cutoff, in Å.  [default: 8]")
@click.option(
    "--three-body-cutoff", type=float, help="alignn's three_body_cutoff, in Å, for pure_torch.  [default: the cutoff]"
)
@click.option("--canonize/--no-canonize", default=None, help="alignn's use_canonize.  [default: canonize]")
@click.option("--alignn-config", type=click.Path(), help="Take these from alignn's config.json instead.")
@click.option(
    "--workers", type=int, help=f"Processes; 0 for none.  [default: 0, or one a CPU from {_MANY:,} crystals on]"
)
@click.option("--dask", metavar="ADDRESS", help="Count on the Dask cluster whose scheduler is at this address.")
@click.option(
    "--on-error",
    type=click.Choice(["raise", "skip"]),
    default="raise",
    show_default=True,
    help="What happens to a crystal that can't be read; skipped ones are listed.",
)
@click.option("--no-cache", is_flag=True, help="Measure anew, and keep nothing beside DATA.")
@click.option(
    "--fingerprint",
    type=click.Choice(["quick", "thorough"]),
    default="quick",
    show_default=True,
    help="Notice a change of DATA by length, time and parts of the content, or by reading everything.",
)
@click.option("--no-resume", is_flag=True, help="Start anew where an interrupted run to the same file left rows.")
@click.option("--max-record", metavar="SIZE", help="Most bytes of one crystal, such as 64MiB.  [default: 16MiB]")
@click.option("--max-expansion", type=float, help="Most times its size that a packed file may have.  [default: 200]")
@pickle_option
@json_option
@quiet_option
def command(
    data: str,
    output: str | None,
    force: bool,
    alignn_config: str | None,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Count nodes, edges and line-graph edges of every crystal of DATA."""
    given = {name: options.pop(name) for name in _SETTINGS}
    graphs = _settings(alignn_config, {name: value for name, value in given.items() if value is not None})
    table = _measure(data, graphs, {"output": output, "force": force, **options}, quiet)
    skipped = list(table.settings.get("skipped", ()))
    _name_skipped(skipped, quiet)
    if output is not None:
        note(f"sizes of {len(table)} graphs in {output}", quiet=quiet)
    if as_json:
        settings = {key: value for key, value in table.settings.items() if key not in ("skipped", "indices")}
        print_json({**table.statistics(), "skipped": skipped, "settings": settings})
    else:
        _show(table)


def _settings(alignn_config: str | None, given: dict[str, Any]) -> GraphSettings | None:
    """Return the graph settings that were asked for, or None."""
    if alignn_config is None:
        return GraphSettings(**given) if given else None
    if given:
        raise InputError(
            f"--alignn-config together with {', '.join('--' + name.replace('_', '-') for name in given)}",
            hint="give the config or the single options",
        )
    return GraphSettings.from_alignn_config(alignn_config)


def _measure(path: str, graphs: GraphSettings | None, options: dict[str, Any], quiet: bool) -> SizeTable:
    # Only now, so that --help and wrong options don't wait for the readers.
    from nodebudget.datasets.dask_executor import dask_executor
    from nodebudget.datasets.measure_path import Options, measure_source
    from nodebudget.datasets.readers.open_dataset import open_source

    bounds = _bounds(options.pop("max_record"), options.pop("max_expansion"))
    address, workers = options.pop("dask"), options.pop("workers")
    if address is not None and workers is not None:
        raise InputError("--dask together with --workers", hint="the cluster has its own workers; give one of the two")
    how: dict[str, Any] = {
        "graphs": graphs,
        "bounds": bounds,
        "cache": not options.pop("no_cache"),
        "resume": not options.pop("no_resume"),
        "note": lambda text: note(printable(text), quiet=quiet),
    }
    allow_pickle = options.pop("allow_pickle")
    # Wrong options are refused before the data is opened.
    Options(**how, **options, workers=workers or 0)
    source = open_source(path, allow_pickle=allow_pickle, bounds=bounds)
    kind = "sizes" if isinstance(source, SizeTable) else source.kind
    if graphs is not None and kind != "crystals":
        raise InputError(
            f"{path!r} holds {kind} that are made already, so options for making graphs change nothing",
            hint="leave them out, or name the crystals",
        )
    if workers is None:
        large = not isinstance(source, SizeTable) and source.travels and source.about() >= _MANY and address is None
        workers = (os.cpu_count() or 1) if large else 0
    with (
        _interrupts_named(options["output"], quiet),
        progress("measuring", quiet=quiet) as report,
        nullcontext() if address is None else dask_executor(address) as executor,
    ):
        return measure_source(
            source, path, Options(**how, **options, workers=workers, executor=executor, progress=report)
        )


def _bounds(record: str | None, expansion: float | None) -> Any:
    from nodebudget.datasets.read_limits import Bounds

    given: dict[str, Any] = {} if record is None else {"record": parse_bytes(record)}
    if expansion is not None:
        given["expansion"] = expansion
    return Bounds(**given)


@contextmanager
def _interrupts_named(output: str | None, quiet: bool) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        if output is not None:
            note(f"what was measured is in {output}.part; the same command goes on from it", quiet=quiet)
        raise


def _name_skipped(skipped: list[dict[str, Any]], quiet: bool) -> None:
    # Said even when quiet: nothing is left out in silence.
    for entry in skipped[:_NAMED]:
        label = f" ({entry['name']})" if entry["name"] else ""
        note(printable(f"skipped crystal {entry['index']}{label}: {entry['reason']}"))
    if len(skipped) > _NAMED:
        note(f"skipped {len(skipped) - _NAMED} more; --json lists all {len(skipped)}")


def _show(table: SizeTable) -> None:
    shown = Table(title=f"{len(table):,} graphs", title_justify="left")
    shown.add_column("a graph")
    statistics = table.statistics()
    for name in ("mean", "median", "min", "max", "std", "total"):
        shown.add_column(name, justify="right")
    for column in table.columns:
        shown.add_row(size_label(column), *(_number(value) for value in statistics[column].values()))
    PlainConsole().print(shown)


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.1f}"
