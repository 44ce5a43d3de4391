"""nodebudget quickstart."""

from __future__ import annotations

import json
from functools import partial
from operator import methodcaller
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nodebudget.cli import options
from nodebudget.cli.printer import Printer
from nodebudget.utils.optional_imports import load_dgl, require

if TYPE_CHECKING:
    from nodebudget.analysis.quickstart import Quickstart
    from nodebudget.report.report import Report


@click.command("quickstart")
@options.device(prefer_gpu=True)
@click.option("-o", "--output", "folder", default="nodebudget-quickstart", show_default=True, help="Folder of results.")
@click.option("--batch-size", default=16, show_default=True, type=click.IntRange(1), help="Fixed batch size.")
@options.memory("--memory", "The budget, such as 2GiB.  [default: predicted memory of a mean batch of large cells]")
@click.option("--probes", default=24, show_default=True, help="Training steps to calibrate with.")
@click.option("--hidden-features", default=128, show_default=True, type=click.IntRange(1), help="Width of ALIGNN.")
@click.option("--limit", type=click.IntRange(10), help="Maximum number of crystals of each dataset.")
@options.seed("Random seed.")
@options.printer
def command(
    device: str,
    folder: str,
    printer: Printer,
    **config: Any,
) -> None:
    """Run all steps once, on example crystals.

    Takes a dataset of small cells and one of large cells from pymatgen, calibrates ALIGNN, trains one epoch of each
    with a fixed batch size and with a memory budget, and compares the measured peaks. Takes a few minutes on a CPU.

    \b
    Example:
      nodebudget quickstart -o nodebudget-quickstart
    """
    from nodebudget.analysis.quickstart import QuickstartConfig, run_quickstart
    from nodebudget.report.calibration import calibration_report
    from nodebudget.report.quickstart import quickstart_report

    settings = QuickstartConfig(device=device, **config)
    # Fail before the minutes of work.
    if settings.workload != "alignn-pure" and device == "cpu":
        load_dgl()
    require("matplotlib")
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    with printer.steps() as steps:
        result = run_quickstart(settings, steps.show)
    report = quickstart_report(result.to_dict())
    files = _write(path, result, report)
    record = {
        **result.to_dict(),
        "sizes": {name: table.statistics() for name, table in result.sizes.items()},
        "files": files,
        "calibration": result.calibration.to_dict(),
    }
    calibration = calibration_report(
        result.calibration, result.sizes["large cells"], result.batch_size, "the large cells"
    )
    printer.result(record, calibration, report)
    for name, file in files.items():
        printer.note(f"written: {file} ({name})")


def _write(folder: Path, result: Quickstart, report: Report) -> dict[str, str]:
    from nodebudget.report.plots import save_picture
    from nodebudget.report.quickstart import KIND, SCHEMA_VERSION
    from nodebudget.utils.files import write_whole
    from nodebudget.utils.records import write_record

    files = {}
    for name, crystals in result.datasets.items():
        stem, content = name.replace(" ", "_"), json.dumps(crystals).encode()
        files[name] = write_whole(folder / f"{stem}.json", methodcaller("write", content), force=True)
        files[f"{name}, sizes"] = result.sizes[name].save(folder / f"{stem}_sizes.npz", force=True)
    files["calibration"] = result.calibration.save(folder / "calibration.json", force=True)
    table = folder / "runs.json"
    files["table"] = write_record(table, KIND, SCHEMA_VERSION, result.to_dict(), force=True)
    device = f"{result.device['device']} ({result.device['name']})"
    caption = f"every training step of one epoch of ALIGNN, measured on {device}"
    draw = partial(save_picture, report.draw(), caption=caption)
    files["picture"] = write_whole(folder / "peaks.png", draw, force=True)
    return {name: str(path) for name, path in files.items()}
