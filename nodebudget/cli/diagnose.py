"""nodebudget diagnose."""

from __future__ import annotations

import click

from nodebudget.cli import options
from nodebudget.cli.printer import Printer


@click.command("diagnose", short_help="Measure which differences of two runs affect device memory.")
@click.argument("run_a", type=click.Path())
@click.argument("run_b", type=click.Path())
@click.option("--data-a", type=click.Path(), help="Dataset of run A, to compare the samples too.")
@click.option("--data-b", type=click.Path(), help="Dataset of run B.  [default: as run A]")
@click.option("--calibration", type=click.Path(), help="Calibration of run A: with data, it predicts bytes.")
@click.option("--data", type=click.Path(), help="Crystals: measure training steps of two alignn configs on them.")
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
    """List the differences of two runs, and measure how much device memory each makes.

    Each RUN is an output folder with a config, or a config file: alignn's config.json, or any JSON, TOML or YAML.
    With --data the differing settings of two alignn configs are switched by themselves and together, and alignn's own
    training loop takes steps on the same crystals; the bytes of all settings add up to the difference of the two runs.
    Without it, the settings that can change device memory are named, and the reason why others do not.

    \b
    Example:
      nodebudget diagnose a/config.json b/config.json --data crystals.json
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
