"""nodebudget compare."""

from __future__ import annotations

from pathlib import Path

import click

from nodebudget.cli import options
from nodebudget.cli.inputs import measure_sizes, open_calibration
from nodebudget.cli.printer import Printer
from nodebudget.utils.checks import check_count


@click.command("compare")
@click.argument("data", type=click.Path(), nargs=-1, required=True)
@click.option("--batch-size", required=True, type=int, help="Graphs per batch.")
@options.calibration("Calibration: also compare and explain predicted bytes.")
@options.allow_pickle
@options.outputs(plot="Draw the distributions into this PNG.")
@options.seed("Random seed of the simulated epochs.")
@options.printer
def command(
    data: tuple[str, ...],
    batch_size: int,
    calibration: options.CalibrationOptions,
    allow_pickle: bool,
    outputs: options.Outputs,
    seed: int,
    printer: Printer,
) -> None:
    """Explain why one dataset takes more memory than another.

    Compares the sizes of graphs and of batches at the same batch size, and attributes the difference to its causes.
    Each DATA is anything that 'nodebudget measure' reads or writes. The others are compared with the first.

    \b
    Example:
      nodebudget compare a.json b.json --batch-size 64 --plot sizes.png
    """
    from nodebudget.analysis.dataset_comparison import compare
    from nodebudget.report.comparison import comparison_report

    check_count("batch_size", batch_size, 1)
    opened = open_calibration(calibration)
    with printer.steps() as steps:
        sizes = [
            measure_sizes(path, opened, printer, allow_pickle=allow_pickle, progress=steps.of(f"measuring {path}"))
            for path in data
        ]
    names = [Path(path).stem or path for path in data]
    if len(set(names)) < len(names):  # files of the same name, in different folders
        names = list(data)
    named = list(zip(names, sizes, strict=True))
    comparison = compare(named, batch_size, calibration=opened.calibration, seed=seed)
    report = comparison_report(comparison, opened.calibration, calibration.calibration or "")
    outputs.draw(report, printer)
    printer.result(comparison.to_dict(), report)
