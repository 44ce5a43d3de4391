"""nodebudget measure."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import click

from nodebudget.cli import options
from nodebudget.cli.printer import Printer
from nodebudget.datasets.graph_settings import STRATEGIES, GraphSettings
from nodebudget.errors import InputError, printable

_NAMED = 20  #: Skipped crystals that are named one by one.

#: Options that set how alignn builds graphs.
_GRAPHS = ("strategy", "neighbors", "cutoff", "three_body_cutoff", "canonize")


@click.command("measure", short_help="Count nodes, edges and line-graph edges.")
@click.argument("data", type=click.Path())
@options.outputs("Write the sizes here: .npz, .csv or .parquet.", suffixes=(".npz", ".csv", ".parquet"))
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
@options.on_error
@click.option("--no-cache", is_flag=True, help="Measure again, and write nothing beside DATA.")
@click.option(
    "--fingerprint",
    type=click.Choice(["quick", "thorough"]),
    default="quick",
    show_default=True,
    help="Detect a change of DATA by length, time and samples of the content, or by reading everything.",
)
@click.option("--no-resume", is_flag=True, help="Start over where an interrupted run to the same file left rows.")
@options.memory("--max-record", "Maximum bytes of one crystal, such as 64MiB.  [default: 16MiB]")
@click.option(
    "--max-expansion", type=float, help="How many times its size a packed file may unpack to.  [default: 200]"
)
@options.allow_pickle
@options.printer
def command(
    data: str,
    outputs: options.Outputs,
    workers: int | None,
    dask: str | None,
    on_error: str,
    no_cache: bool,
    allow_pickle: bool,
    printer: Printer,
    **further: Any,
) -> None:
    """Count nodes, edges and line-graph edges of every crystal of DATA.

    DATA is a JARVIS-style JSON (.json, .json.gz, .json.zip) or one entry per line (.jsonl, .jsonl.gz), Parquet with a
    column atoms or cif, an ASE database (.db), a .tar or .tar.gz (webdataset shards among them), a folder with
    id_prop.csv, of structure files or of shards, a DGL graph cache (.bin), an LMDB as alignn writes it, several by a
    pattern ('part-{00..99}.tar', 'part-?.jsonl'), or sizes measured before (.npz, .csv, .parquet).

    Crystals are counted exactly as the graphs that alignn would build of them. For the strategies k-nearest and
    radius_graph no graph is built; for the others alignn builds each one, which takes tens of times longer.

    DATA is streamed. With -o, rows are kept in FILE.part until all are measured: after an interruption, the same
    command continues. Sizes are also kept in .nodebudget/ beside DATA and are used as long as DATA does not change.

    \b
    Example:
      nodebudget measure dft_3d.json.zip --neighbors 12 --cutoff 8 -o sizes.npz
    """
    from nodebudget.analysis.dataset_storage import storage_record
    from nodebudget.datasets.measure import MeasureOptions, measure
    from nodebudget.datasets.read_limits import ReadLimits
    from nodebudget.datasets.workers import dask_executor
    from nodebudget.report.sizes import sizes_report, storage_report

    if dask is not None and workers is not None:
        raise InputError("--dask together with --workers", hint="the cluster has its own workers; give one of the two")
    graphs = _graphs(further["alignn_config"], _given(further, *_GRAPHS))
    rare = MeasureOptions(
        fingerprint=further["fingerprint"],
        force=outputs.force,
        resume=not further["no_resume"],
        read_limits=ReadLimits(structures=options.structures_key(), **_given(further, "max_record", "max_expansion")),
        crystals_only=graphs is not None,
        note=lambda text: printer.note(printable(text)),
    )
    interrupted = f"the rows measured so far are in {outputs.output}.part; the same command continues with them"
    with (
        printer.note_on_interrupt(outputs.output and interrupted),
        nullcontext(workers) if dask is None else dask_executor(dask) as processes,
        printer.steps() as steps,
    ):
        table = measure(
            data,
            graphs=graphs,
            workers=processes,
            on_error=on_error,
            progress=steps.of("measuring"),
            cache=not no_cache,
            allow_pickle=allow_pickle,
            output=outputs.output,
            options=rare,
        )
    skipped = list(table.settings.get("skipped", ()))
    _note_skipped(skipped, printer)
    if outputs.output is not None:
        printer.note(f"sizes of {len(table)} graphs in {outputs.output}")
    settings = {key: value for key, value in table.settings.items() if key not in ("skipped", "indices")}
    record = {**table.statistics(), "skipped": skipped, "settings": settings, "storage": storage_record(table)}
    printer.result(record, sizes_report(table), storage_report(table))


def _given(values: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: values[name] for name in names if values[name] is not None}


def _graphs(alignn_config: str | None, given: dict[str, Any]) -> GraphSettings | None:
    """Return the graph settings that were asked for, or None."""
    if alignn_config is None:
        return GraphSettings(**given) if given else None
    if given:
        raise InputError(
            f"--alignn-config together with {', '.join('--' + name.replace('_', '-') for name in given)}",
            hint="give the config or the single options",
        )
    return GraphSettings.from_alignn_config(alignn_config)


def _note_skipped(skipped: list[dict[str, Any]], printer: Printer) -> None:
    # Printed even when quiet: nothing is left out silently.
    for entry in skipped[:_NAMED]:
        label = f" ({entry['name']})" if entry["name"] else ""
        printer.note(printable(f"skipped crystal {entry['index']}{label}: {entry['reason']}"), always=True)
    if len(skipped) > _NAMED:
        printer.note(f"skipped {len(skipped) - _NAMED} more; --json lists all {len(skipped)}", always=True)
