"""Find the workload that a user names."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import torch

from nodebudget.errors import DoesNotFitError, InputError, NodeBudgetError, WorkloadError
from nodebudget.utils.files import read_text
from nodebudget.utils.optional_imports import check_torch
from nodebudget.workloads.protocol import Workload

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover - the tested interpreter is newer
    import tomli as tomllib

#: Workloads that can be named by one word.
BUILT_IN = {
    "alignn": "nodebudget.workloads.alignn:AlignnWorkload",
    "alignn-pure": "nodebudget.workloads.alignn_pure:PureAlignnWorkload",
}

_HINT = "name it as module:attribute, as a TOML file such as configs/alignn.toml, 'alignn' or 'alignn-pure'"


def load_workload(spec: str, device: str | torch.device = "cpu", **arguments: Any) -> Workload:
    """Make a workload on a device.

    Args:
        spec: `module:attribute` (the module is also looked for in the current folder), a TOML file with
            `workload = "module:attribute"` and a table `[arguments]`, or a built-in name ("alignn", or
            "alignn-pure" for ALIGNN without DGL).
        device: Where the model goes.
        **arguments: Passed to the attribute, over those of the TOML file.

    Raises:
        InputError: There is no such workload, or it is none.
        MissingError: It needs a package that is not there, or torch is too old.
        DoesNotFitError: The model does not fit into the device's memory.
        WorkloadError: Making it raised.
    """
    check_torch()
    target, given = _resolve(spec)
    make = _find(target, spec)
    try:
        workload = make(device=torch.device(device), **{**given, **arguments})
    except NodeBudgetError:
        raise
    except torch.cuda.OutOfMemoryError as error:
        raise DoesNotFitError(
            f"the model of the workload {spec!r} does not fit into the memory of {device}",
            limit=_first_line(error),
            hint="free memory there, or make the model smaller",
        ) from error
    except Exception as error:
        raise WorkloadError(
            f"making the workload {spec!r} raised {type(error).__name__}: {_first_line(error)}",
            hint="call it in Python with the same arguments to see where",
        ) from error
    if not isinstance(workload, Workload):
        lacking = [name for name in ("model", "optimizer", "batch", "step") if not hasattr(workload, name)]
        raise InputError(f"{spec!r} is no workload: it has no {', '.join(lacking)}", hint="see the README")
    if not isinstance(workload.model, torch.nn.Module) or not isinstance(workload.optimizer, torch.optim.Optimizer):
        kinds = f"{type(workload.model).__name__} and {type(workload.optimizer).__name__}"
        raise InputError(
            f"model and optimizer of {spec!r} are {kinds}",
            limit="a torch.nn.Module and a torch.optim.Optimizer",
            hint="put several models into a torch.nn.ModuleList, and their parameters into one optimizer",
        )
    return workload


def _resolve(spec: str) -> tuple[str, dict[str, Any]]:
    if not spec.endswith(".toml"):
        return BUILT_IN.get(spec, spec), {}
    path = Path(spec)
    if not path.is_file():
        raise InputError(f"there is no workload file {spec!r}", hint=_HINT)
    try:
        table = tomllib.loads(read_text(path, most=2**20))
    except OSError as error:
        raise InputError(f"{spec!r} can't be read: {error.strerror}", hint="check the path") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{spec!r} is not TOML: {_first_line(error)}", hint="mend that line") from error
    target, arguments = table.get("workload"), table.get("arguments", {})
    if not isinstance(target, str) or not isinstance(arguments, dict):
        raise InputError(
            f"{spec!r} names no workload",
            limit='a line such as workload = "module:attribute"',
            hint="add that line, or see configs/alignn.toml",
        )
    return BUILT_IN.get(target, target), arguments


def _find(target: str, spec: str) -> Any:
    module, colon, attribute = target.partition(":")
    if not colon or not module or not attribute:
        raise InputError(f"{spec!r} is no workload", hint=_HINT)
    # A user's own file lies where they call from; console scripts do not look there by themselves.
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        found = importlib.import_module(module)
    except NodeBudgetError:
        raise
    except Exception as error:
        raise InputError(
            f"the workload's module {module!r} does not import: {type(error).__name__}: {_first_line(error)}",
            hint=_HINT,
        ) from error
    if not callable(getattr(found, attribute, None)):
        raise InputError(f"module {module!r} has no callable {attribute!r}", hint=_HINT)
    return getattr(found, attribute)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [""])[0][:200]
