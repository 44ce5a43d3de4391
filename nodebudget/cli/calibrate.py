"""nodebudget calibrate."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import click

from nodebudget.cli.common import (
    Command,
    json_option,
    note,
    output_options,
    pickle_option,
    print_json,
    quiet_option,
    say,
    warnings_as_notes,
)
from nodebudget.cli.devices import device_options, resolve_device
from nodebudget.cli.progress import Steps
from nodebudget.utils.byte_units import parse_bytes


@click.command("calibrate", cls=Command)
@device_options
@click.option(
    "--workload",
    default="alignn",
    show_default=True,
    help="alignn, alignn-pure, module:attribute, or a file such as configs/alignn.toml.",
)
@click.option("--data", required=True, help="JARVIS-style JSON, folder with id_prop.csv, or DGL graph cache.")
@click.option("--probes", default=24, show_default=True, help="Training steps to measure; a third is held out.")
@click.option("--max-graphs", "largest", default=32, show_default=True, help="Most graphs in a probe.")
@click.option("--batch-size", default=64, show_default=True, type=click.IntRange(1), help="To report the memory of.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Seed of the choice of probes.")
@click.option("--workers", default=0, show_default=True, type=click.IntRange(0), help="Processes that measure sizes.")
@click.option(
    "--on-error",
    type=click.Choice(["raise", "skip"]),
    default="raise",
    show_default=True,
    help="What happens to a crystal that can't be read.",
)
@output_options("Where the calibration goes, as JSON.")
@click.option(
    "--predict-gpu",
    help="With --device cpu: also work out what a step may take on a GPU of so much memory, such as 40GiB.",
)
@click.option("--resume", is_flag=True, help="Go on with the probes that an interrupted run left beside -o.")
@pickle_option
@json_option
@quiet_option
def command(
    gpu: int | None,
    device: str | None,
    workload: str,
    data: str,
    probes: int,
    largest: int,
    batch_size: int,
    seed: int,
    workers: int,
    on_error: str,
    output: str | None,
    force: bool,
    predict_gpu: str | None,
    resume: bool,
    allow_pickle: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Measure what a training step takes on a device, per graph, node, edge and line-graph edge.

    \b
    Example:
      nodebudget calibrate --device cpu --workload configs/alignn.toml --data crystals.json -o cal.json
    """
    from nodebudget.calibration.calibrate import CalibrationConfig
    from nodebudget.errors import InputError
    from nodebudget.profiling.open import open_probe
    from nodebudget.utils.files import check_output

    if output is not None:
        check_output(output, force=force)
    elif resume:
        raise InputError("--resume without -o", hint="name the file that the interrupted run was to write")
    place = resolve_device(gpu, device)
    capacity = None if predict_gpu is None else parse_bytes(predict_gpu)
    if capacity is not None and place != "cpu":
        raise InputError("--predict-gpu on a GPU", hint="it goes with --device cpu; here the GPU is measured")
    effort = CalibrationConfig(probes=probes, largest=largest, seed=seed)
    probe = open_probe(place)
    # What was measured stays beside the output until that is written.
    journal = None if output is None else f"{output}.probes.jsonl"
    keep = {"journal": journal, "resume": resume}
    # What the user's own code prints must not mix with our output.
    with warnings_as_notes(quiet=quiet), Steps(quiet=quiet) as steps, redirect_stdout(sys.stderr):
        how = {"workers": workers, "on_error": on_error, "allow_pickle": allow_pickle}
        with _interrupts_named(journal, quiet):
            calibration, sizes = _run(workload, data, probe, effort, how, keep, steps, capacity is not None)
    if output is not None and journal is not None:
        calibration.save(output, force=force)
        Path(journal).unlink(missing_ok=True)
        note(f"written: {output}", quiet=quiet)
    _show(calibration, sizes, batch_size, capacity, as_json)


def _show(calibration: Any, sizes: Any, batch_size: int, capacity: int | None, as_json: bool) -> None:
    from nodebudget.analysis.device_budget import SETTINGS, device_budget
    from nodebudget.report.text import budget_text, calibration_text

    budgets = [] if capacity is None else [device_budget(capacity, calibration, setting=name) for name in SETTINGS]
    if as_json:
        more = {"gpu_budget": {budget.setting: budget.to_dict() for budget in budgets}} if budgets else {}
        print_json({**_as_record(calibration), **more})
        return
    say(calibration_text(calibration, sizes, batch_size))
    for budget in budgets:
        say(f"\n{budget_text(budget)}")


def _run(
    workload: str,
    data: str,
    probe: Any,
    effort: Any,
    how: dict[str, Any],
    keep: dict[str, Any],
    steps: Steps,
    replay: bool,
) -> tuple[Any, Any]:
    from torch.utils.data import Subset

    from nodebudget.analysis.device_budget import with_overheads
    from nodebudget.calibration.calibrate import calibrate
    from nodebudget.cli.measuring import measure_for
    from nodebudget.datasets.readers.open_dataset import open_data
    from nodebudget.errors import InputError
    from nodebudget.workloads.registry import load_workload

    opened = open_data(data, allow_pickle=how["allow_pickle"])
    if opened.kind == "sizes":
        raise InputError(
            f"{data!r} holds sizes, not crystals",
            hint="give the crystals or graphs that they were measured from",
        )
    made = load_workload(workload, probe.device)
    sizes = measure_for(
        made,
        data,
        opened,
        **how,
        progress=lambda done, total: steps.show("measuring sizes", done, total),
    )
    kept = sizes.settings.get("indices")
    dataset: Any = opened if kept is None else Subset(opened, kept)  # type: ignore[arg-type]
    calibration = calibrate(
        made,
        dataset,
        sizes,
        probe,
        effort=effort,
        context={"workload": workload},
        **keep,
        progress=lambda done, total: steps.show("calibrating", done, total),
    )
    if replay or probe.device != "cpu":
        # The replay starts from a model that has done no step yet.
        fresh = load_workload(workload, "cpu") if replay else made
        try:
            calibration = with_overheads(calibration, fresh, dataset, sizes, probe.device)
        except Exception as error:
            # The calibration is worth keeping without it: budgets then take what full devices were seen to need.
            note(f"what the allocator reserves was not measured: {type(error).__name__}: {str(error)[:200]}")
    return calibration, sizes


@contextmanager
def _interrupts_named(journal: str | None, quiet: bool) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        if journal is not None:
            note(f"what was measured is in {journal}; the same command with --resume goes on from it", quiet=quiet)
        raise


def _as_record(calibration: Any) -> dict[str, Any]:
    from nodebudget.calibration.memory_model import KIND, SCHEMA_VERSION

    return {"kind": KIND, "schema_version": SCHEMA_VERSION, **calibration.to_dict()}
