"""nodebudget report."""

from __future__ import annotations

import click

from nodebudget.cli.common import Command, json_option, note, output_options, print_json, quiet_option, say

#: Where the page goes where nobody says so.
_DEFAULT = "report.html"

_HELP = """Write one page about any number of FILES that can be read without a network, on a phone too.

FILES are runs (what a MemoryMonitor wrote), calibrations, plans (.json, .npz), sizes (.npz, .csv, .parquet) and the
runs.json of a quickstart, in any order. A plan with the sizes that it was made of is shown against a fixed batch size.
The advice at the top of the page is printed too.

\b
Example:
  nodebudget report calibration.json sizes.npz plan.json run.jsonl -o report.html
"""


@click.command("report", cls=Command, help=_HELP, short_help="Write a page about runs, calibrations and plans.")
@click.argument("files", type=click.Path(), nargs=-1, required=True)
@click.option("--title", help="Of the page; default: what was trained, and on what.")
@click.option("--batch-size", type=int, help="Graphs of the fixed batches; default: as many as the plan's, else 64.")
@click.option("--capacity", help="Memory of the runs' device, such as 40GiB; default: what their logs say.")
@output_options(f"Where the page goes; default: {_DEFAULT}, or nowhere with --json.")
@json_option
@quiet_option
def command(
    files: tuple[str, ...],
    title: str | None,
    batch_size: int | None,
    capacity: str | None,
    output: str | None,
    force: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Write a page."""
    from nodebudget.errors import printable
    from nodebudget.report.html.page import make_page
    from nodebudget.report.report import URGENCIES
    from nodebudget.utils.byte_units import parse_bytes
    from nodebudget.utils.files import check_output, write_whole

    target = output or (None if as_json else _DEFAULT)
    if target is not None:
        check_output(target, force=force)
    device_memory = None if capacity is None else parse_bytes(capacity)
    page = make_page(files, title=title, batch_size=batch_size, capacity=device_memory)
    if target is not None:
        write_whole(target, lambda file: file.write(page.html.encode()), force=force)
        note(f"written: {target}", quiet=quiet)
    if as_json:
        print_json({**page.values, "written": target})
        return
    for entry in page.values["advice"]:
        say(printable(f"{URGENCIES[entry['level']]}: {entry['text']} [{entry['about']}]"))
