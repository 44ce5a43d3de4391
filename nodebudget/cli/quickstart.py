"""nodebudget quickstart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from nodebudget.cli.common import Command, json_option, note, print_json, quiet_option, say, warnings_as_notes
from nodebudget.cli.devices import device_options, resolve_device
from nodebudget.cli.progress import Steps
from nodebudget.utils.byte_units import format_bytes, parse_bytes


@click.command("quickstart", cls=Command)
@device_options
@click.option("-o", "--output", "folder", default="nodebudget-quickstart", show_default=True, help="Folder of results.")
@click.option("--batch-size", default=16, show_default=True, type=click.IntRange(1), help="Of the fixed runs.")
@click.option("--memory", help="The budget, such as 2GiB. Default: what a mean batch of large cells needs.")
@click.option("--probes", default=24, show_default=True, help="Training steps to calibrate with.")
@click.option("--hidden-features", default=128, show_default=True, type=click.IntRange(1), help="Width of ALIGNN.")
@click.option("--limit", type=click.IntRange(10), help="Most crystals of each dataset, for a shorter run.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0))
@json_option
@quiet_option
def command(
    gpu: int | None,
    device: str | None,
    folder: str,
    batch_size: int,
    memory: str | None,
    probes: int,
    hidden_features: int,
    limit: int | None,
    seed: int,
    as_json: bool,
    quiet: bool,
) -> None:
    """Run the whole way on crystals that come with pymatgen.

    Measures a small-cell and a large-cell dataset, calibrates real ALIGNN, trains an epoch of each with a fixed
    batch size and with a memory budget, and compares the measured peaks. Takes a few minutes on two CPU cores.

    \b
    Example:
      nodebudget quickstart -o nodebudget-quickstart
    """
    from nodebudget.analysis.quickstart import Options, run_quickstart

    options = Options(
        folder=Path(folder),
        device=resolve_device(gpu, device, prefer_gpu=True),
        batch_size=batch_size,
        memory=None if memory is None else parse_bytes(memory),
        probes=probes,
        hidden_features=hidden_features,
        limit=limit,
        seed=seed,
    )
    with warnings_as_notes(quiet=quiet), Steps(quiet=quiet) as steps:
        result = run_quickstart(options, steps.show)
    if as_json:
        calibration = result.pop("calibration").to_dict()
        result["sizes"] = {name: table.statistics() for name, table in result["sizes"].items()}
        print_json({**result, "calibration": calibration})
    else:
        _print(result, quiet=quiet)


def _print(result: dict[str, Any], *, quiet: bool) -> None:
    from nodebudget.report.text import calibration_text, runs_table

    sizes = result["sizes"]["large cells"]
    say(calibration_text(result["calibration"], sizes, result["batch_size"], "the large cells"))
    say(f"\nThe budget of both datasets: {format_bytes(result['memory'])}")
    say(runs_table(result["runs"]))
    lost = sum(run["graphs_left_out"] for run in result["runs"] if run["batching"] == "fixed")
    if lost:
        say(f"The fixed runs left out {lost} crystals in incomplete last batches; the budget runs none.")
    note("\nWritten:", quiet=quiet)
    for name, path in result["files"].items():
        note(f"  {name}: {path}", quiet=quiet)
