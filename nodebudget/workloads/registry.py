"""Find the workload that a user names."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import torch

from nodebudget.datasets.counting.columns import named
from nodebudget.errors import InputError, NodeBudgetError, first_line
from nodebudget.utils.files import read_text
from nodebudget.utils.optional_imports import check_torch
from nodebudget.workloads.protocol import Workload
from nodebudget.workloads.run_step import run_step

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover - the tested interpreter is newer
    import tomli as tomllib

#: Workloads that can be named by one word.
BUILT_IN = {
    "alignn-atomwise": "nodebudget.workloads.alignn_step:AlignnRunWorkload",
    "alignn": "nodebudget.workloads.alignn:AlignnWorkload",
    "alignn-pure": "nodebudget.workloads.alignn:PureAlignnWorkload",
}

_HINT = "name it as module:attribute, as a TOML file such as configs/alignn.toml, 'alignn' or 'alignn-pure'"


def load_workload(spec: str, device: str | torch.device = "cpu", **arguments: Any) -> Workload:
    """Create a workload on a device.

    Args:
        spec: `module:attribute` (also found in the current folder), a TOML file with
            `workload = "module:attribute"`, a table `[arguments]` and
            `columns = ["triplets(5.0)"]`, or a built-in name: "alignn", or
            "alignn-pure" for ALIGNN without DGL.
        device: Where the model goes, such as "cpu" or "cuda:0".
        **arguments: Passed to the attribute; they replace those of the TOML file.

    Returns:
        An object with `model`, `optimizer`, `batch` and `step`: see `nodebudget.workloads.protocol.Workload`.

    Raises:
        InputError: `spec` names no workload, or the object lacks one of these attributes.
        MissingError: A package is not installed, or torch is too old.
        DoesNotFitError: The model does not fit into the device's memory.
        WorkloadError: Its constructor raised.
    """
    check_torch()
    target, defaults, rules = _resolve(spec)
    make = _import_attribute(target, spec)
    workload: Any = run_step(
        lambda: make(device=torch.device(device), **{**defaults, **arguments}), f"making the workload {spec!r}"
    )
    missing = [name for name in ("model", "optimizer", "batch", "step") if not hasattr(workload, name)]
    if missing:
        raise InputError(f"{spec!r} is not a workload: it has no {', '.join(missing)}", hint="see the README")
    if not isinstance(workload.model, torch.nn.Module) or not isinstance(workload.optimizer, torch.optim.Optimizer):
        kinds = f"{type(workload.model).__name__} and {type(workload.optimizer).__name__}"
        raise InputError(
            f"model and optimizer of {spec!r} are {kinds}",
            limit="a torch.nn.Module and a torch.optim.Optimizer",
            hint="put several models into a torch.nn.ModuleList, and their parameters into one optimizer",
        )
    if rules:
        workload.size_of = _all_of([*rules, *([workload.size_of] if hasattr(workload, "size_of") else [])])
    return workload  # type: ignore[no-any-return]


def _all_of(rules: list[Any]) -> Any:
    """Return a `size_of` that returns what all of these do."""
    return lambda sample: {name: size for rule in rules for name, size in rule(sample).items()}


def _resolve(spec: str) -> tuple[str, dict[str, Any], list[Any]]:
    """Return `module:attribute`, the arguments of the TOML file, and the rules that its `columns` name."""
    if not spec.endswith(".toml"):
        return BUILT_IN.get(spec, spec), {}, []
    try:
        table = tomllib.loads(read_text(spec, max_bytes=2**20))
    except OSError as error:
        raise InputError(f"the workload file {spec!r} can't be read: {error.strerror}", hint=_HINT) from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{spec!r} is not TOML: {first_line(error)}", hint="correct that line") from error
    target, arguments, rules = table.get("workload"), table.get("arguments", {}), table.get("columns", [])
    if not isinstance(target, str) or not isinstance(arguments, dict) or not isinstance(rules, list):
        raise InputError(
            f"{spec!r} names no workload",
            limit='a line such as workload = "module:attribute"',
            hint="add that line, or see configs/alignn.toml",
        )
    return BUILT_IN.get(target, target), arguments, [named(str(rule)) for rule in rules]


def _import_attribute(target: str, spec: str) -> Any:
    module, _, attribute = target.partition(":")
    if not module or not attribute:
        raise InputError(f"{spec!r} is not a workload", hint=_HINT)
    # Console scripts do not have the current folder, with the user's own module, on the path.
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        value = getattr(importlib.import_module(module), attribute, None)
    except NodeBudgetError:
        raise
    except Exception as error:
        raise InputError(
            f"the workload's module {module!r} does not import: {type(error).__name__}: {first_line(error)}",
            hint=_HINT,
        ) from error
    if not callable(value):
        raise InputError(f"module {module!r} has no callable {attribute!r}", hint=_HINT)
    return value
