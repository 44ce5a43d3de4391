"""`nodebudget measure`: dataset → sizes."""

from __future__ import annotations

import os
from typing import Any

import click
from rich.console import Console
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
from nodebudget.errors import InputError
from nodebudget.files import check_output
from nodebudget.measure.settings import STRATEGIES, GraphSettings
from nodebudget.sizes import SUFFIXES, SizeTable

#: From so many crystals on, starting processes costs less than they save.
_MANY = 20_000
#: Skipped crystals that are named one by one.
_NAMED = 20

_HELP = """Count nodes, edges and line-graph edges of every crystal of DATA.

DATA is a JARVIS-style JSON (.json, .json.gz, .json.zip), a folder with id_prop.csv and structure files, a DGL
graph cache (.bin), an LMDB as alignn writes it, or sizes measured before (.npz, .csv, .parquet).

Crystals are counted exactly as alignn would make graphs of them. For the strategies k-nearest and radius_graph
no graph is built; for the others alignn builds each one, which takes tens of times longer.

\b
Example:
  nodebudget measure dft_3d.json.zip --neighbors 12 --cutoff 8 -o sizes.npz
"""


@click.command("measure", cls=Command, help=_HELP, short_help="Count nodes, edges and line-graph edges.")
@click.argument("data", type=click.Path())
@output_options("Write the sizes here: .npz, .csv or .parquet.")
@click.option("--strategy", type=click.Choice(STRATEGIES), help="alignn's neighbor_strategy.  [default: k-nearest]")
@click.option("--neighbors", type=int, help="alignn's max_neighbors.  [default: 12]")
@click.option("--cutoff", type=float, help="alignn's cutoff, in Å.  [default: 8]")
@click.option("--canonize/--no-canonize", default=None, help="alignn's use_canonize.  [default: canonize]")
@click.option("--alignn-config", type=click.Path(), help="Take these from alignn's config.json instead.")
@click.option(
    "--workers", type=int, help=f"Processes; 0 for none.  [default: 0, or one a CPU from {_MANY:,} crystals on]"
)
@click.option(
    "--on-error",
    type=click.Choice(["raise", "skip"]),
    default="raise",
    show_default=True,
    help="What happens to a crystal that can't be read; skipped ones are listed.",
)
@pickle_option
@json_option
@quiet_option
def command(
    data: str,
    output: str | None,
    force: bool,
    alignn_config: str | None,
    workers: int | None,
    on_error: str,
    allow_pickle: bool,
    as_json: bool,
    quiet: bool,
    **graph_options: Any,
) -> None:
    """Count nodes, edges and line-graph edges of every crystal of DATA."""
    given = {name: value for name, value in graph_options.items() if value is not None}
    graphs = _settings(alignn_config, given)
    if output is not None:
        _check_suffix(output)
        check_output(output, force=force)
    table = _measure(data, graphs, workers, on_error, allow_pickle, quiet)
    skipped = list(table.settings.get("skipped", ()))
    _name_skipped(skipped, quiet)
    if output is not None:
        table.save(output, force=force)
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
            f"--alignn-config together with {', '.join(f'--{name}' for name in given)}",
            hint="give the config or the single options",
        )
    return GraphSettings.from_alignn_config(alignn_config)


def _check_suffix(output: str) -> None:
    if not output.endswith(SUFFIXES):
        raise InputError(
            f"{output!r} is no file of sizes",
            limit=f"suffix {', '.join(SUFFIXES)}",
            hint="choose one of these suffixes",
        )


def _measure(
    path: str, graphs: GraphSettings | None, workers: int | None, on_error: str, allow_pickle: bool, quiet: bool
) -> SizeTable:
    # Only now, so that --help and wrong options don't wait for the readers.
    from nodebudget.measure import measure_dataset, open_data

    data = open_data(path, allow_pickle=allow_pickle)
    if graphs is not None and data.kind != "crystals":
        raise InputError(
            f"{path!r} holds {data.kind} that are made already, so options for making graphs change nothing",
            hint="leave them out, or name the crystals",
        )
    if workers is None:
        workers = (os.cpu_count() or 1) if len(data) >= _MANY else 0
    with progress("measuring", quiet=quiet) as report:
        return measure_dataset(data, graphs=graphs, workers=workers, on_error=on_error, progress=report)


def _name_skipped(skipped: list[dict[str, Any]], quiet: bool) -> None:
    # Said even when quiet: nothing is left out in silence.
    for entry in skipped[:_NAMED]:
        label = f" ({entry['name']})" if entry["name"] else ""
        note(f"skipped crystal {entry['index']}{label}: {entry['reason']}")
    if len(skipped) > _NAMED:
        note(f"skipped {len(skipped) - _NAMED} more; --json lists all {len(skipped)}")


def _show(table: SizeTable) -> None:
    shown = Table(title=f"{len(table):,} graphs", title_justify="left")
    shown.add_column("a graph")
    statistics = table.statistics()
    for name in ("mean", "median", "min", "max", "std", "total"):
        shown.add_column(name, justify="right")
    for column in table.columns:
        shown.add_row(column.replace("_", " "), *(_number(value) for value in statistics[column].values()))
    Console().print(shown)


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.1f}"
