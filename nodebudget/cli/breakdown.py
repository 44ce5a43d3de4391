"""nodebudget breakdown."""

from __future__ import annotations

import click

from nodebudget.cli import options
from nodebudget.cli.inputs import load_model, open_samples
from nodebudget.cli.printer import Printer
from nodebudget.utils.checks import check_count


@click.command("breakdown")
@options.device()
@options.training
@click.option("--batch-size", default=16, show_default=True, type=int, help="Graphs per batch.")
@options.seed("Random seed of the shuffled epoch.")
@options.outputs(plot="Draw the phases of the step into this PNG.")
@options.printer
def command(
    device: str,
    training: options.TrainingOptions,
    batch_size: int,
    seed: int,
    outputs: options.Outputs,
    printer: Printer,
) -> None:
    """Break down the memory of a training step by phase.

    Measures real steps on three batches: a typical and the largest batch of a shuffled epoch with a fixed batch size,
    and a batch that is balanced by size.

    \b
    Example:
      nodebudget breakdown --device cpu --data crystals.json --batch-size 16 --plot step.png
    """
    from nodebudget.analysis.breakdown import break_down, check_counts, choose_batches
    from nodebudget.profiling.open import open_probe
    from nodebudget.report.breakdown import breakdown_report

    check_count("batch_size", batch_size, 1)
    probe = open_probe(device)
    with printer.steps() as steps:
        model = load_model(training, probe.device)
        samples, sizes = open_samples(model, training, steps)
        chosen = choose_batches(sizes, batch_size, seed=seed)
        batches = break_down(model, samples, sizes, probe, chosen, progress=steps.of("measuring steps"))
    checks = check_counts(model)
    where = probe.describe()
    caption = f"{training.name}, on {where['device']} ({where['name']})"
    report = breakdown_report(batches, checks)
    outputs.draw(report, printer, caption)
    record = {
        "device": where,
        "batches": [batch.to_dict() for batch in batches],
        "checks": [check.to_dict() for check in checks],
    }
    printer.result(record, report)
