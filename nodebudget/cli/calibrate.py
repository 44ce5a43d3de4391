"""nodebudget calibrate."""

from __future__ import annotations

from typing import Any

import click

from nodebudget.cli.common import Command, json_option, note, output_options, print_json, quiet_option
from nodebudget.cli.devices import device_options, resolve_device
from nodebudget.cli.progress import Steps


@click.command(cls=Command)
@device_options
@click.option(
    "--workload",
    default="alignn",
    show_default=True,
    help="alignn, module:attribute, or a file such as configs/alignn.toml.",
)
@click.option("--data", required=True, help="JARVIS-style JSON, folder with id_prop.csv, or DGL graph cache.")
@click.option("--probes", default=24, show_default=True, help="Training steps to measure; a third is held out.")
@click.option("--max-graphs", "largest", default=32, show_default=True, help="Most graphs in a probe.")
@click.option("--batch-size", default=64, show_default=True, type=click.IntRange(1), help="To report the memory of.")
@click.option("--seed", default=0, show_default=True, help="Seed of the choice of probes.")
@click.option("--workers", default=0, show_default=True, type=click.IntRange(0), help="Processes that measure sizes.")
@click.option(
    "--on-error",
    type=click.Choice(["raise", "skip"]),
    default="raise",
    show_default=True,
    help="What happens to a crystal that can't be read.",
)
@output_options("Where the calibration goes, as JSON.")
@click.option("--resume", is_flag=True, help="Go on with the probes that an interrupted run left beside -o.")
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
    resume: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Measure what a training step takes on a device, per graph, node, edge and line-graph edge.

    \b
    Example:
      nodebudget calibrate --device cpu --workload configs/alignn.toml --data crystals.json -o cal.json
    """
    from nodebudget.calibrate import Effort
    from nodebudget.errors import InputError
    from nodebudget.files import check_output
    from nodebudget.probe import open_probe

    if output is not None:
        check_output(output, force=force)
    elif resume:
        raise InputError("--resume without -o", hint="name the file that the interrupted run was to write")
    place = resolve_device(gpu, device)
    effort = Effort(probes=probes, largest=largest, seed=seed)
    probe = open_probe(place)
    # What was measured stays beside the output until that is written.
    keep = {"journal": None if output is None else f"{output}.probes.jsonl", "resume": resume}
    with Steps(quiet=quiet) as steps:
        how = {"workers": workers, "on_error": on_error}
        calibration, sizes = _run(workload, data, place, probe, effort, how, keep, steps)
    if output is not None:
        calibration.save(output, force=force)
        note(f"written: {output}", quiet=quiet)
    if as_json:
        print_json(_as_record(calibration))
    else:
        from nodebudget.report.text import calibration_text

        click.echo(calibration_text(calibration, sizes, batch_size))


def _run(
    workload: str,
    data: str,
    place: str,
    probe: Any,
    effort: Any,
    how: dict[str, Any],
    keep: dict[str, Any],
    steps: Steps,
) -> tuple[Any, Any]:
    from torch.utils.data import Subset

    from nodebudget.calibrate import calibrate
    from nodebudget.errors import InputError
    from nodebudget.measure import measure_path, open_data
    from nodebudget.workload import load_workload

    opened = open_data(data)
    if opened.kind == "sizes":
        raise InputError(
            f"{data!r} holds sizes, not crystals",
            hint="give the crystals or graphs that they were measured from",
        )
    made = load_workload(workload, place)
    sizes = measure_path(
        data,
        graphs=getattr(made, "graphs", None),
        **how,
        progress=lambda done, total: steps.show("measuring sizes", done, total),
    )
    kept = sizes.settings.get("indices")
    calibration = calibrate(
        made,
        opened if kept is None else Subset(opened, kept),  # type: ignore[arg-type]
        sizes,
        probe,
        effort=effort,
        context={"workload": workload},
        **keep,
        progress=lambda done, total: steps.show("calibrating", done, total),
    )
    return calibration, sizes


def _as_record(calibration: Any) -> dict[str, Any]:
    from nodebudget.costmodel import KIND, SCHEMA_VERSION

    return {"kind": KIND, "schema_version": SCHEMA_VERSION, **calibration.to_dict()}
