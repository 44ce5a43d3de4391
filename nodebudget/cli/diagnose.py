"""nodebudget diagnose."""

from __future__ import annotations

from typing import Any

import click

from nodebudget.cli.common import Command, json_option, print_json, quiet_option, say
from nodebudget.cli.devices import device_options, resolve_device
from nodebudget.cli.progress import Steps
from nodebudget.errors import InputError


@click.command("diagnose", cls=Command, short_help="Say which difference of two runs moves device memory.")
@click.argument("run_a", type=click.Path(), required=False)
@click.argument("run_b", type=click.Path(), required=False)
@click.option("--data-a", type=click.Path(), help="What run A trained on, to compare the samples too.")
@click.option("--data-b", type=click.Path(), help="What run B trained on.  [default: as run A]")
@click.option("--calibration", type=click.Path(), help="Of a training step of run A: with data, it predicts bytes.")
@click.option("--experiment", is_flag=True, help="Instead of two runs: measure the usual suspects on this machine.")
@click.option("--data", type=click.Path(), help="Crystals of the experiment.  [default: those of the quickstart]")
@device_options
@click.option("--batch-size", type=int, help="Of the experiment.  [default: 16]")
@click.option("--workers", type=int, help="Of the experiment, where it has some.  [default: 2]")
@click.option("--limit", type=int, help="Most crystals of the experiment.  [default: 96]")
@json_option
@quiet_option
def command(
    run_a: str | None,
    run_b: str | None,
    data_a: str | None,
    data_b: str | None,
    calibration: str | None,
    experiment: bool,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Say which differences of two runs move device memory, by how much, and why.

    Each RUN is an output folder with a config in it, or a config: alignn's config.json, or any JSON, TOML or YAML.
    Bytes are what one change adds to a step of run A, all else as in A.

    With --experiment instead of runs it measures what pin_memory, num_workers, a graph cache and a cache of text
    encodings do to device memory and to host memory, by pairs of short runs that differ in one of them.

    \b
    Examples:
      nodebudget diagnose runs/hse runs/dft_3d --data-a hse.json --data-b dft_3d.json --calibration cal.json
      nodebudget diagnose --experiment --device cpu
    """
    runs = {"RUN_A": run_a, "RUN_B": run_b}
    of_runs = {**runs, "--data-a": data_a, "--data-b": data_b, "--calibration": calibration}
    if experiment:
        _refuse(of_runs, "an experiment has no runs to compare: leave it out")
        _experiment({name: value for name, value in options.items() if value is not None}, as_json, quiet)
        return
    _refuse({f"--{name.replace('_', '-')}": value for name, value in options.items()}, "give --experiment too")
    missing = [name for name, path in runs.items() if path is None]
    if run_a is None or run_b is None:
        raise InputError(f"{' and '.join(missing)} not given", hint="name two runs to compare, or give --experiment")
    _compare((run_a, run_b), (data_a, data_b), calibration, as_json)


def _refuse(given: dict[str, Any], hint: str) -> None:
    names = [name for name, value in given.items() if value is not None]
    if names:
        raise InputError(f"{names[0]} does not go with this", hint=hint)


def _compare(paths: tuple[str, str], of: tuple[str | None, str | None], calibration: str | None, as_json: bool) -> None:
    from nodebudget.analysis.run_diff.diff import diagnose
    from nodebudget.analysis.run_diff.runs import read_run
    from nodebudget.datasets.readers.open_dataset import open_data

    known = None
    runs = [read_run(path) for path in paths]
    data = [None if path is None else open_data(path) for path in of]
    if calibration is not None:
        from nodebudget.calibration.memory_model import Calibration

        known = Calibration.load(calibration)
    found = diagnose(*runs, data_a=data[0], data_b=data[1], calibration=known)
    if as_json:
        print_json(found.to_dict())
    else:
        from nodebudget.report.diagnose import diagnosis_text

        say(diagnosis_text(found))


def _experiment(options: dict[str, Any], as_json: bool, quiet: bool) -> None:
    from data_loading import Options, run_experiment

    device = resolve_device(options.pop("gpu", None), options.pop("device", None), prefer_gpu=True)
    path = options.pop("data", None)
    chosen = Options(device, **options)
    with Steps(quiet=quiet) as steps:
        found = run_experiment(_crystals(path), chosen, steps.show)
    if as_json:
        print_json(found.to_dict())
    else:
        from data_loading.report import experiment_text

        say(experiment_text(found))


def _crystals(path: str | None) -> Any:
    if path is None:
        from nodebudget.datasets.example_crystals import example_datasets

        return [crystal for crystals in example_datasets().values() for crystal in crystals]
    from nodebudget.datasets.readers.open_dataset import open_data

    data = open_data(path)
    if data.kind != "crystals":
        raise InputError(f"{path!r} holds {data.kind}, not crystals", hint="give the crystals that they came from")
    return data
