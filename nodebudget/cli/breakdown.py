"""nodebudget breakdown."""

from __future__ import annotations

from typing import Any

import click

from nodebudget.cli.common import Command, check_picture, json_option, note, print_json, quiet_option, say
from nodebudget.cli.devices import device_options, resolve_device
from nodebudget.cli.progress import Steps
from nodebudget.utils.checks import check_count


@click.command("breakdown", cls=Command)
@device_options
@click.option(
    "--workload",
    default="alignn",
    show_default=True,
    help="alignn, alignn-pure, module:attribute, or a file such as configs/alignn.toml.",
)
@click.option("--data", required=True, help="JARVIS-style JSON, folder with id_prop.csv, or DGL graph cache.")
@click.option("--batch-size", default=16, show_default=True, type=int, help="Graphs a batch.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Of the shuffled epoch.")
@click.option("--plot", type=click.Path(), help="Draw the phases of the step into this PNG.")
@click.option("--force", is_flag=True, help="Overwrite an existing picture.")
@json_option
@quiet_option
def command(
    gpu: int | None,
    device: str | None,
    workload: str,
    data: str,
    batch_size: int,
    seed: int,
    plot: str | None,
    force: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Measure what the memory of a training step is made of, phase by phase.

    Runs real steps on three batches: a typical one of a fixed batch size, the worst of a shuffled epoch, and one of
    batches that are balanced by size.

    \b
    Example:
      nodebudget breakdown --device cpu --data crystals.json --batch-size 16 --plot step.png
    """
    from nodebudget.profiling.open import open_probe
    from nodebudget.utils.files import write_whole

    check_count("batch_size", batch_size, 1)
    if plot is not None:
        check_picture(plot, force=force)
    probe = open_probe(resolve_device(gpu, device))
    with Steps(quiet=quiet) as steps:
        found, checks = _run(workload, data, probe, batch_size, seed, steps)
    about = probe.describe()
    if plot is not None:
        from nodebudget.report.breakdown import draw_breakdown

        caption = f"{workload}, on {about['device']} ({about['name']})"
        write_whole(plot, lambda file: draw_breakdown(found, file, caption=caption), force=force)
        note(f"written: {plot}", quiet=quiet)
    if as_json:
        batches = [entry.to_dict() for entry in found]
        print_json({"device": about, "batches": batches, "checks": [check.to_dict() for check in checks]})
    else:
        from nodebudget.report.breakdown import breakdown_text

        say(breakdown_text(found, checks))


def _run(workload: str, data: str, probe: Any, batch_size: int, seed: int, steps: Steps) -> tuple[Any, Any]:
    from nodebudget.analysis.breakdown import break_down, check_counts, choose_batches
    from nodebudget.datasets.measure import measure_dataset
    from nodebudget.datasets.readers.open_dataset import open_data
    from nodebudget.errors import InputError
    from nodebudget.workloads.registry import load_workload

    opened = open_data(data)
    if opened.kind == "sizes":
        raise InputError(
            f"{data!r} holds sizes, not crystals", hint="give the crystals or graphs that they were measured from"
        )
    made = load_workload(workload, probe.device)
    sizes = measure_dataset(
        opened,
        graphs=getattr(made, "graphs", None),
        size_of=getattr(made, "size_of", None),
        progress=lambda done, total: steps.show("measuring sizes", done, total),
    )
    found = break_down(
        made,
        opened,
        sizes,
        probe,
        choose_batches(sizes, batch_size, seed=seed),
        progress=lambda done, total: steps.show("measuring steps", done, total),
    )
    return found, check_counts(made)
