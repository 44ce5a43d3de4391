"""nodebudget diagnose."""

from __future__ import annotations

import click

from nodebudget.cli import options
from nodebudget.cli.printer import Printer


@click.command("diagnose", short_help="Rank the differences of two runs by their effect on memory.")
@click.argument("run_a", type=click.Path())
@click.argument("run_b", type=click.Path())
@click.option("--data-a", type=click.Path(), help="Dataset of run A, to compare the samples too.")
@click.option("--data-b", type=click.Path(), help="Dataset of run B.  [default: as run A]")
@click.option("--calibration", type=click.Path(), help="Calibration of run A: with data, it predicts bytes.")
@click.option("--data", type=click.Path(), help="Crystals: measure a step with each setting of two alignn configs.")
@options.device(prefer_gpu=True)
@options.printer
def command(
    run_a: str,
    run_b: str,
    data_a: str | None,
    data_b: str | None,
    calibration: str | None,
    data: str | None,
    device: str,
    printer: Printer,
) -> None:
    """Rank the differences of two runs by their effect on device memory, with bytes and reasons.

    Each RUN is an output folder with a config, or a config file: alignn's config.json, or any JSON, TOML or YAML.
    Bytes are the change of a training step of run A if that one setting is changed. With --data they are measured: each
    setting is switched by itself, and alignn's own training loop takes a step of the same crystals.

    \b
    Example:
      nodebudget diagnose runs/hse runs/dft_3d --data-a hse.json --data-b dft_3d.json --calibration cal.json
    """
    from nodebudget.analysis.run_diff.diff import diagnose
    from nodebudget.analysis.run_diff.runs import read_run_config
    from nodebudget.calibration.memory_model import Calibration
    from nodebudget.datasets.readers.open_dataset import open_data
    from nodebudget.report.diagnosis import diagnosis_report

    first, second = read_run_config(run_a), read_run_config(run_b)
    with printer.steps() as steps:
        diagnosis = diagnose(
            first,
            second,
            data_a=None if data_a is None else open_data(data_a),
            data_b=None if data_b is None else open_data(data_b),
            calibration=None if calibration is None else Calibration.load(calibration),
            crystals=None if data is None else open_data(data),
            device=device,
            progress=steps.of("measuring settings"),
        )
    printer.result(diagnosis.to_dict(), diagnosis_report(diagnosis))
