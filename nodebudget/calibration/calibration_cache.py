"""Calibrations on disk, each with what it was made for: model, settings, device, versions and graphs."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from nodebudget.calibration.memory_model import Calibration
from nodebudget.datasets.size_table import SizeTable
from nodebudget.errors import InputError, NodeBudgetError
from nodebudget.profiling.probe import Probe
from nodebudget.utils.code_hash import code_hash, plain_values
from nodebudget.utils.optional_imports import installed
from nodebudget.utils.version import __version__
from nodebudget.workloads.protocol import dtype_of, parameter_count
from nodebudget.workloads.user_step import StepWorkload, unwrapped

_MADE_FOR = "made_for"  #: Entry of a record's context: what it was made for.
_PACKAGES = ("torch", "dgl", "torch-geometric")  #: Packages whose version changes the memory of a step.


class CalibrationCache:
    """A folder of calibrations.

    Args:
        folder: Where they are; None keeps none.
        made_for: What the calibration depends on, by name: see `describe_use`.
    """

    def __init__(self, folder: str | None, made_for: Mapping[str, Any]) -> None:
        self._made_for = json.loads(json.dumps(made_for))
        self._folder = None if folder is None else Path(folder)
        digest = hashlib.sha256(json.dumps(self._made_for, sort_keys=True).encode()).hexdigest()
        self._name = f"auto-{re.sub('[^A-Za-z0-9_]', '_', str(made_for['model']))[:60]}-{digest[:12]}.json"

    def load(self) -> tuple[Calibration | None, str]:
        """Return the calibration, or None and why there is none."""
        if self._folder is None:
            return None, "calibrations are not kept"
        others: list[list[str]] = []
        for path in sorted(self._folder.glob("auto-*.json")):
            try:
                calibration = Calibration.load(path)
            except NodeBudgetError:
                continue  # damaged: calibrating writes it again
            made_for = calibration.context.get(_MADE_FOR)
            if path.name == self._name and made_for == self._made_for:
                return calibration, ""
            if isinstance(made_for, Mapping):
                others.append(self._changes(made_for))
        if not others:
            return None, f"{self._folder} has no calibration yet"
        return None, "; ".join(sorted(others, key=len)[0])

    def save(self, calibration: Calibration) -> tuple[Calibration, str]:
        """Write it; return it with what it was made for, and why it can't be written, or ""."""
        made = replace(calibration, context={**calibration.context, _MADE_FOR: self._made_for})
        if self._folder is None:
            return made, ""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            made.save(self._folder / self._name, force=True)
        except OSError as error:
            return made, f"{str(self._folder)!r} can't be written: {error.strerror}"
        except InputError as error:
            return made, error.what
        return made, ""

    def _changes(self, then: Mapping[str, Any]) -> list[str]:
        """Return what differs from another record, in words."""
        changes = []
        for name, now in self._made_for.items():
            if then.get(name) == now:
                continue
            shown = [str(value) for value in (then.get(name), now)]
            is_hash = any(re.fullmatch("[0-9a-f]{16}", text) for text in shown)
            changes.append(f"{name} changed" if is_hash else f"{name} was {shown[0]}, is {shown[1]}")
        return changes


def describe_use(
    workload: StepWorkload, optimizers: Sequence[Any], functions: Mapping[str, Any], probe: Probe, sizes: SizeTable
) -> dict[str, Any]:
    """Return what the memory of a step depends on, by the name that a user knows it by.

    Args:
        workload: The step.
        optimizers: Those that it uses.
        functions: The user's functions by name (step, collate function); their code counts.
        probe: The device.
        sizes: The graphs.
    """
    device, model = probe.describe(), workload.model
    return {
        "model": workload.name,
        "number of parameters": parameter_count(workload),
        "dtype": dtype_of(workload),
        "structure of the model": _digest(_structure(model)),
        "wrapper of the model": "none" if unwrapped(model) is model else type(model).__name__,
        "optimizer": ", ".join(type(optimizer).__name__ for optimizer in optimizers) or "none",
        "settings of the optimizer": _digest([_settings(optimizer) for optimizer in optimizers]),
        "autocast": torch.is_autocast_enabled(),
        **{f"code of the {name}": code_hash(function) for name, function in functions.items()},
        "device": device["name"],
        "memory of the device": device["memory"],
        "allocator": device.get("allocator", "none"),
        **{f"version of {name}": installed(name) for name in _PACKAGES},
        "version of nodebudget": __version__,
        "number of graphs": len(sizes),
        "sizes of the graphs": sizes.fingerprint()[:16],
    }


def _structure(model: torch.nn.Module) -> list[str]:
    text = re.sub(r"0x[0-9a-f]+", "", str(model))
    tensors = [*model.named_parameters(), *model.named_buffers()]
    shapes = [f"{name} {tuple(t.shape)} {t.dtype} {t.requires_grad}" for name, t in tensors]
    return [text, *shapes, *(value for module in model.modules() for value in plain_values(module))]


def _settings(optimizer: Any) -> list[str]:
    # The learning rate and the like are numbers of a run; switches choose how the optimizer works.
    groups = [
        {name: value for name, value in group.items() if isinstance(value, (bool, str, type(None)))}
        for group in optimizer.param_groups
    ]
    return [str(sorted(group.items(), key=str)) for group in groups]


def _digest(value: object) -> str:
    return hashlib.sha256(repr(value).encode()).hexdigest()[:16]
