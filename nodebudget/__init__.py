"""Constant GPU memory when training neural networks on crystal graphs."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from nodebudget.utils.version import __version__

#: Public names and where they live; loaded on first use, so that importing nodebudget loads neither torch
#: nor dgl.
_HOMES = {
    "Budget": "nodebudget.sampling.budget",
    "Calibration": "nodebudget.calibration.memory_model",
    "GraphSettings": "nodebudget.datasets.graph_settings",
    "MemoryMonitor": "nodebudget.monitor.monitor",
    "NodeBudgetBatcher": "nodebudget.sampling.stream_batcher",
    "NodeBudgetError": "nodebudget.errors",
    "NodeBudgetSampler": "nodebudget.sampling.sampler",
    "Plan": "nodebudget.sampling.plan",
    "SizeTable": "nodebudget.datasets.size_table",
    "calibrate": "nodebudget.calibration.calibrate",
    "largest_safe_batch_size": "nodebudget.analysis.safe_batch_size",
    "load_workload": "nodebudget.workloads.registry",
    "make_plan": "nodebudget.sampling.planner",
    "measure": "nodebudget.datasets.measure",
    "oom_guard": "nodebudget.monitor.oom",
    "open_data": "nodebudget.datasets.readers.open_dataset",
    "suggest_batch_size": "nodebudget.analysis.equivalent_batch_size",
}

__all__ = [*_HOMES, "__version__"]

if TYPE_CHECKING:
    from nodebudget.analysis.equivalent_batch_size import suggest_batch_size as suggest_batch_size
    from nodebudget.analysis.safe_batch_size import largest_safe_batch_size as largest_safe_batch_size
    from nodebudget.calibration.calibrate import calibrate as calibrate
    from nodebudget.calibration.memory_model import Calibration as Calibration
    from nodebudget.datasets.graph_settings import GraphSettings as GraphSettings
    from nodebudget.datasets.measure import measure as measure
    from nodebudget.datasets.readers.open_dataset import open_data as open_data
    from nodebudget.datasets.size_table import SizeTable as SizeTable
    from nodebudget.errors import NodeBudgetError as NodeBudgetError
    from nodebudget.monitor.monitor import MemoryMonitor as MemoryMonitor
    from nodebudget.monitor.oom import oom_guard as oom_guard
    from nodebudget.sampling.budget import Budget as Budget
    from nodebudget.sampling.plan import Plan as Plan
    from nodebudget.sampling.planner import make_plan as make_plan
    from nodebudget.sampling.sampler import NodeBudgetSampler as NodeBudgetSampler
    from nodebudget.sampling.stream_batcher import NodeBudgetBatcher as NodeBudgetBatcher
    from nodebudget.workloads.registry import load_workload as load_workload


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'nodebudget' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
