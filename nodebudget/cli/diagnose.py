"""nodebudget diagnose."""

from __future__ import annotations

import click

from nodebudget.cli.common import Command, json_option, print_json, say


@click.command("diagnose", cls=Command, short_help="Say which difference of two runs moves device memory.")
@click.argument("run_a", type=click.Path())
@click.argument("run_b", type=click.Path())
@click.option("--data-a", type=click.Path(), help="What run A trained on, to compare the samples too.")
@click.option("--data-b", type=click.Path(), help="What run B trained on.  [default: as run A]")
@click.option("--calibration", type=click.Path(), help="Of a training step of run A: with data, it predicts bytes.")
@json_option
def command(
    run_a: str, run_b: str, data_a: str | None, data_b: str | None, calibration: str | None, as_json: bool
) -> None:
    """Say which differences of two runs move device memory, by how much, and why.

    Each RUN is an output folder with a config in it, or a config: alignn's config.json, or any JSON, TOML or YAML.
    Bytes are what one change adds to a step of run A, all else as in A.

    \b
    Example:
      nodebudget diagnose runs/hse runs/dft_3d --data-a hse.json --data-b dft_3d.json --calibration cal.json
    """
    from nodebudget.diagnose import diagnose, read_run
    from nodebudget.measure import open_data

    known = None
    runs = [read_run(path) for path in (run_a, run_b)]
    data = [None if path is None else open_data(path) for path in (data_a, data_b)]
    if calibration is not None:
        from nodebudget.costmodel import Calibration

        known = Calibration.load(calibration)
    found = diagnose(*runs, data_a=data[0], data_b=data[1], calibration=known)
    if as_json:
        print_json(found.to_dict())
    else:
        from nodebudget.report.diagnose import diagnosis_text

        say(diagnosis_text(found))
