"""nodebudget doctor."""

from __future__ import annotations

from typing import Any

import click

from nodebudget.cli import options
from nodebudget.cli.inputs import OpenedCalibration, measure_sizes
from nodebudget.cli.printer import Printer


@click.command("doctor")
@click.argument("data", type=click.Path(), required=False)
@options.allow_pickle
@options.printer
def command(data: str | None, allow_pickle: bool, printer: Printer) -> None:
    """Check what is installed, and whether 'calibrate' can run.

    If it can't run, on the GPU if there is one and else on the CPU, the exit code is 3. With DATA, anything that
    'nodebudget measure' reads or writes, also what its graphs take on disk and in host memory.

    \b
    Example:
      nodebudget doctor
    """
    from nodebudget.analysis.environment import examine
    from nodebudget.report.environment import examination_report

    examination = examine()
    record: dict[str, Any] = examination.to_dict()
    reports = [examination_report(examination)]
    if data is not None:
        from nodebudget.analysis.dataset_storage import storage_record
        from nodebudget.report.sizes import storage_report

        sizes = measure_sizes(data, OpenedCalibration(), printer, allow_pickle=allow_pickle)
        record["storage"] = storage_record(sizes)
        reports.append(storage_report(sizes, examination.host_free_bytes))
    if printer.as_json or not printer.quiet:
        printer.result(record, *reports)
    examination.require_calibrate()
