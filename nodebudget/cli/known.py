"""A calibration given to a command, and what is said where it was made for something else."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click

from nodebudget.cli.common import note, warnings_as_notes

if TYPE_CHECKING:
    from nodebudget.calibration.memory_model import Calibration
    from nodebudget.datasets.graph_settings import GraphSettings
    from nodebudget.datasets.size_table import SizeTable
    from nodebudget.profiling.probe import Probe

F = TypeVar("F", bound=Callable[..., Any])


class Known(NamedTuple):
    """A calibration, and how alignn makes the graphs that are trained on; None where that is not known."""

    calibration: Calibration
    graphs: GraphSettings | None


def mismatch_option(function: F) -> F:
    """Add `--allow-mismatch`."""
    return click.option("--allow-mismatch", is_flag=True, help="Take a calibration of another model.")(function)


def model_options(function: F) -> F:
    """Add `--workload` and `--allow-mismatch`."""
    text = "What is trained, as for calibrate: a calibration of another model is refused."
    return click.option("--workload", help=text)(mismatch_option(function))


def open_calibration(path: str, *, workload: str | None, allow_mismatch: bool, quiet: bool) -> Known:
    """Read a calibration and note what differs here from where it was made.

    Args:
        path: The record.
        workload: Names the model that it is to be used for; None leaves the model out.
        allow_mismatch: Only note that it is of another model.
        quiet: Say nothing.

    Raises:
        RecordError: It can't be read, or it is of another model.
    """
    from nodebudget.calibration.compatibility import graphs_of
    from nodebudget.calibration.memory_model import Calibration

    known = Calibration.load(path)
    made = None
    if workload is not None:
        from nodebudget.workloads.registry import load_workload

        made = load_workload(workload, "cpu")
    check(known, workload=made, probe=_gpu(known), allow_mismatch=allow_mismatch, quiet=quiet)
    return Known(known, getattr(made, "graphs", None) or graphs_of(known))


def measure_known(path: str, known: Known | None, *, quiet: bool, **how: Any) -> SizeTable:
    """Measure a dataset with the graphs that are trained on, and note where sizes are of others.

    Args:
        path: Crystals, graphs or measured sizes.
        known: The calibration that is used, if any.
        quiet: Say nothing.
        **how: As `nodebudget.datasets.measure.measure_path` takes them.
    """
    from nodebudget.calibration.compatibility import other_graphs
    from nodebudget.datasets.measure import measure_path

    graphs = None if known is None else known.graphs
    sizes = measure_path(path, graphs=graphs, **how)
    different = other_graphs(sizes, graphs)
    if different:
        note(
            f"nodebudget: the sizes in {path!r} are of other graphs than the calibration: {different}; "
            "right if you train on these, else measure them again",
            quiet=quiet,
        )
    return sizes


def check(calibration: Calibration, *, workload: Any, probe: Probe | None, allow_mismatch: bool, quiet: bool) -> None:
    """Note what differs from when a calibration was made; refuse one of another model.

    Raises:
        RecordError: It was made for another model.
    """
    from nodebudget.calibration.compatibility import check_applicable

    with warnings_as_notes(quiet=quiet):
        check_applicable(calibration, workload=workload, probe=probe, allow_mismatch=allow_mismatch)


def _gpu(calibration: Calibration) -> Probe | None:
    """Return the GPU of this machine for a calibration that was measured on one; None where there is none."""
    device = str(calibration.context.get("device", {}).get("device", ""))
    if not device.startswith("cuda"):
        return None
    import torch

    from nodebudget.profiling.open import open_probe

    return open_probe("cuda:0") if torch.cuda.is_available() else None
