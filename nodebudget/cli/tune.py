"""nodebudget tune."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import click

from nodebudget.cli.common import (
    Command,
    check_picture,
    json_option,
    note,
    output_options,
    pickle_option,
    print_json,
    quiet_option,
    say,
)
from nodebudget.cli.devices import device_options, resolve_device
from nodebudget.cli.known import check, mismatch_option
from nodebudget.cli.progress import Steps


@click.command("tune", cls=Command)
@device_options
@click.option(
    "--workload",
    default="alignn",
    show_default=True,
    help="alignn, alignn-pure, module:attribute, or a file such as configs/alignn.toml.",
)
@click.option("--data", required=True, help="JARVIS-style JSON, folder with id_prop.csv, or DGL graph cache.")
@click.option("--calibration", required=True, help="What 'nodebudget calibrate' wrote for this workload and device.")
@click.option("--memory", help="The largest budget, such as 40GiB; without it 80% of what is free.")
@click.option("--budgets", default=8, show_default=True, help="Budgets to try.")
@click.option("--batches", default=3, show_default=True, help="Batches to time at each.")
@click.option("--repeats", default=3, show_default=True, help="How often each batch is trained on.")
@click.option(
    "--longest", default=60.0, show_default=True, help="Seconds of a step after which no larger budget is tried."
)
@click.option("--seed", default=0, show_default=True, help="Seed of the batches.")
@mismatch_option
@click.option("--plot", type=click.Path(), help="Where the picture goes, as PNG.")
@pickle_option
@output_options("Where the curve and the recommendation go, as JSON.")
@json_option
@quiet_option
def command(
    gpu: int | None,
    device: str | None,
    workload: str,
    data: str,
    calibration: str,
    memory: str | None,
    budgets: int,
    batches: int,
    repeats: int,
    longest: float,
    seed: int,
    allow_mismatch: bool,
    plot: str | None,
    output: str | None,
    force: bool,
    allow_pickle: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Time training steps at several budgets and recommend the one to train with.

    \b
    Example:
      nodebudget tune --device cpu --data crystals.json --calibration cal.json --memory 4GiB --plot tune.png
    """
    from nodebudget.analysis.tune import TuneConfig
    from nodebudget.calibration.memory_model import Calibration
    from nodebudget.profiling.open import open_probe
    from nodebudget.utils.byte_units import parse_bytes
    from nodebudget.utils.files import check_output

    if output is not None:
        check_output(output, force=force)
    if plot is not None:
        check_picture(plot, force=force)
    place = resolve_device(gpu, device)
    effort = TuneConfig(budgets, batches, repeats, longest, seed)
    known = Calibration.load(calibration)
    room = None if memory is None else parse_bytes(memory)
    probe = open_probe(place)
    made = _workload(workload, place, known, probe, allow_mismatch=allow_mismatch, quiet=quiet)
    with Steps(quiet=quiet) as steps:
        advice = _run(made, data, allow_pickle, probe, known, room, effort, steps)
    advice = replace(advice, context={"workload": workload, "data": data, **advice.context})
    _write(advice, output, plot, force=force, quiet=quiet)
    if as_json:
        print_json(advice.to_dict())
    else:
        from nodebudget.report.curves import curve_text

        say(curve_text(advice))


def _workload(spec: str, place: str, calibration: Any, probe: Any, *, allow_mismatch: bool, quiet: bool) -> Any:
    from nodebudget.workloads.registry import load_workload

    made = load_workload(spec, place)
    check(calibration, workload=made, probe=probe, allow_mismatch=allow_mismatch, quiet=quiet)
    return made


def _run(
    made: Any,
    data: str,
    allow_pickle: bool,
    probe: Any,
    calibration: Any,
    memory: int | None,
    effort: Any,
    steps: Steps,
) -> Any:
    from nodebudget.analysis.tune import tune
    from nodebudget.cli.measuring import measure_for
    from nodebudget.datasets.readers.open_dataset import open_data
    from nodebudget.errors import InputError
    from nodebudget.utils.records import provenance

    opened = open_data(data, allow_pickle=allow_pickle)
    if opened.kind == "sizes":
        raise InputError(
            f"{data!r} holds sizes, not crystals",
            hint="give the crystals or graphs that they were measured from",
        )
    sizes = measure_for(
        made,
        data,
        opened,
        allow_pickle=allow_pickle,
        progress=lambda done, total: steps.show("measuring sizes", done, total),
    )
    advice = tune(
        made,
        opened,
        sizes,
        probe,
        calibration,
        memory=memory,
        effort=effort,
        progress=lambda done, total: steps.show("timing budgets", done, total),
    )
    return replace(advice, context={"device": probe.describe(), **provenance()})


def _write(advice: Any, output: str | None, plot: str | None, *, force: bool, quiet: bool) -> None:
    if output is not None:
        from nodebudget.utils.records import write_record

        write_record(output, "nodebudget.tune", 1, advice.to_dict(), force=force)
        note(f"written: {output}", quiet=quiet)
    if plot is not None:
        from nodebudget.report.curves import draw_curve
        from nodebudget.utils.files import write_whole

        device = advice.context["device"]
        caption = f"{advice.context['workload']}, timed on {device['device']} ({device['name']})"
        write_whole(plot, lambda file: draw_curve(advice, file, caption=caption), force=force)
        note(f"written: {plot}", quiet=quiet)
