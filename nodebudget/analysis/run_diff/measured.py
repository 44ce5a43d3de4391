"""Bytes that each changed setting of an alignn run makes, measured on training steps of the same crystals."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nodebudget.analysis.run_diff.runs import RunConfig
from nodebudget.analysis.shapley import shapley_values
from nodebudget.errors import NodeBudgetError
from nodebudget.profiling.open import open_probe
from nodebudget.workloads.alignn_step import AlignnRunWorkload
from nodebudget.workloads.protocol import resident_bytes
from nodebudget.workloads.run_step import run_step

#: Graphs of a measured batch of run A, if its batch size is larger: enough for the cost per graph to dominate.
MAX_GRAPHS = 16

_MAX_EXACT = 4  #: Number of settings up to which every combination is measured.


@dataclass(frozen=True)
class MeasuredChanges:
    """What the differing settings of two runs change, measured on the same crystals."""

    first: int  #: Peak bytes of a step of run A.
    second: int | None  #: Peak bytes with all of the settings switched; None if that step fails.
    alone: Mapping[str, int]  #: Setting → the bytes that it adds to a step of run A if nothing else is switched.
    shares: Mapping[str, float]  #: Setting → its share of `second` - `first`, bytes; empty if `second` is None.
    failures: Mapping[str, str]  #: Setting → why it can't be switched alone.


def measure_settings(
    a: RunConfig,
    b: RunConfig,
    names: Sequence[str],
    crystals: Any,
    device: str = "cpu",
    progress: Callable[[int, int | None], object] = lambda done, total: None,
) -> MeasuredChanges:
    """Switch settings (dotted names) from run A's values to run B's, alone and together, and measure training steps.

    A step is alignn's own (`nodebudget.workloads.alignn_step`), on the same crystals: the first of the dataset, as many
    as the batch size of the run, up to 16 for run A. Targets and forces are taken as 0, which does not change the
    memory. If `model.name` differs, all settings of the model are switched with it.

    Up to four settings are switched in every combination, and the bytes are their Shapley values. More are switched
    alone; what all together add to the sum of these is divided in proportion. Where settings can't be switched alone,
    it is theirs in equal parts.

    Raises:
        NodeBudgetError: The step of run A fails.
    """
    groups = _groups(names)
    total = 2 ** len(groups) if len(groups) <= _MAX_EXACT else len(groups) + 2
    measured: dict[frozenset[str], int] = {}

    def peak(switched: frozenset[str]) -> int:
        if switched not in measured:
            members = [name for label, group in groups.items() if label in switched for name in group]
            measured[switched] = _peak(a, b, members, crystals, device)
            progress(len(measured), total)
        return measured[switched]

    first, second = peak(frozenset()), None
    alone, failures = {}, {}
    for label in groups:
        try:
            alone[label] = peak(frozenset([label])) - first
        except NodeBudgetError as error:
            failures[label] = str(error)
    with suppress(NodeBudgetError):
        second = peak(frozenset(groups))
    if second is None:
        return MeasuredChanges(first, None, alone, {}, failures)
    shares = _divided(alone, list(failures), second - first)
    if not failures and len(groups) <= _MAX_EXACT:
        with suppress(NodeBudgetError):  # a combination that fails, though each setting alone does not
            shares = shapley_values(peak, list(groups))
    return MeasuredChanges(first, second, alone, shares, failures)


def _divided(alone: Mapping[str, int], failed: Sequence[str], together: int) -> dict[str, float]:
    rest, total = together - sum(alone.values()), sum(map(abs, alone.values()))
    if failed:
        return {**alone, **dict.fromkeys(failed, rest / len(failed))}
    if not total:
        return dict.fromkeys(alone, rest / len(alone))
    return {name: change + rest * abs(change) / total for name, change in alone.items()}


def _groups(names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return the settings that are switched as one, by the first of them."""
    if "model.name" not in names:
        return {name: (name,) for name in names}
    model = tuple(name for name in names if name.startswith("model."))
    return {"model.name": model} | {name: (name,) for name in names if name not in model}


def _peak(a: RunConfig, b: RunConfig, names: Sequence[str], crystals: Any, device: str) -> int:
    """Measure the peak bytes of a step of run A with some settings of run B, resident bytes included."""
    settings = json.loads(json.dumps(a.settings))
    for name in names:
        _set(settings, name.split("."), b.flat.get(name))
    full = int(a.flat["batch_size"])
    graphs = max(1, round(min(full, MAX_GRAPHS) * int(settings["batch_size"]) / full))
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
