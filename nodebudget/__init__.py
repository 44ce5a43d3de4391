"""Constant GPU memory when training neural networks on crystal graphs."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from nodebudget.utils.after_import import after_import
from nodebudget.utils.version import __version__

#: Public names and where they live; loaded on first use, so that importing nodebudget loads neither torch
#: nor dgl.
_HOMES = {
    "AutoOptions": "nodebudget.integrations.auto_loader",
    "Budget": "nodebudget.sampling.budget",
    "Calibration": "nodebudget.calibration.memory_model",
    "CalibrationConfig": "nodebudget.calibration.calibrate",
    "CrystalError": "nodebudget.errors",
    "DoesNotFitError": "nodebudget.errors",
    "GraphSettings": "nodebudget.datasets.graph_settings",
    "InputError": "nodebudget.errors",
    "MeasureOptions": "nodebudget.datasets.measure",
    "Mixture": "nodebudget.sampling.mixture",
    "MemoryMonitor": "nodebudget.monitor.monitor",
    "MissingError": "nodebudget.errors",
    "NodeBudgetBatcher": "nodebudget.sampling.stream_batcher",
    "NodeBudgetError": "nodebudget.errors",
    "NodeBudgetSampler": "nodebudget.sampling.sampler",
    "OversizedError": "nodebudget.errors",
    "Plan": "nodebudget.sampling.plan",
    "ReadLimits": "nodebudget.datasets.read_limits",
    "RecordError": "nodebudget.errors",
    "SizeTable": "nodebudget.datasets.size_table",
    "TimeModel": "nodebudget.calibration.time_model",
    "TokenCounter": "nodebudget.datasets.counting.tokens",
    "TuneConfig": "nodebudget.analysis.tune",
    "Variant": "nodebudget.workloads.protocol",
    "Workload": "nodebudget.workloads.protocol",
    "WorkloadError": "nodebudget.errors",
    "advise_learning_rate": "nodebudget.analysis.equivalent_batch_size",
    "auto_loader": "nodebudget.integrations.auto_loader",
    "break_down": "nodebudget.analysis.breakdown",
    "calibrate": "nodebudget.calibration.calibrate",
    "calibrate_static": "nodebudget.analysis.static_step",
    "capture_step": "nodebudget.workloads.capture",
    "check_applicable": "nodebudget.calibration.compatibility",
    "check_padding": "nodebudget.workloads.padding.model_check",
    "choose_batches": "nodebudget.analysis.breakdown",
    "compare": "nodebudget.analysis.dataset_comparison",
    "device_budget": "nodebudget.analysis.device_budget",
    "diagnose": "nodebudget.analysis.run_diff.diff",
    "example_datasets": "nodebudget.datasets.example_crystals",
    "largest_safe_batch_size": "nodebudget.analysis.safe_batch_size",
    "load_workload": "nodebudget.workloads.registry",
    "make_plan": "nodebudget.sampling.planner",
    "measure": "nodebudget.datasets.measure",
    "measure_samples": "nodebudget.workloads.sample_sizes",
    "mix": "nodebudget.sampling.mixture",
    "oom_guard": "nodebudget.monitor.oom",
    "open_data": "nodebudget.datasets.readers.open_dataset",
    "open_probe": "nodebudget.profiling.open",
    "pad_batch": "nodebudget.workloads.padding.pad_batch",
    "read_run": "nodebudget.monitor.log_reader",
    "read_run_config": "nodebudget.analysis.run_diff.runs",
    "run_steps": "nodebudget.integrations.run_steps",
    "run_with_split": "nodebudget.monitor.oom",
    "squares": "nodebudget.datasets.counting.columns",
    "static_collate": "nodebudget.workloads.padding.pad_batch",
    "suggest_batch_size": "nodebudget.analysis.equivalent_batch_size",
    "triplets": "nodebudget.datasets.counting.columns",
    "tune": "nodebudget.analysis.tune",
}

__all__ = [*_HOMES, "__version__"]

if TYPE_CHECKING:
    from nodebudget.analysis.breakdown import break_down as break_down
    from nodebudget.analysis.breakdown import choose_batches as choose_batches
    from nodebudget.analysis.dataset_comparison import compare as compare
    from nodebudget.analysis.device_budget import device_budget as device_budget
    from nodebudget.analysis.equivalent_batch_size import advise_learning_rate as advise_learning_rate
    from nodebudget.analysis.equivalent_batch_size import suggest_batch_size as suggest_batch_size
    from nodebudget.analysis.run_diff.diff import diagnose as diagnose
    from nodebudget.analysis.run_diff.runs import read_run_config as read_run_config
    from nodebudget.analysis.safe_batch_size import largest_safe_batch_size as largest_safe_batch_size
    from nodebudget.analysis.static_step import calibrate_static as calibrate_static
    from nodebudget.analysis.tune import TuneConfig as TuneConfig
    from nodebudget.analysis.tune import tune as tune
    from nodebudget.calibration.calibrate import CalibrationConfig as CalibrationConfig
    from nodebudget.calibration.calibrate import calibrate as calibrate
    from nodebudget.calibration.compatibility import check_applicable as check_applicable
    from nodebudget.calibration.memory_model import Calibration as Calibration
    from nodebudget.calibration.time_model import TimeModel as TimeModel
    from nodebudget.datasets.counting.columns import squares as squares
    from nodebudget.datasets.counting.columns import triplets as triplets
    from nodebudget.datasets.counting.tokens import TokenCounter as TokenCounter
    from nodebudget.datasets.example_crystals import example_datasets as example_datasets
    from nodebudget.datasets.graph_settings import GraphSettings as GraphSettings
    from nodebudget.datasets.measure import MeasureOptions as MeasureOptions
    from nodebudget.datasets.measure import measure as measure
    from nodebudget.datasets.read_limits import ReadLimits as ReadLimits
    from nodebudget.datasets.readers.open_dataset import open_data as open_data
    from nodebudget.datasets.size_table import SizeTable as SizeTable
    from nodebudget.errors import CrystalError as CrystalError
    from nodebudget.errors import DoesNotFitError as DoesNotFitError
    from nodebudget.errors import InputError as InputError
    from nodebudget.errors import MissingError as MissingError
    from nodebudget.errors import NodeBudgetError as NodeBudgetError
    from nodebudget.errors import OversizedError as OversizedError
    from nodebudget.errors import RecordError as RecordError
    from nodebudget.errors import WorkloadError as WorkloadError
    from nodebudget.integrations.auto_loader import AutoOptions as AutoOptions
    from nodebudget.integrations.auto_loader import auto_loader as auto_loader
    from nodebudget.integrations.run_steps import run_steps as run_steps
    from nodebudget.monitor.log_reader import read_run as read_run
    from nodebudget.monitor.monitor import MemoryMonitor as MemoryMonitor
    from nodebudget.monitor.oom import oom_guard as oom_guard
    from nodebudget.monitor.oom import run_with_split as run_with_split
    from nodebudget.profiling.open import open_probe as open_probe
    from nodebudget.sampling.budget import Budget as Budget
    from nodebudget.sampling.mixture import Mixture as Mixture
    from nodebudget.sampling.mixture import mix as mix
    from nodebudget.sampling.plan import Plan as Plan
    from nodebudget.sampling.planner import make_plan as make_plan
    from nodebudget.sampling.sampler import NodeBudgetSampler as NodeBudgetSampler
    from nodebudget.sampling.stream_batcher import NodeBudgetBatcher as NodeBudgetBatcher
    from nodebudget.workloads.capture import capture_step as capture_step
    from nodebudget.workloads.padding.model_check import check_padding as check_padding
    from nodebudget.workloads.padding.pad_batch import pad_batch as pad_batch
    from nodebudget.workloads.padding.pad_batch import static_collate as static_collate
    from nodebudget.workloads.protocol import Variant as Variant
    from nodebudget.workloads.protocol import Workload as Workload
    from nodebudget.workloads.registry import load_workload as load_workload
    from nodebudget.workloads.sample_sizes import measure_samples as measure_samples

#: Modules of frameworks whose loaders or loops would undo a batch sampler, and what keeps it as it is.
_ADAPTERS = {
    **{
        f"{package}.{module}": ("nodebudget.integrations.lightning_loops", name)
        for package in ("lightning.pytorch", "pytorch_lightning")
        for module, name in (
            ("loops.fit_loop", "keep_samplers"),
            ("trainer.connectors.data_connector", "keep_loaders"),
        )
    },
    "accelerate.data_loader": ("nodebudget.integrations.accelerate", "keep_whole"),
    "torchdata.stateful_dataloader.stateful_dataloader": ("nodebudget.integrations.torchdata", "load_at_once"),
}


def _adapt(framework: Any) -> None:
    module, name = _ADAPTERS[framework.__name__]
    getattr(importlib.import_module(module), name)(framework)


for _name in _ADAPTERS:
    after_import(_name, _adapt)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'nodebudget' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
