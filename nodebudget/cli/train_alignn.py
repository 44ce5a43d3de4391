"""nodebudget train-alignn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from nodebudget.cli.printer import Printer

if TYPE_CHECKING:
    from nodebudget.integrations.alignn_train import TrainingBudget

#: Options of train_alignn.py, by the names that its function `train_for_folder` has for them.
_ALIGNN = {
    "file_format": "Format of the structure files of id_prop.csv: poscar, cif, xyz or pdb.",
    "classification_threshold": "Turn targets into classes 0 and 1.",
    "batch_size": "Has no effect beside a budget; see --graphs-per-step.",
    "epochs": "Number of epochs.",
    "target_key": "Key of the target in id_prop.json.",
    "id_key": "Key of the id.",
    "force_key": "Key of the forces.",
    "atomwise_key": "Key of a target per atom.",
    "stresswise_key": "Key of the stress.",
    "additional_output_key": "Key of a further output.",
    "output_dir": "Folder of history, checkpoints and predictions.",
    "restart_model_path": "Checkpoint to start from.",
    "device": "As in train_alignn.py, which does not use it.",
}


def _alignn_options(command: Any) -> Any:
    for name, text in reversed(_ALIGNN.items()):
        command = click.option(f"--{name}", help=text)(command)
    return command


@click.command("train-alignn")
@click.option("--root_dir", required=True, help="Folder with id_prop.json, id_prop.json.zip or id_prop.csv.")
@click.option("--config_name", required=True, help="alignn's config.json.")
@click.option(
    "--memory",
    default="auto",
    show_default=True,
    help="What a step may take: auto, bytes such as 36GiB, or a share such as 80%.",
)
@click.option("--graphs-per-step", type=click.IntRange(1), help="Maximum number of graphs per batch.")
@click.option("--calibration", help="Record of 'nodebudget calibrate --alignn-config'; default: calibrate first.")
@click.option("--cache", default=".nodebudget", show_default=True, help="Folder that keeps calibrations.")
@click.option(
    "--probes", default=18, show_default=True, type=click.IntRange(9), help="Training steps to calibrate with."
)
@click.option("--backend", default="nccl", show_default=True, help="Backend of torch.distributed with several GPUs.")
@_alignn_options
def command(
    root_dir: str,
    config_name: str,
    memory: str,
    graphs_per_step: int | None,
    calibration: str | None,
    cache: str,
    probes: int,
    backend: str,
    device: str | None,
    **alignn: Any,
) -> None:
    """Run train_alignn.py with batches that fit the memory.

    All options of train_alignn.py are taken; what is written is what it writes.

    \b
    Example:
      nodebudget train-alignn --root_dir data --config_name config.json --memory auto
    """
    from nodebudget.integrations.alignn_train import AlignnTraining, train_alignn

    given = {name: value for name, value in alignn.items() if value is not None}
    if "force_key" in given:
        given["gradwise_key"] = given.pop("force_key")
    training = AlignnTraining(
        root_dir, config_name, memory, graphs_per_step, calibration, cache, probes, backend, given
    )
    train_alignn(training, _print)


def _print(budget: TrainingBudget) -> None:
    """Print what was computed before the first epoch; a function of the module, so that other processes find it."""
    from nodebudget.report.training import training_report

    Printer().result(None, training_report(budget))
