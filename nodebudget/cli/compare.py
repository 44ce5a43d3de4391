"""nodebudget compare."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nodebudget.cli.common import (
    Command,
    check_picture,
    json_option,
    note,
    pickle_option,
    print_json,
    quiet_option,
    say,
)
from nodebudget.cli.known import measure_known, model_options, open_calibration
from nodebudget.cli.progress import Steps
from nodebudget.utils.checks import check_count

if TYPE_CHECKING:
    from nodebudget.datasets.size_table import SizeTable


@click.command("compare", cls=Command)
@click.argument("data", type=click.Path(), nargs=-1, required=True)
@click.option("--batch-size", required=True, type=int, help="Graphs a batch.")
@click.option("--calibration", type=click.Path(), help="A calibration, to compare and explain predicted bytes.")
@model_options
@pickle_option
@click.option("--plot", type=click.Path(), help="Draw the distributions into this PNG.")
@click.option("--force", is_flag=True, help="Overwrite an existing picture.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Of the simulated epochs.")
@json_option
@quiet_option
def command(
    data: tuple[str, ...],
    batch_size: int,
    calibration: str | None,
    workload: str | None,
    allow_mismatch: bool,
    allow_pickle: bool,
    plot: str | None,
    force: bool,
    seed: int,
    as_json: bool,
    quiet: bool,
) -> None:
    """Say why one dataset takes more memory than another at the same batch size.

    Each DATA is what 'nodebudget measure' takes, sizes measured before (.npz, .csv, .parquet) among it; the first is
    what the others are compared with.

    \b
    Example:
      nodebudget compare a.json b.json --batch-size 64 --plot sizes.png
    """
    from nodebudget.analysis.dataset_comparison import compare
    from nodebudget.utils.files import write_whole

    check_count("batch_size", batch_size, 1)
    if plot is not None:
        check_picture(plot, force=force)
    known = None
    if calibration is not None:
        known = open_calibration(calibration, workload=workload, allow_mismatch=allow_mismatch, quiet=quiet)
    with Steps(quiet=quiet) as steps:
        how = {"known": known, "quiet": quiet, "allow_pickle": allow_pickle}
        calibrated = None if known is None else known.calibration
        found = compare(_measured(data, steps, how), batch_size, calibration=calibrated, seed=seed)
    if plot is not None:
        from nodebudget.report.compare import draw_comparison

        write_whole(plot, lambda file: draw_comparison(found, file), force=force)
        note(f"written: {plot}", quiet=quiet)
    if as_json:
        print_json(found.to_dict())
    else:
        from nodebudget.report.compare import compare_text

        say(compare_text(found))


def _measured(data: tuple[str, ...], steps: Steps, how: dict[str, Any]) -> list[tuple[str, SizeTable]]:
    def measure(path: str) -> SizeTable:
        say = lambda done, total: steps.show(f"measuring {path}", done, total)  # noqa: E731
        return measure_known(path, progress=say, **how)

    return [(name, measure(path)) for name, path in zip(_names(data), data, strict=True)]


def _names(data: tuple[str, ...]) -> list[str]:
    """Name datasets by their files where that tells them apart, else by their whole paths."""
    short = [Path(path).stem or path for path in data]
    return short if len(set(short)) == len(short) else list(data)
