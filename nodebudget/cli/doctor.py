"""nodebudget doctor."""

from __future__ import annotations

import click

from nodebudget.cli import options
from nodebudget.cli.printer import Printer


@click.command("doctor")
@options.printer
def command(printer: Printer) -> None:
    """Check what is installed, and whether 'calibrate' can run.

    If it can't run, on the GPU if there is one and else on the CPU, the exit code is 3.

    \b
    Example:
      nodebudget doctor
    """
    from nodebudget.analysis.environment import examine
    from nodebudget.report.environment import examination_report

    examination = examine()
    if printer.as_json or not printer.quiet:
        printer.result(examination.to_dict(), examination_report(examination))
    examination.require_calibrate()
