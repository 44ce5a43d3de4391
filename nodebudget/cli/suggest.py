"""nodebudget suggest."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nodebudget.cli import options
from nodebudget.cli.inputs import OpenedCalibration, measure_sizes, open_calibration
from nodebudget.cli.printer import Printer
from nodebudget.errors import InputError

if TYPE_CHECKING:
    from nodebudget.analysis.safe_batch_size import Risk


@click.command("suggest")
@click.option("--reference", required=True, help="Dataset whose batch size you know, or its mean number of nodes.")
@click.option("--batch-size", required=True, type=int, help="Graphs per batch on the reference.")
@click.option(
    "--target",
    "targets",
    required=True,
    multiple=True,
    help="Another dataset, or its mean number of nodes. May be repeated.",
)
@options.calibration("Calibration: compare predicted bytes instead of counts.")
@options.memory("--memory", "Peak memory, such as 40GiB: also find the largest batch size that fits.")
@click.option(
    "--probability",
    default=0.999,
    show_default=True,
    help="Probability that all batches of an epoch fit --memory.",
)
@click.option("--format", "style", type=click.Choice(["md", "csv", "latex"]), help="Print a table for a paper.")
@options.allow_pickle
@options.printer
def command(
    reference: str,
    batch_size: int,
    targets: tuple[str, ...],
    calibration: options.CalibrationOptions,
    memory: int | None,
    probability: float,
    style: str | None,
    allow_pickle: bool,
    printer: Printer,
) -> None:
    """Convert a batch size from one dataset to another.

    A mean batch of the target then has as many nodes, edges or line-graph edges, or takes as many bytes, as a mean
    batch of the reference.

    With --calibration and --memory it also finds the largest fixed batch size whose largest batch of a shuffled epoch
    fits in the memory, and compares it with batches packed to the same memory.

    \b
    Example:
      nodebudget suggest --reference 35 --batch-size 64 --target 20
    """
    from nodebudget.analysis.equivalent_batch_size import advise_learning_rate, suggest_batch_size
    from nodebudget.report.suggestion import Answer, answers_table, suggestion_report
    from nodebudget.report.text.render import FORMATS

    if printer.as_json and style is not None:
        raise InputError("--json and --format together", hint="give one of them")
    if calibration.calibration is None and memory is not None:
        raise InputError("--memory without --calibration", hint="make one with 'nodebudget calibrate'")
    opened = open_calibration(calibration)
    data: dict[str, Any] = {text: _mean(text) for text in (reference, *targets)}
    for text in (text for text, mean in data.items() if mean is None):
        data[text] = measure_sizes(text, opened, printer, allow_pickle=allow_pickle)
    answers = []
    for target in targets:
        suggestion = suggest_batch_size(data[reference], batch_size, data[target], calibration=opened.calibration)
        learning_rate = advise_learning_rate(batch_size, suggestion.batch_size)
        risk = None if memory is None else _risk(target, data[target], opened, memory, probability, printer)
        name = target if _mean(target) is not None else Path(target).stem or target
        answers.append(Answer(name, suggestion, learning_rate, risk))
    records = [answer.to_dict() for answer in answers]
    shown = suggestion_report(answers) if style is None else FORMATS[style](answers_table(answers))
    printer.result({**records[0], "targets": records}, shown)


def _risk(
    target: str, sizes: Any, opened: OpenedCalibration, memory: int, probability: float, printer: Printer
) -> Risk:
    from nodebudget.analysis.safe_batch_size import largest_safe_batch_size

    if isinstance(sizes, float):
        raise InputError(f"--memory with a mean of {target}", hint="name a dataset, whose graphs differ in size")
    assert opened.calibration is not None
    printer.note(f"simulating epochs of {target}")
    return largest_safe_batch_size(sizes, opened.calibration, memory, probability)


def _mean(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
