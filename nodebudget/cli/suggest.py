"""nodebudget suggest."""

from __future__ import annotations

from typing import Any

import click

from nodebudget.cli.common import Command, json_option, print_json, quiet_option


@click.command(cls=Command)
@click.option("--reference", required=True, help="The dataset whose batch size is known, or its mean number of nodes.")
@click.option("--batch-size", required=True, type=int, help="Graphs a batch there.")
@click.option("--target", required=True, help="The other dataset, or its mean number of nodes.")
@click.option("--calibration", help="A calibration, to go by bytes.")
@json_option
@quiet_option
def command(reference: str, batch_size: int, target: str, calibration: str | None, as_json: bool, quiet: bool) -> None:
    """Suggest the batch size on one dataset that equals a known one on another.

    \b
    Example:
      nodebudget suggest --reference 35 --batch-size 64 --target 20
    """
    from nodebudget.report.text import suggestion_text
    from nodebudget.suggest import suggest_batch_size

    known = None
    if calibration is not None:
        from nodebudget.costmodel import Calibration

        known = Calibration.load(calibration)
    answer = suggest_batch_size(_data(reference), batch_size, _data(target), calibration=known)
    if as_json:
        print_json(answer.to_dict())
    else:
        click.echo(suggestion_text(answer))


def _data(text: str) -> Any:
    try:
        return float(text)
    except ValueError:
        from nodebudget.measure import measure_path

        return measure_path(text)
