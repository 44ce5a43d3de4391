"""Opens what commands read: a calibration, sizes that match it, and samples to train on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from nodebudget.cli.options import CalibrationOptions
from nodebudget.cli.printer import Printer, Steps
from nodebudget.errors import InputError

if TYPE_CHECKING:
    from nodebudget.calibration.memory_model import Calibration
    from nodebudget.datasets.graph_settings import GraphSettings
    from nodebudget.datasets.size_table import SizeTable
    from nodebudget.profiling.probe import Probe
    from nodebudget.workloads.protocol import Workload


class OpenedCalibration(NamedTuple):
    """A calibration, and how alignn makes the graphs that are trained on; None where either is not known."""

    calibration: Calibration | None = None
    graphs: GraphSettings | None = None


def open_calibration(options: CalibrationOptions) -> OpenedCalibration:
    """Read a calibration, if one is given, and warn of differences between this machine and where it was made.

    Raises:
        RecordError: It can't be read, or it is of another model than `--workload`.
    """
    if options.calibration is None:
        return OpenedCalibration()
    from nodebudget.calibration.compatibility import check_applicable, graph_settings_of
    from nodebudget.calibration.memory_model import Calibration

    calibration = Calibration.load(options.calibration)
    workload = None
    if options.workload is not None:
        from nodebudget.workloads.registry import load_workload

        workload = load_workload(options.workload, "cpu")
    check_applicable(calibration, workload=workload, probe=_gpu_of(calibration), allow_mismatch=options.allow_mismatch)
    return OpenedCalibration(calibration, getattr(workload, "graphs", None) or graph_settings_of(calibration))


def measure_sizes(path: str, opened: OpenedCalibration, printer: Printer, **options: Any) -> SizeTable:
    """Measure a dataset as the graphs of the calibration; note where measured sizes are of other graphs.

    Args:
        path: Crystals, graphs or measured sizes.
        opened: The calibration that is used, if any.
        printer: Prints the note.
        **options: As `nodebudget.measure` takes them.
    """
    if path.endswith((".npz", ".csv")) and Path(path).is_file():
        from nodebudget.datasets.size_table import SizeTable

        sizes = SizeTable.load(path)  # without importing the readers of crystals
    else:
        from nodebudget.datasets.measure import measure

        sizes = measure(path, graphs=opened.graphs, **options)
    if opened.graphs is not None:
        from nodebudget.calibration.compatibility import different_graph_settings

        different = different_graph_settings(sizes, opened.graphs)
        if different:
            printer.note(
                f"nodebudget: the sizes in {path!r} were measured on other graphs than the calibration: {different}; "
                "measure them again unless you train on these"
            )
    return sizes


def measure_samples(
    workload: Workload, path: str, steps: Steps, *, allow_pickle: bool = False, **options: Any
) -> tuple[Any, SizeTable]:
    """Open the samples that a workload trains on and measure them as its graphs.

    Args:
        workload: What is trained.
        path: Crystals or graphs.
        steps: Shows the progress.
        allow_pickle: Read pickled graphs.
        **options: As `nodebudget.measure` takes them.

    Returns:
        The samples that were measured, and their sizes.

    Raises:
        InputError: The path holds measured sizes, or can't be measured.
    """
    from nodebudget.datasets.measure import measure
    from nodebudget.datasets.readers.open_dataset import open_data

    samples = open_data(path, allow_pickle=allow_pickle)
    if samples.kind == "sizes":
        raise InputError(
            f"{path!r} holds sizes, not crystals", hint="give the crystals or graphs that they were measured from"
        )
    graphs, size_of = getattr(workload, "graphs", None), getattr(workload, "size_of", None)
    sizes = measure(
        path if size_of is None else samples,  # only sizes of the standard columns are cached
        graphs=graphs,
        size_of=size_of,
        allow_pickle=allow_pickle,
        progress=steps.of("measuring sizes"),
        **options,
    )
    measured = sizes.settings.get("indices")  # without those that were skipped
    if measured is None:
        return samples, sizes
    from torch.utils.data import Subset

    return Subset(samples, measured), sizes  # type: ignore[arg-type]


def _gpu_of(calibration: Calibration) -> Probe | None:
    """Return the GPU of this machine for a calibration that was measured on one; None where there is none."""
    device = str(calibration.context.get("device", {}).get("device", ""))
    if not device.startswith("cuda"):
        return None
    import torch

    from nodebudget.profiling.open import open_probe

    return open_probe("cuda:0") if torch.cuda.is_available() else None
