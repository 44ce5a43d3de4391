"""`nodebudget measure`: dataset → sizes."""

from __future__ import annotations

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

#: Skipped crystals that are named one by one.
_NAMED = 20

_HELP = """Count nodes, edges and line-graph edges of every crystal of DATA.

DATA is a JARVIS-style JSON (.json, .json.gz, .json.zip) or one entry per line (.jsonl, .jsonl.gz), Parquet with a
column atoms or cif, an ASE database (.db), a .tar or .tar.gz (webdataset shards among them), a folder with id_prop.csv, of
structure files or of shards, a DGL graph cache (.bin), an LMDB as alignn writes it, several by a pattern
('part-{00..99}.tar', 'part-?.jsonl'), or sizes measured before (.npz, .csv, .parquet).

Crystals are counted exactly as the graphs that alignn would build of them. For the strategies k-nearest and
radius_graph no graph is built; for the others alignn builds each one, which takes tens of times longer.

DATA is streamed. With -o, rows are kept in FILE.part until all are measured: after an interruption, the same command
continues. Sizes are also kept in .nodebudget/ beside DATA and are used as long as DATA does not change.

\b
Example:
  nodebudget measure dft_3d.json.zip --neighbors 12 --cutoff 8 -o sizes.npz
"""


#: Options that set how alignn builds graphs.
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
    "--workers", type=int, help="Processes; 0 for none.  [default: 0, or one per CPU from 20,000 crystals on]"
)
@click.option("--dask", metavar="ADDRESS", help="Count on the Dask cluster whose scheduler is at this address.")
@click.option(
    "--on-error",
    type=click.Choice(["raise", "skip"]),
    default="raise",
    show_default=True,
    help="What happens to a crystal that can't be read; skipped ones are listed.",
)
@click.option("--no-cache", is_flag=True, help="Measure again, and write nothing beside DATA.")
@click.option(
    "--fingerprint",
    type=click.Choice(["quick", "thorough"]),
    default="quick",
    show_default=True,
    help="Detect a change of DATA by length, time and samples of the content, or by reading everything.",
)
@click.option("--no-resume", is_flag=True, help="Start over where an interrupted run to the same file left rows.")
@click.option("--max-record", metavar="SIZE", help="Maximum bytes of one crystal, such as 64MiB.  [default: 16MiB]")
@click.option(
    "--max-expansion", type=float, help="How many times its size a packed file may unpack to.  [default: 200]"
)
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
    given = {name: options[name] for name in _SETTINGS if options[name] is not None}
    table = _measure(data, _settings(alignn_config, given), {"output": output, "force": force, **options}, quiet)
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
    from nodebudget.datasets.measure import MeasureOptions, measure

    address, workers, output = options["dask"], options["workers"], options["output"]
    if address is not None and workers is not None:
        raise InputError("--dask together with --workers", hint="the cluster has its own workers; give one of the two")
    further = MeasureOptions(
        fingerprint=options["fingerprint"],
        force=options["force"],
        resume=not options["no_resume"],
        read_limits=_read_limits(options["max_record"], options["max_expansion"]),
        crystals_only=graphs is not None,
        note=lambda text: note(printable(text), quiet=quiet),
    )
    with (
        _interruption_noted(output, quiet),
        progress("measuring", quiet=quiet) as report,
        nullcontext() if address is None else dask_executor(address) as executor,
    ):
        return measure(
            path,
            graphs=graphs,
            workers=workers if executor is None else executor,
            on_error=options["on_error"],
            progress=report,
            cache=not options["no_cache"],
            allow_pickle=options["allow_pickle"],
            output=output,
            options=further,
        )


def _read_limits(record: str | None, expansion: float | None) -> Any:
    from nodebudget.datasets.read_limits import ReadLimits

    given = {"max_record": None if record is None else parse_bytes(record), "max_expansion": expansion}
    return ReadLimits(**{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]


@contextmanager
def _interruption_noted(output: str | None, quiet: bool) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        if output is not None:
            note(f"the rows measured so far are in {output}.part; the same command continues with them", quiet=quiet)
        raise


def _name_skipped(skipped: list[dict[str, Any]], quiet: bool) -> None:
    # Printed even when quiet: nothing is left out silently.
    for entry in skipped[:_NAMED]:
        label = f" ({entry['name']})" if entry["name"] else ""
        note(printable(f"skipped crystal {entry['index']}{label}: {entry['reason']}"))
    if len(skipped) > _NAMED:
        note(f"skipped {len(skipped) - _NAMED} more; --json lists all {len(skipped)}")


def _show(table: SizeTable) -> None:
    shown = Table(title=f"{len(table):,} graphs", title_justify="left")
    shown.add_column("per graph")
    statistics = table.statistics()
    for name in ("mean", "median", "min", "max", "std", "total"):
        shown.add_column(name, justify="right")
    for column in table.columns:
        shown.add_row(size_label(column), *(_number(value) for value in statistics[column].values()))
    PlainConsole().print(shown)


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.1f}"
