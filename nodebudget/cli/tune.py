"""nodebudget tune."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import click

from nodebudget.cli import options
from nodebudget.cli.inputs import load_model, open_samples
from nodebudget.cli.printer import Printer


@click.command("tune")
@options.device()
@options.training
@click.option("--calibration", required=True, help="Written by 'nodebudget calibrate' for this workload and device.")
@options.memory("--memory", "The largest budget, such as 40GiB.  [default: 80% of the free memory]")
@click.option("--budgets", default=8, show_default=True, help="Number of budgets to try.")
@click.option("--batches", default=3, show_default=True, help="Batches to time per budget.")
@click.option("--repeats", default=3, show_default=True, help="Timed steps per batch.")
@click.option(
    "--max-step-seconds", default=60.0, show_default=True, help="Try no larger budget once a step takes longer."
)
@options.seed("Random seed of the batches.")
@options.allow_mismatch
@options.outputs("Write the curve and the recommendation here, as JSON.", plot="Draw the curve into this PNG.")
@options.printer
def command(
    device: str,
    training: options.TrainingOptions,
    calibration: str,
    memory: int | None,
    allow_mismatch: bool,
    outputs: options.Outputs,
    printer: Printer,
    **config: Any,
) -> None:
    """Time training steps at several budgets and recommend one.

    \b
    Example:
      nodebudget tune --device cpu --data crystals.json --calibration cal.json --memory 4GiB --plot tune.png
    """
    from nodebudget.analysis.tune import TuneConfig, tune
    from nodebudget.calibration.compatibility import check_applicable
    from nodebudget.calibration.memory_model import Calibration
    from nodebudget.profiling.open import open_probe
    from nodebudget.report.throughput import throughput_report
    from nodebudget.utils.records import provenance, write_record

    memory_model = Calibration.load(calibration)
    probe = open_probe(device)
    with printer.steps() as steps:
        model = load_model(training, probe.device)
        check_applicable(memory_model, workload=model, probe=probe, allow_mismatch=allow_mismatch)
        if allow_mismatch:
            memory_model = memory_model.accept_error()
        samples, sizes = open_samples(model, training, steps)
        advice = tune(
            model,
            samples,
            sizes,
            probe,
            memory_model,
            memory=memory,
            config=TuneConfig(**config),
            progress=steps.of("timing budgets"),
        )
    where = probe.describe()
    context = {"workload": training.name, "data": training.data, "device": where, **provenance()}
    advice = replace(advice, context=context)
    if outputs.output is not None:
        write_record(outputs.output, "nodebudget.tune", 1, advice.to_dict(), force=outputs.force)
        printer.note(f"written: {outputs.output}")
    caption = f"{training.name}, timed on {where['device']} ({where['name']})"
    report = throughput_report(advice)
    outputs.draw(report, printer, caption)
    printer.result(advice.to_dict(), report)
