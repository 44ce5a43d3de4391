"""Whether a calibration may be used here: it holds for the device, model and versions that it was measured on."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nodebudget.calibration.memory_model import Calibration
from nodebudget.datasets.graph_settings import GraphSettings
from nodebudget.datasets.size_table import SizeTable
from nodebudget.errors import InputError, RecordError
from nodebudget.utils.optional_imports import installed

if TYPE_CHECKING:
    from nodebudget.profiling.probe import Probe
    from nodebudget.workloads.protocol import Workload

#: Packages whose version changes what a step takes.
_PACKAGES = ("torch", "dgl")


@dataclass(frozen=True)
class Difference:
    """Something that is not as it was when the calibration was made.

    Attributes:
        what: Its name.
        then: As recorded.
        now: As found here.
        fatal: The predictions can't be right: another model.
    """

    what: str
    then: Any
    now: Any
    fatal: bool

    def __str__(self) -> str:
        return f"{self.what} was {self.then}, is {self.now}"


def differences(
    calibration: Calibration, *, workload: Workload | None = None, probe: Probe | None = None
) -> list[Difference]:
    """List what differs from when the calibration was made.

    Args:
        calibration: The record.
        workload: The training step that it is to be used for; None leaves the model out.
        probe: The device that it is to be used on; None leaves the device out.
    """
    found = []
    if workload is not None:
        from nodebudget.workloads.protocol import dtype_of, parameter_count

        model = {"parameters": parameter_count(workload), "dtype": dtype_of(workload)}
        model["optimizer"] = type(workload.optimizer).__name__
        found += _compare(calibration, "model", model, fatal=True)
    if probe is not None:
        device = probe.describe()
        found += _compare(calibration, "device", {key: device.get(key) for key in ("name", "memory")}, fatal=False)
    return found + _compare(calibration, "packages", {name: installed(name) for name in _PACKAGES}, fatal=False)


def check_applicable(
    calibration: Calibration,
    *,
    workload: Workload | None = None,
    probe: Probe | None = None,
    allow_mismatch: bool = False,
) -> None:
    """Warn of what differs, and refuse what can't be right.

    Args:
        calibration: The record.
        workload: The training step that it is to be used for.
        probe: The device that it is to be used on.
        allow_mismatch: Only warn, of another model too.

    Raises:
        RecordError: It was made for another model.
    """
    found = differences(calibration, workload=workload, probe=probe)
    fatal = [difference for difference in found if difference.fatal]
    if fatal and not allow_mismatch:
        raise RecordError(
            f"the calibration is of another model: {'; '.join(map(str, fatal))}",
            hint="calibrate this model, or pass --allow-mismatch (allow_mismatch=True) if you know better",
        )
    if found:
        warnings.warn(
            f"the calibration was made elsewhere: {'; '.join(map(str, found))}; calibrate again to be sure",
            stacklevel=2,
        )


def graphs_of(calibration: Calibration) -> GraphSettings | None:
    """Return the settings of the graphs that a calibration was made on.

    None where its record does not say, as for graphs that were made already.
    """
    data = calibration.context.get("data")
    settings = data.get("settings") if isinstance(data, Mapping) else None
    return settings_in(settings) if isinstance(settings, Mapping) else None


def settings_in(settings: Mapping[str, Any]) -> GraphSettings | None:
    """Return the settings of graphs among those of a `SizeTable`, or None where they are not there."""
    given = settings.get("graphs")
    if not isinstance(given, Mapping):
        return None
    try:
        return GraphSettings(**given)
    except (TypeError, InputError):
        return None  # a record from elsewhere: what it says of graphs is no more than a default


def other_graphs(sizes: SizeTable, wanted: GraphSettings | None) -> str:
    """Say in words how the graphs that were measured differ from those that are wanted; empty where they do not."""
    measured = settings_in(sizes.settings)
    if measured is None or wanted is None or measured == wanted:
        return ""
    now, then = measured.to_dict(), wanted.to_dict()
    return ", ".join(f"{name} {now[name]} instead of {then[name]}" for name in then if now[name] != then[name])


def _compare(calibration: Calibration, section: str, now: dict[str, Any], *, fatal: bool) -> list[Difference]:
    then = calibration.context.get(section) or {}
    # What the record does not say can't be held against it.
    return [
        Difference(f"{section} {key}" if section != "packages" else key, then[key], value, fatal)
        for key, value in now.items()
        if key in then and then[key] != value
    ]
