"""`train_alignn.py` within a budget: alignn's own run, with loaders whose batches fit the memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from nodebudget.analysis.allocator_overhead import with_overheads
from nodebudget.analysis.device_budget import DeviceBudget
from nodebudget.analysis.step_memory import step_memory
from nodebudget.calibration.calibrate import CalibrationConfig, calibrate
from nodebudget.calibration.calibration_cache import CalibrationCache
from nodebudget.calibration.compatibility import graph_settings_of
from nodebudget.calibration.memory_model import Calibration
from nodebudget.datasets.graph_settings import GraphSettings
from nodebudget.datasets.measure import measure
from nodebudget.datasets.size_table import SizeTable
from nodebudget.errors import DoesNotFitError, InputError, RecordError
from nodebudget.integrations.alignn import with_budget
from nodebudget.integrations.alignn_ranks import launched, one_writer, start_processes
from nodebudget.profiling.cuda_allocator.allocator import allocator_settings
from nodebudget.sampling.plan import Plan
from nodebudget.utils.byte_units import format_bytes
from nodebudget.utils.distributed import from_first_rank, of_all_ranks
from nodebudget.utils.optional_imports import installed, require
from nodebudget.workloads.alignn_inputs import check_inputs
from nodebudget.workloads.alignn_step import AlignnStep, step_settings


@dataclass(frozen=True)
class AlignnTraining:
    """What `nodebudget train-alignn` is called with.

    Attributes:
        root_dir: alignn's `--root_dir`.
        config_name: alignn's `--config_name`.
        memory: What a step may take: "auto" (what the device leaves), bytes ("36GiB") or a share ("80%").
        graphs_per_step: Maximum number of graphs per batch, and so per optimizer step; None: as many as fit.
        calibration: A record of `nodebudget calibrate --alignn-config`; None: calibrate before the first epoch.
        cache: Folder that keeps calibrations for the next run.
        probes: Training steps to calibrate with.
        backend: Backend of torch.distributed.
        alignn: Further arguments of alignn's `train_for_folder`.
    """

    root_dir: str
    config_name: str
    memory: str = "auto"
    graphs_per_step: int | None = None
    calibration: str | None = None
    cache: str = ".nodebudget"
    probes: int = 18
    backend: str = "nccl"
    alignn: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TrainingBudget:
    """What was found before the first epoch.

    Attributes:
        calibration: Memory model of the run's training step.
        origin: "given", "cached", or "measured: " and why no calibration that was kept fits.
        memory: Bytes that a step may take.
        device: Lines from the memory of the device to `memory`; None where bytes were given.
        plan: The training batches of the first epoch.
        validation: The validation batches.
    """

    calibration: Calibration
    origin: str
    memory: int
    device: DeviceBudget | None
    plan: Plan
    validation: Plan


def train_alignn(training: AlignnTraining, announce: Callable[[TrainingBudget], object]) -> None:
    """Run `train_alignn.py` with budgeted training and validation loaders.

    Several GPUs are used as alignn uses them (one process per GPU, started here), or as torchrun or Slurm started this
    process.

    Args:
        training: What to run.
        announce: Called on rank 0 with what was found, before the first epoch; picklable where this starts processes.

    Raises:
        InputError: The config or the data is not what alignn takes.
        DoesNotFitError: A crystal, or `graphs_per_step` mean crystals, does not fit.
        MissingError: alignn is not installed.
    """
    check_inputs(training.root_dir, training.config_name, training.alignn)
    rank, world_size = launched()
    if world_size is not None:
        _train(rank, world_size, training, announce)
    elif torch.cuda.device_count() > 1:
        start_processes(_train, torch.cuda.device_count(), training, announce)
    else:
        _train(0, torch.cuda.device_count(), training, announce)


def _train(rank: int, world_size: int, training: AlignnTraining, announce: Callable[[TrainingBudget], object]) -> None:
    """Run one rank: alignn's `train_for_folder`, whose loaders are replaced where it calls `train_dgl`."""
    module = require("alignn.train_alignn")
    train_dgl, init = module.train_dgl, module.dist.init_process_group

    def budgeted(config: Any, model: Any = None, train_val_test_loaders: Sequence[Any] = (), **ranks: Any) -> Any:
        loaders, budget = _with_budget(config, model, train_val_test_loaders, training, world_size)
        if rank == 0:
            announce(budget)
        return train_dgl(config, model=model, train_val_test_loaders=loaders, **ranks)

    def init_process_group(backend: str, **named: Any) -> Any:
        return init(training.backend, **named)

    with (
        patch.object(module, "train_dgl", budgeted),
        patch.object(module.dist, "init_process_group", init_process_group),
        one_writer(rank, world_size),
    ):
        module.train_for_folder(
            rank, world_size, root_dir=training.root_dir, config_name=training.config_name, **training.alignn
        )
    module.cleanup(world_size)


def _with_budget(
    config: Any, model: Any, loaders: Sequence[Any], training: AlignnTraining, world_size: int
) -> tuple[list[Any], TrainingBudget]:
    train = loaders[0]
    device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
    sizes = measure(train.dataset)
    calibration, origin = from_first_rank(lambda: _calibration(config, model, train, sizes, training, device))
    buckets = 0
    if world_size > 1:
        buckets = _gradient_bytes(config, calibration)
        _check_gradients(config, model, train, device)
    available, lines = step_memory(_named_memory(training.memory, config, device), calibration, device)
    memory = min(of_all_ranks(available - buckets))
    made = with_budget(
        loaders, calibration=calibration, memory=memory, max_graphs=training.graphs_per_step, train_sizes=sizes
    )
    sampler, validation = made[0].batch_sampler, made[1].batch_sampler
    epoch = _first_epoch(config)
    sampler.set_epoch(epoch)
    _check_predictions(config, sampler)
    return made, TrainingBudget(calibration, origin, memory, lines, sampler.plan, validation.plan)


def _named_memory(memory: str, config: Any, device: torch.device) -> str:
    """Return what the user named, or the share that alignn gives PyTorch by `gpu_memory_fraction`."""
    fraction = config.gpu_memory_fraction
    if memory != "auto" or fraction is None or device.type != "cuda":
        return memory
    return f"{100 * min(1.0, fraction):g}%"


def _calibration(
    config: Any, model: Any, train: Any, sizes: SizeTable, training: AlignnTraining, device: torch.device
) -> tuple[Calibration, str]:
    """Return the calibration, and how it was come by."""
    if training.calibration is not None:
        return _given(training.calibration, config), "given"
    cache = CalibrationCache(training.cache, _made_for(config, sizes, device))
    calibration, reason = cache.load()
    if calibration is not None:
        return calibration, "cached"
    calibration, problem = cache.save(_measured(config, model, train, sizes, training, device))
    return calibration, "measured: " + ", ".join(filter(None, [reason, problem]))


def _given(path: str, config: Any) -> Calibration:
    """Read a calibration, and refuse one of another run."""
    calibration = Calibration.load(path)
    recorded = calibration.context.get("model", {}).get("config") or {}
    settings = step_settings(config)
    graphs = graph_settings_of(calibration)
    wanted = GraphSettings.from_alignn_config(config.model_dump())
    changes = [
        f"{name} was {recorded.get(name)}, is {value}"
        for name, value in settings.items()
        if recorded.get(name) != value
    ]
    if graphs is not None and graphs != wanted:
        then, now = graphs.to_dict(), wanted.to_dict()
        changes += [f"{name} was {then[name]}, is {now[name]}" for name in now if then.get(name) != now[name]]
    if changes:
        raise RecordError(
            f"{path!r} is a calibration of another run: {', '.join(changes[:4])}",
            hint="leave --calibration out to calibrate this run, or use: nodebudget calibrate --alignn-config",
        )
    return calibration


def _measured(
    config: Any, model: Any, train: Any, sizes: SizeTable, training: AlignnTraining, device: torch.device
) -> Calibration:
    step = AlignnStep(config, deepcopy(model), device, train.collate_fn)
    try:
        calibration = calibrate(
            step, train.dataset, sizes, str(device), config=CalibrationConfig(probes=training.probes)
        )
        if device.type == "cuda":
            memory, _ = step_memory(_named_memory(training.memory, config, device), calibration, device)
            calibration = with_overheads(
                *(calibration, step, train.dataset, sizes, str(device)),
                memory=memory,
                max_graphs=training.graphs_per_step,
            )
        return calibration
    finally:
        step.close()
        del step
        if device.type == "cuda":
            torch.cuda.empty_cache()


def _made_for(config: Any, sizes: SizeTable, device: torch.device) -> dict[str, Any]:
    """Return what a calibration of this run depends on, by the name that a user knows it by."""
    properties = torch.cuda.get_device_properties(device) if device.type == "cuda" else None
    return {
        "model": config.model.name,
        **step_settings(config),
        "device": "cpu" if properties is None else properties.name,
        "memory of the device": None if properties is None else properties.total_memory,
        "allocator": allocator_settings(),
        **{f"version of {name}": installed(name) for name in ("torch", "dgl", "alignn", "nodebudget")},
        "number of graphs": len(sizes),
        "sizes of the graphs": sizes.fingerprint()[:16],
    }


def _check_gradients(config: Any, model: Any, train: Any, device: torch.device) -> None:
    """Refuse what DistributedDataParallel stops at in the second step: parameters that get no gradient."""
    if config.ddp_find_unused_parameters:
        return
    step = AlignnStep(config, deepcopy(model), device, train.collate_fn)
    try:
        step.step(step.batch([train.dataset[index] for index in range(min(2, len(train.dataset)))]))
        unused = [name for name, value in step.model.named_parameters() if value.requires_grad and value.grad is None]
    finally:
        step.close()
    if unused:
        raise InputError(
            f"{len(unused)} parameters of the model get no gradient, such as {unused[0]}",
            limit="DistributedDataParallel expects one for each",
            hint='set "ddp_find_unused_parameters": true in the config',
        )


def _gradient_bytes(config: Any, calibration: Calibration) -> int:
    """Bytes of the buckets in which DDP sums gradients: as many as the parameters."""
    parameters = int(calibration.context.get("model", {}).get("parameters", 0))
    return parameters * (8 if config.dtype == "float64" else 4)


def _first_epoch(config: Any) -> int:
    """Return the epoch that alignn goes on with, as `train_dgl` reads it."""
    path = Path(config.output_dir) / "current_state.pt"
    if not config.resume_checkpoint or not path.exists():
        return 0
    return int(torch.load(path, map_location="cpu")["epoch"])


def _check_predictions(config: Any, sampler: Any) -> None:
    """Refuse what alignn's loop would fail on after the last epoch, when it writes the training set's predictions."""
    writes = config.write_predictions and config.classification_threshold is None
    if not writes or config.model.output_features != 1 or getattr(config.model, "gradwise_weight", 0.0) != 0:
        return
    plan = sampler.plan
    lone = int((plan.graphs == 1).sum())
    if lone:
        raise DoesNotFitError(
            f"{lone} of {len(plan)} training batches hold a single graph, on which alignn fails after the last epoch "
            "when it writes predictions",
            limit=f"a step may take {format_bytes(plan.config.budget.memory)}",
            hint="give more memory, or set write_predictions to false in the config",
        )
