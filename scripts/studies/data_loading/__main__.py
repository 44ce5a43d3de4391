"""The command line of the study: python scripts/studies/data_loading --device cpu."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

if __name__ == "__main__":
    # Python puts the folder of the study itself first, and the package is in the folder above.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from data_loading import Options, run_study
from data_loading.report import study_text
from nodebudget.cli import options
from nodebudget.cli.command import Command
from nodebudget.cli.printer import Printer
from nodebudget.datasets.example_crystals import example_datasets
from nodebudget.datasets.readers.open_dataset import open_data
from nodebudget.errors import InputError


@click.command("data_loading", cls=Command)
@options.device(prefer_gpu=True)
@click.option("--data", type=click.Path(), help="Crystals to train on.  [default: pymatgen's AFLOW prototypes]")
@click.option("--batch-size", default=16, show_default=True, type=int, help="Crystals per batch.")
@click.option("--workers", default=2, show_default=True, type=int, help="Worker processes, in the runs that have some.")
@click.option("--limit", default=96, show_default=True, type=int, help="Maximum number of crystals.")
@options.printer
def main(
    device: str,
    data: str | None,
    batch_size: int,
    workers: int,
    limit: int,
    printer: Printer,
) -> None:
    """Measure what pin_memory, num_workers, a graph cache and a cache of text encodings do to memory.

    Runs pairs of short training runs that differ in one setting, each in its own process, and prints the difference in
    device memory and in host memory. Uses a GPU where there is one, else the CPU.

    \b
    Example:
      python scripts/studies/data_loading --device cpu
    """
    config = Options(device, batch_size, workers, limit)
    with printer.steps() as steps:
        study = run_study(_crystals(data), config, steps.show)
    printer.result(study.to_dict(), study_text(study))


def _crystals(path: str | None) -> Any:
    if path is None:
        return [crystal for crystals in example_datasets().values() for crystal in crystals]
    data = open_data(path)
    if data.kind != "crystals":
        raise InputError(
            f"{path!r} holds {data.kind}, but the study needs crystals",
            hint="give the crystals that they were made from",
        )
    return data


if __name__ == "__main__":
    main(prog_name="python scripts/studies/data_loading")
