"""Whether a calibration holds for this device, model and these versions: those that it was measured on."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from nodebudget.calibration.memory_model import Calibration
from nodebudget.datasets.graph_settings import GraphSettings
from nodebudget.datasets.size_table import SizeTable
from nodebudget.errors import InputError, RecordError
from nodebudget.utils.optional_imports import installed
from nodebudget.workloads.protocol import Workload, dtype_of, parameter_count

if TYPE_CHECKING:
    from nodebudget.profiling.probe import Probe

#: Packages of kernels that exist on CUDA only, by the root of their modules.
_CUDA_KERNELS = {
    **{"cuequivariance_torch": "cuEquivariance", "cuequivariance": "cuEquivariance"},
    **{
        "openequivariance": "OpenEquivariance",
        "flashTP_e3nn": "FlashTP",
        "warp": "Warp",
        "flash_attn": "FlashAttention",
    },
}
_PACKAGES = ("torch", "dgl")  #: Packages whose version changes the memory of a step.


def check_applicable(
    calibration: Calibration,
    *,
    workload: Workload | None = None,
    probe: Probe | None = None,
    allow_mismatch: bool = False,
) -> None:
    """Warn (UserWarning) about what has changed since the calibration was made, and refuse another model.

    Args:
        calibration: The record.
        workload: The training step to use it for; None does not compare the model.
        probe: The device to use it on; None does not compare the device.
        allow_mismatch: Only warn, about another model too.

    Raises:
        RecordError: It was made for another model.
    """
    model: dict[str, Any] = {}
    if workload is not None:
        model = {"parameters": parameter_count(workload), "dtype": dtype_of(workload)}
        model["optimizer"] = type(workload.optimizer).__name__
    device = {} if probe is None else {key: probe.describe().get(key) for key in ("name", "memory")}
    fatal = _changes(calibration, "model", model)
    changes = [*fatal, *_changes(calibration, "device", device)]
    changes += _changes(calibration, "packages", {name: installed(name) for name in _PACKAGES})
    if fatal and not allow_mismatch:
        raise RecordError(
            f"the calibration is of another model: {'; '.join(fatal)}",
            hint="calibrate this model, or pass --allow-mismatch (allow_mismatch=True) to use it all the same",
        )
    if changes:
        warnings.warn(
            f"the calibration was made with another setup: {'; '.join(changes)}; calibrate again for exact predictions",
            stacklevel=2,
        )


def check_same_kernels(workload: Workload) -> None:
    """Raise an InputError where modules of a model compute by kernels that exist on CUDA only.

    On the CPU they take another path, whose allocations say nothing about those on a GPU.
    """
    for name, module in workload.model.named_modules():
        package = type(module).__module__.partition(".")[0]
        if package in _CUDA_KERNELS:
            raise InputError(
                f"the module {name!r} is a {type(module).__name__} of {_CUDA_KERNELS[package]}, whose "
                "kernels exist on CUDA only and allocate otherwise than its path on the CPU",
                hint="calibrate on a GPU (--gpu 0), or switch these kernels off in the model",
            )


def graph_settings_of(calibration: Calibration) -> GraphSettings | None:
    """Return the graph settings of a calibration; None if it has none, for example if graphs were given."""
    data = calibration.context.get("data")
    settings = data.get("settings") if isinstance(data, Mapping) else None
    return _graph_settings(settings) if isinstance(settings, Mapping) else None


def measure_as_calibrated(data: Any, calibration: Calibration | None, **options: Any) -> SizeTable:
    """Measure a dataset as the graphs that a calibration was made on; None: alignn's usual graphs.

    Raises:
        InputError: The data are crystals, and the calibration was made on graphs that a workload made of crystals.
    """
    from nodebudget.datasets.counting.columns import CANDIDATES, tensor_lengths
    from nodebudget.datasets.measure import measure  # the readers take long to import

    if calibration is None or isinstance(data, SizeTable):
        return measure(data, **options)
    recorded = calibration.context.get("data")
    settings = recorded.get("settings", {}) if isinstance(recorded, Mapping) else {}
    further = [name for name in calibration.columns if name in settings.get(CANDIDATES, ())]
    if further:  # lengths of tensors, of data that is as it was calibrated on
        options = {"size_of": lambda sample: {name: tensor_lengths(sample).get(name, 0) for name in further}} | options
    sizes = measure(data, **{"graphs": _graph_settings(settings), **options})
    workload = settings.get("workload")
    if workload is not None and "graphs" in sizes.settings:
        raise InputError(
            f"the calibration was made on the graphs of the workload {workload}, and these are crystals",
            limit="the workload alone knows the graphs that it makes of them",
            hint="name it (--workload), or give sizes: nodebudget.measure_samples(workload, crystals)",
        )
    return sizes


def different_graph_settings(sizes: SizeTable, wanted: GraphSettings | None) -> str:
    """Return how the graph settings of measured sizes differ from others, in words; empty if they do not."""
    measured = _graph_settings(sizes.settings)
    if measured is None or wanted is None or measured == wanted:
        return ""
    now, then = measured.to_dict(), wanted.to_dict()
    return ", ".join(f"{name} {now[name]} instead of {then[name]}" for name in then if now[name] != then[name])


def _graph_settings(settings: Mapping[str, Any]) -> GraphSettings | None:
    graphs = settings.get("graphs")
    if not isinstance(graphs, Mapping):
        return None
    try:
        return GraphSettings(**graphs)
    except (TypeError, InputError):
        return None  # written by another program; the settings are only a default


def _changes(calibration: Calibration, section: str, now: Mapping[str, Any]) -> list[str]:
    then = calibration.context.get(section) or {}
    label = "" if section == "packages" else f"{section} "
    # What the record does not have is not compared.
    changed = [key for key, value in now.items() if key in then and then[key] != value]
    return [f"{label}{key} was {then[key]}, is {now[key]}" for key in changed]
