"""nodebudget suggest."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nodebudget.cli.common import Command, json_option, note, pickle_option, print_json, quiet_option, say
from nodebudget.cli.known import Known, measure_known, model_options, open_calibration
from nodebudget.errors import InputError

if TYPE_CHECKING:
    from nodebudget.report.suggest import Answer


@click.command("suggest", cls=Command)
@click.option("--reference", required=True, help="The dataset whose batch size is known, or its mean number of nodes.")
@click.option("--batch-size", required=True, type=int, help="Graphs a batch there.")
@click.option(
    "--target", "targets", required=True, multiple=True, help="Another dataset, or its mean nodes; may be repeated."
)
@click.option("--calibration", help="A calibration, to go by bytes.")
@model_options
@click.option("--memory", help="With a calibration: also the largest fixed batch size that is safe in it (40GiB).")
@click.option(
    "--probability", default=0.999, show_default=True, help="With which all batches of an epoch shall fit --memory."
)
@click.option("--format", "style", type=click.Choice(["md", "csv", "latex"]), help="A table for a paper's appendix.")
@pickle_option
@json_option
@quiet_option
def command(
    reference: str,
    batch_size: int,
    targets: tuple[str, ...],
    calibration: str | None,
    workload: str | None,
    allow_mismatch: bool,
    memory: str | None,
    probability: float,
    style: str | None,
    allow_pickle: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Suggest the batch size on one dataset that equals a known one on another.

    With --calibration and --memory also by risk: the largest fixed batch size whose worst batch of a shuffled epoch
    fits, beside what a budget gets out of the same memory.

    \b
    Example:
      nodebudget suggest --reference 35 --batch-size 64 --target 20
    """
    from nodebudget.report.suggest import answers_table, answers_text

    if as_json and style is not None:
        raise InputError("--json and --format together", hint="give one of them")
    if calibration is None and memory is not None:
        raise InputError("--memory without --calibration", hint="make one with 'nodebudget calibrate'")
    known = None
    if calibration is not None:
        known = open_calibration(calibration, workload=workload, allow_mismatch=allow_mismatch, quiet=quiet)
    answers = _answers(reference, batch_size, targets, known, (memory, probability), allow_pickle, quiet)
    if as_json:
        records = [answer.to_dict() for answer in answers]
        print_json({**records[0], "targets": records})
    else:
        say(answers_text(answers) if style is None else answers_table(answers, style))


def _answers(
    reference: str,
    batch_size: int,
    targets: tuple[str, ...],
    known: Known | None,
    risk: tuple[str | None, float],
    allow_pickle: bool,
    quiet: bool,
) -> list[Answer]:
    from nodebudget.analysis.equivalent_batch_size import advise_learning_rate, suggest_batch_size
    from nodebudget.datasets.size_table import SizeTable
    from nodebudget.report.suggest import Answer

    memory, probability = risk
    how: dict[str, Any] = {"known": known, "quiet": quiet, "allow_pickle": allow_pickle}
    calibration = None if known is None else known.calibration
    first = _data(reference, **how)
    answers = []
    for target in targets:
        sizes = _data(target, **how)
        found = suggest_batch_size(first, batch_size, sizes, calibration=calibration)
        safe = None
        if calibration is not None and memory is not None:
            if not isinstance(sizes, SizeTable):
                raise InputError(f"--memory with a mean of {target}", hint="name a dataset, whose sizes differ")
            from nodebudget.analysis.safe_batch_size import largest_safe_batch_size

            note(f"simulating epochs of {target}", quiet=quiet)
            safe = largest_safe_batch_size(sizes, calibration, memory, probability)
        rate = advise_learning_rate(batch_size, found.batch_size)
        answers.append(Answer(_name(target), found, rate, safe))
    return answers


def _name(text: str) -> str:
    return text if _number(text) is not None else Path(text).stem or text


def _data(text: str, **how: Any) -> Any:
    number = _number(text)
    return measure_known(text, **how) if number is None else number


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
