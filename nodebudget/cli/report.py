"""nodebudget report."""

from __future__ import annotations

import click

from nodebudget.cli import options
from nodebudget.cli.printer import Printer
from nodebudget.errors import printable

_DEFAULT = "report.html"


@click.command("report", short_help="Write a page about runs, calibrations and plans.")
@click.argument("files", type=click.Path(), nargs=-1, required=True)
@click.option("--title", help="Title of the page.  [default: the trained model and the device]")
@click.option("--batch-size", type=int, help="Fixed batch size to compare with.  [default: the plan's mean, else 64]")
@options.memory("--capacity", "Memory of the runs' device, such as 40GiB.  [default: as logged]")
@options.outputs(f"Write the page here.  [default: {_DEFAULT}; none with --json]")
@options.printer
def command(
    files: tuple[str, ...],
    title: str | None,
    batch_size: int | None,
    capacity: int | None,
    outputs: options.Outputs,
    printer: Printer,
) -> None:
    """Write one HTML page about FILES. It can be read offline and on a phone.

    FILES are runs (logs of a MemoryMonitor), calibrations, plans (.json, .npz), sizes (.npz, .csv, .parquet) and the
    runs.json of a quickstart, in any order. With the sizes that a plan was made of, the plan is compared with batches
    of a fixed size. The advice at the top of the page is printed too.

    \b
    Example:
      nodebudget report calibration.json sizes.npz plan.json run.jsonl -o report.html
    """
    from nodebudget.report.html.page import make_page
    from nodebudget.report.report import URGENCIES
    from nodebudget.utils.files import check_output, write_whole

    output = outputs.output or (None if printer.as_json else _DEFAULT)
    if output is not None:
        check_output(output, force=outputs.force)
    page = make_page(files, title=title, batch_size=batch_size, capacity=capacity)
    if output is not None:
        write_whole(output, lambda file: file.write(page.html.encode()), force=outputs.force)
        printer.note(f"written: {output}")
    advice = [f"{URGENCIES[entry['level']]}: {entry['text']} [{entry['about']}]" for entry in page.values["advice"]]
    printer.result({**page.values, "written": output}, "\n".join(map(printable, advice)))
