"""nodebudget doctor."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from nodebudget.cli.common import Command, json_option, print_json, quiet_option, say

if TYPE_CHECKING:
    from nodebudget.analysis.environment import Examination


@click.command("doctor", cls=Command)
@json_option
@quiet_option
def command(as_json: bool, quiet: bool) -> None:
    """Say what this machine has and lacks, and whether 'calibrate' would run.

    The exit code is 3 when it would not, on the GPU if there is one, else on the CPU.

    \b
    Example:
      nodebudget doctor
    """
    from nodebudget.analysis.environment import examine

    found = examine()
    if as_json:
        print_json(found.to_dict())
    elif not quiet:
        _show(found)
    found.require_calibrate()


def _show(found: Examination) -> None:
    from rich.table import Table

    from nodebudget.report.console import PlainConsole

    table = Table()
    for name in ("what", "state", "found", "for"):
        table.add_column(name)
    for check in found.checks:
        table.add_row(check.name, check.state, check.found, check.purpose)
    PlainConsole().print(table)
    steps = [check for check in found.checks if check.next_step]
    if steps:
        say("Next steps, where you need it:")
    for check in steps:
        say(f"  {check.name}: {check.next_step}")
    if not found.blocking:
        say(f"'nodebudget calibrate' can run on {found.device}.")
