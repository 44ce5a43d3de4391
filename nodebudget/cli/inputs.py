"""Opens what commands read: a calibration, sizes that match it, and samples to train on."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from nodebudget.cli.options import CalibrationOptions, TrainingOptions, structures_key
from nodebudget.cli.printer import Printer, Steps
from nodebudget.errors import InputError

if TYPE_CHECKING:
    from nodebudget.calibration.memory_model import Calibration
    from nodebudget.datasets.graph_settings import GraphSettings
    from nodebudget.datasets.size_table import SizeTable
    from nodebudget.profiling.probe import Probe
    from nodebudget.workloads.protocol import Workload


class OpenedCalibration(NamedTuple):
    """A calibration, the workload that is trained, and alignn's graph settings; None where one is not known."""

    calibration: Calibration | None = None
    graphs: GraphSettings | None = None
    workload: Workload | None = None


def open_calibration(options: CalibrationOptions) -> OpenedCalibration:
    """Read a calibration, if one is given, and warn of differences between this machine and where it was made."""
    graphs = None
    if options.alignn_config is not None:
        from nodebudget.datasets.graph_settings import GraphSettings

        graphs = GraphSettings.from_alignn_config(options.alignn_config)
    if options.calibration is None:
        return OpenedCalibration(graphs=graphs)
    from nodebudget.calibration.compatibility import check_applicable, graph_settings_of
    from nodebudget.calibration.memory_model import Calibration

    calibration = Calibration.load(options.calibration)
    workload = None
    if options.workload is not None:
        from nodebudget.workloads.registry import load_workload

        workload = load_workload(options.workload, "cpu")
    check_applicable(calibration, workload=workload, probe=_gpu_of(calibration), allow_mismatch=options.allow_mismatch)
    if options.allow_mismatch:
        calibration = calibration.accept_error()
    graphs = graphs or getattr(workload, "graphs", None) or graph_settings_of(calibration)
    return OpenedCalibration(calibration, graphs, workload)


def measure_sizes(path: str, opened: OpenedCalibration, printer: Printer, **options: Any) -> SizeTable:
    """Measure a dataset as the graphs of the calibration; note where measured sizes are of other graphs."""
    if _holds_sizes(path):
        from nodebudget.datasets.size_table import SizeTable

        sizes = SizeTable.load(path)  # without importing the readers of crystals
    else:
        sizes = _measure(path, opened, **options)
    if opened.graphs is not None:
        from nodebudget.calibration.compatibility import different_graph_settings

        different = different_graph_settings(sizes, opened.graphs)
        if different:
            printer.note(
                f"nodebudget: the sizes in {path!r} were measured on other graphs than the calibration: {different}; "
                "measure them again unless you train on these"
            )
    return sizes


def load_model(training: TrainingOptions, device: str) -> Workload:
    """Load a workload by name, or the run of `train_alignn.py` with this config and data."""
    from nodebudget.workloads.registry import load_workload

    if training.alignn_config is None:
        return load_workload(training.workload, device)
    names = ("id_prop.json", "id_prop.json.zip", "id_prop.csv")
    root = training.data if any((Path(training.data) / name).exists() for name in names) else None
    return load_workload("alignn-atomwise", device, config=training.alignn_config, root_dir=root)


def _measure(path: str, opened: OpenedCalibration, **options: Any) -> SizeTable:
    if opened.workload is not None:
        from nodebudget.workloads.sample_sizes import measure_samples

        return measure_samples(opened.workload, path, **_reading(), **options)
    from nodebudget.calibration.compatibility import measure_as_calibrated

    graphs = {} if opened.graphs is None else {"graphs": opened.graphs}
    return measure_as_calibrated(path, opened.calibration, **graphs, **_reading(), **options)


def _holds_sizes(path: str) -> bool:
    """Return whether a file holds measured sizes by its first bytes; a .csv may have crystals."""
    if not path.endswith((".npz", ".csv")) or not Path(path).is_file():
        return False
    with Path(path).open("rb") as file:
        return path.endswith(".npz") or b"nodes" in file.readline(2**16)


def _reading() -> dict[str, Any]:
    """Return how `--structures` says to read the data, as arguments of `nodebudget.measure`."""
    key = structures_key()
    if key is None:
        return {}
    from nodebudget.datasets.measure import MeasureOptions
    from nodebudget.datasets.read_limits import ReadLimits

    return {"options": MeasureOptions(read_limits=ReadLimits(structures=key))}


def open_samples(workload: Workload, training: TrainingOptions, steps: Steps, **options: Any) -> tuple[Any, SizeTable]:
    """Return the samples that a workload trains on and their sizes, measured as its graphs; refuse a path of sizes."""
    from nodebudget.datasets.readers.open_dataset import open_data
    from nodebudget.workloads.sample_sizes import measure_samples

    records = getattr(workload, "records", None)
    if records is not None:  # of an alignn run, as alignn read them
        return records, measure_samples(workload, records, progress=steps.of("measuring sizes"))
    reading = _reading()
    read_limits = reading["options"].read_limits if reading else None
    samples = open_data(training.data, allow_pickle=training.allow_pickle, read_limits=read_limits)
    if samples.kind == "sizes":
        raise InputError(
            f"{training.data!r} holds sizes, not crystals",
            hint="give the crystals or graphs that they were measured from",
        )
    options |= {"allow_pickle": training.allow_pickle, "progress": steps.of("measuring sizes")}
    # A path can be read from the cache; further sizes need the samples.
    options |= reading
    sizes = measure_samples(workload, samples if hasattr(workload, "size_of") else training.data, **options)
    measured = sizes.settings.get("indices")  # without those that were skipped
    if measured is None:
        return samples, sizes
    from torch.utils.data import Subset

    return Subset(samples, measured), sizes  # type: ignore[arg-type]


def _gpu_of(calibration: Calibration) -> Probe | None:
    """Return the GPU of this machine for a calibration that was measured on one; None where there is none."""
    device = str(calibration.context.get("device", {}).get("device", ""))
    if not device.startswith("cuda") or not _has_driver():
        return None
    import torch

    from nodebudget.profiling.open import open_probe

    return open_probe("cuda:0") if torch.cuda.is_available() else None


def _has_driver() -> bool:
    """Return whether there may be a GPU, without importing torch, which takes seconds: its driver's library loads."""
    if "torch" in sys.modules:
        return True
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    return True
