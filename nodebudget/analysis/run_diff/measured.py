"""Bytes that each changed setting of an alignn run makes, measured on training steps of the same crystals."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nodebudget.analysis.run_diff.runs import RunConfig
from nodebudget.errors import NodeBudgetError
from nodebudget.profiling.open import open_probe
from nodebudget.workloads.alignn_step import AlignnRunWorkload
from nodebudget.workloads.protocol import resident_bytes
from nodebudget.workloads.run_step import run_step

#: Graphs of a measured batch of run A, if its batch size is larger: enough for the cost per graph to dominate.
_MAX_GRAPHS = 16

#: Name of the last entry, where several settings differ.
TOGETHER = "all of these together"


def measure_settings(
    a: RunConfig,
    b: RunConfig,
    names: Sequence[str],
    crystals: Any,
    device: str = "cpu",
    progress: Callable[[int, int | None], object] = lambda done, total: None,
) -> tuple[int, dict[str, int | str]]:
    """Switch each setting from its value in run A to that in run B, and measure a training step with it.

    A step is alignn's own (`nodebudget.workloads.alignn_step`), on the same crystals: the first of the dataset, as many
    as the batch size of the run, up to 16 for run A. Targets and forces are taken as 0, which does not change the
    memory. If `model.name` differs, all settings of the model are switched with it.

    Args:
        a: The first run, of alignn.
        b: The second run, of alignn.
        names: Dotted names of the settings.
        crystals: JARVIS dicts.
        device: "cpu" or "cuda:0".
        progress: Called with the number of steps measured and of all.

    Returns:
        Peak bytes of a step of run A; and for each setting, and for all together if there are several, the bytes that
        it adds, or the reason why it can't be switched by itself.
    """
    groups = _groups(names)
    reference = _peak(a, a, (), crystals, device)
    changes: dict[str, int | str] = {}
    for done, (label, members) in enumerate(groups.items(), start=1):
        progress(done, len(groups))
        try:
            changes[label] = _peak(a, b, members, crystals, device) - reference
        except NodeBudgetError as error:
            changes[label] = f"can't be switched by itself: {error}"
    return reference, changes


def _groups(names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    groups: dict[str, tuple[str, ...]] = {name: (name,) for name in names}
    if "model.name" in groups:
        members = tuple(name for name in names if name.startswith("model."))
        groups = {name: group for name, group in groups.items() if name not in members} | {"model.name": members}
    return groups | ({TOGETHER: tuple(names)} if len(groups) > 1 else {})


def _peak(a: RunConfig, b: RunConfig, names: Sequence[str], crystals: Any, device: str) -> int:
    """Measure the peak bytes of a step of run A with some settings of run B, resident bytes included."""
    settings = json.loads(json.dumps(a.settings))
    for name in names:
        _set(settings, name.split("."), b.flat.get(name))
    full = int(a.flat["batch_size"])
    graphs = max(1, round(min(full, _MAX_GRAPHS) * int(settings["batch_size"]) / full))
    probe = open_probe(device)
    with tempfile.TemporaryDirectory(prefix="nodebudget-") as folder:
        path = Path(folder) / "config.json"
        path.write_text(json.dumps(settings))
        workload = AlignnRunWorkload(device, config=path)
    try:
        samples = [workload.sample(crystals[place % len(crystals)]) for place in range(graphs)]
        for batch in (samples[:1], samples):  # the first step makes the optimizer's state
            peak = run_step(
                lambda batch=batch: probe.measure(lambda: workload.step(workload.batch(batch))),  # type: ignore[misc]
                f"a training step on {graphs} graphs",
            )
        resident = resident_bytes(workload) if peak.resident is None else peak.resident
        return int(resident + peak.requested)
    finally:
        workload.close()
        probe.release()


def _set(settings: dict[str, Any], path: Sequence[str], value: Any) -> None:
    for key in path[:-1]:
        inner: Mapping[str, Any] | None = settings.get(key)
        settings = settings.setdefault(key, {}) if inner is None else settings[key]
    if value is None and path[-1] not in ("max_neighbors", "three_body_cutoff"):
        settings.pop(path[-1], None)
    else:
        settings[path[-1]] = value
