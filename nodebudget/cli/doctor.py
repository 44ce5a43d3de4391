"""nodebudget doctor."""

from __future__ import annotations

import click

from nodebudget.cli import options
from nodebudget.cli.printer import Printer


@click.command("doctor")
@options.printer
def command(printer: Printer) -> None:
    """Report what this machine has and lacks, and whether 'calibrate' can run.

    The exit code is 3 if it can't, on the GPU if there is one, else on the CPU.

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
