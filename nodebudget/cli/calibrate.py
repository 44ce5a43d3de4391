"""nodebudget calibrate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nodebudget.cli import options
from nodebudget.cli.inputs import load_model, open_samples
from nodebudget.cli.printer import Printer
from nodebudget.errors import InputError, first_line

if TYPE_CHECKING:
    from nodebudget.calibration.memory_model import Calibration
    from nodebudget.datasets.size_table import SizeTable


@click.command("calibrate")
@options.device()
@options.training
@click.option("--probes", default=24, show_default=True, help="Training steps to measure; a third are held out.")
@click.option("--max-graphs", default=32, show_default=True, help="Maximum graphs per measured step.")
@click.option(
    "--batch-size",
    default=64,
    show_default=True,
    type=click.IntRange(1),
    help="Also report the expected memory of batches of this size.",
)
@options.seed("Random seed of the choice of batches.")
@click.option("--workers", default=0, show_default=True, type=click.IntRange(0), help="Processes that measure sizes.")
@options.on_error
@options.outputs("Write the calibration here, as JSON.")
@click.option(
    "--static",
    is_flag=True,
    help="Measure the one step of a static plan of --batch-size graphs; with --memory search the largest that fits.",
)
@options.memory("--memory", "With --static: memory that the step may take, such as 2GiB.")
@options.memory("--predict-gpu", "With --device cpu: also predict the budget on a GPU with this memory, such as 40GiB.")
@click.option("--resume", is_flag=True, help="Continue an interrupted run with the same -o.")
@options.printer
def command(
    device: str,
    training: options.TrainingOptions,
    probes: int,
    max_graphs: int,
    batch_size: int,
    seed: int,
    workers: int,
    on_error: str,
    outputs: options.Outputs,
    static: bool,
    memory: int | None,
    predict_gpu: int | None,
    resume: bool,
    printer: Printer,
) -> None:
    """Measure the memory of a training step per node and per edge.

    Runs training steps on batches of different sizes and fits the bytes per graph, node, edge and line-graph edge. A
    third of the steps are held out to check the fit. With --device cpu no GPU is needed: the tensors of a step take as
    many bytes on the CPU as on a GPU.

    \b
    Example:
      nodebudget calibrate --device cpu --workload configs/alignn.toml --data crystals.json -o cal.json
    """
    from nodebudget.calibration.calibrate import CalibrationConfig, calibrate
    from nodebudget.calibration.compatibility import check_same_kernels
    from nodebudget.profiling.open import open_probe

    if static or memory is not None:
        _check_static(static, resume, predict_gpu)
        return _calibrate_static(device, training, batch_size, memory, outputs, printer)
    if resume and outputs.output is None:
        raise InputError("--resume without -o", hint="name the output of the interrupted run")
    if predict_gpu is not None and device != "cpu":
        raise InputError("--predict-gpu on a GPU", hint="it goes with --device cpu; on a GPU it is measured")
    config = CalibrationConfig(probes=probes, max_graphs=max_graphs, seed=seed)
    probe = open_probe(device)
    # Kept beside the output until that is written.
    checkpoint = None if outputs.output is None else f"{outputs.output}.probes.jsonl"
    interrupted = f"measured steps are in {checkpoint}; run the same command with --resume to continue"
    with printer.steps() as steps, printer.note_on_interrupt(checkpoint and interrupted):
        model = load_model(training, probe.device)
        reason = getattr(model, "gpu_only", "")
        if predict_gpu is not None and reason:
            raise InputError(f"--predict-gpu with this model: {reason}", hint="calibrate on the GPU: --gpu 0")
        if predict_gpu is not None:
            check_same_kernels(model)
        samples, sizes = open_samples(model, training, steps, workers=workers, on_error=on_error)
        calibration = calibrate(
            model,
            samples,
            sizes,
            probe,
            config=config,
            context={"workload": training.name},
            checkpoint=checkpoint,
            resume=resume,
            progress=steps.of("calibrating"),
        )
        if predict_gpu is not None:
            model = load_model(training, "cpu")  # the allocator is replayed from a model without any step
        if predict_gpu is not None or device != "cpu":
            calibration = _with_overheads(calibration, model, samples, sizes, device, printer)
    if outputs.output is not None and checkpoint is not None:
        calibration.save(outputs.output, force=outputs.force)
        Path(checkpoint).unlink(missing_ok=True)
        printer.note(f"written: {outputs.output}")
    _print(calibration, sizes, batch_size, predict_gpu, printer)


def _check_static(static: bool, resume: bool, predict_gpu: int | None) -> None:
    if not static:
        raise InputError("--memory without --static", hint="budgets are given to 'nodebudget plan'")
    if resume or predict_gpu is not None:
        raise InputError("--static with --resume or --predict-gpu", hint="a static step is measured at once")


def _calibrate_static(
    device: str,
    training: options.TrainingOptions,
    graphs: int,
    memory: int | None,
    outputs: options.Outputs,
    printer: Printer,
) -> None:
    from nodebudget.analysis.static_step import calibrate_static
    from nodebudget.profiling.open import open_probe
    from nodebudget.report.static_step import static_step_report

    probe = open_probe(device)
    with printer.steps() as steps:
        model = load_model(training, probe.device)
        samples, sizes = open_samples(model, training, steps)
        measured = calibrate_static(model, samples, sizes, probe, graphs=graphs, memory=memory)
    if outputs.output is not None:
        measured.save(outputs.output, force=outputs.force)
        printer.note(f"written: {outputs.output}")
    printer.result(measured.to_dict(), static_step_report(measured))


def _with_overheads(
    calibration: Calibration, model: Any, samples: Any, sizes: SizeTable, device: str, printer: Printer
) -> Calibration:
    """Add what the allocator reserves; without it budgets assume what full devices were seen to need."""
    from nodebudget.analysis.allocator_overhead import with_overheads

    try:
        return with_overheads(calibration, model, samples, sizes, device)
    except Exception as error:  # of any kind: the calibration is worth keeping without it
        printer.note(
            f"the memory that the allocator reserves was not measured: {type(error).__name__}: {first_line(error)}",
            always=True,
        )
        return calibration


def _print(calibration: Calibration, sizes: SizeTable, batch_size: int, capacity: int | None, printer: Printer) -> None:
    from nodebudget.analysis.device_budget import SETTINGS, device_budget
    from nodebudget.calibration.memory_model import KIND, SCHEMA_VERSION
    from nodebudget.report.calibration import calibration_report

    settings = SETTINGS if capacity is not None else ()
    budgets = [device_budget(capacity or 0, calibration, setting=setting) for setting in settings]
    record = {"kind": KIND, "schema_version": SCHEMA_VERSION, **calibration.to_dict()}
    if budgets:
        record["gpu_budget"] = {budget.setting: budget.to_dict() for budget in budgets}
    printer.result(record, calibration_report(calibration, sizes, batch_size, budgets=budgets))
