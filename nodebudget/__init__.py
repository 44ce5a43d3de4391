"""Constant GPU memory when training neural networks on crystal graphs."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

#: Public names and where they live; loaded on first use, so that importing nodebudget loads neither torch
#: nor dgl.
_HOMES = {
    "SizeTable": "nodebudget.sizes",
    "Calibration": "nodebudget.costmodel",
    "Plan": "nodebudget.plan",
    "NodeBudgetSampler": "nodebudget.sampler",
    "NodeBudgetBatcher": "nodebudget.batcher",
    "suggest_batch_size": "nodebudget.suggest",
    "largest_safe_batch_size": "nodebudget.suggest",
    "MemoryMonitor": "nodebudget.monitor",
    "NodeBudgetError": "nodebudget.errors",
}

__all__ = [*_HOMES, "__version__"]

if TYPE_CHECKING:
    from nodebudget.batcher import NodeBudgetBatcher as NodeBudgetBatcher
    from nodebudget.costmodel import Calibration as Calibration
    from nodebudget.errors import NodeBudgetError as NodeBudgetError
    from nodebudget.monitor import MemoryMonitor as MemoryMonitor
    from nodebudget.plan import Plan as Plan
    from nodebudget.sampler import NodeBudgetSampler as NodeBudgetSampler
    from nodebudget.sizes import SizeTable as SizeTable
    from nodebudget.suggest import largest_safe_batch_size as largest_safe_batch_size
    from nodebudget.suggest import suggest_batch_size as suggest_batch_size


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'nodebudget' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
