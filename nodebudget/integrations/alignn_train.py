"""`train_alignn.py` within a budget: alignn's own run, with loaders whose batches fit the memory."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from nodebudget.analysis.allocator_overhead import with_overheads
from nodebudget.analysis.device_budget import DeviceBudget, device_budget
from nodebudget.calibration.calibrate import CalibrationConfig, calibrate
from nodebudget.calibration.memory_model import Calibration
from nodebudget.datasets.measure import measure
from nodebudget.datasets.size_table import SizeTable
from nodebudget.errors import DoesNotFitError, InputError, RecordError
from nodebudget.integrations.alignn import with_budget
from nodebudget.integrations.alignn_ranks import (
    from_first,
    is_first,
    launched,
    one_writer,
    smallest,
    start_processes,
)
from nodebudget.profiling.cpu import CpuProbe
from nodebudget.sampling.plan import Plan
from nodebudget.utils.byte_units import format_bytes, parse_bytes
from nodebudget.utils.optional_imports import installed, require
from nodebudget.workloads.alignn_inputs import check_inputs
from nodebudget.workloads.alignn_step import AlignnStep

#: Part of the host memory that is free at the start which a run on the CPU may take with "auto".
_CPU_SHARE = 0.8


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
        origin: "measured", "cached" or "given".
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
    calibration, origin = _calibration(config, model, train, sizes, training, device)
    buckets = 0
    if world_size > 1:
        buckets = _gradient_bytes(config, calibration)
        _check_gradients(config, model, train, device)
    memory, lines = _memory(training.memory, calibration, device, config.gpu_memory_fraction)
    memory = smallest(memory - buckets)
    made = with_budget(
        loaders, calibration=calibration, memory=memory, max_graphs=training.graphs_per_step, train_sizes=sizes
    )
    sampler, validation = made[0].batch_sampler, made[1].batch_sampler
    epoch = _first_epoch(config)
    sampler.set_epoch(epoch)
    _check_predictions(config, sampler)
    return made, TrainingBudget(calibration, origin, memory, lines, sampler.plan, validation.plan)


def _calibration(
    config: Any, model: Any, train: Any, sizes: SizeTable, training: AlignnTraining, device: torch.device
) -> tuple[Calibration, str]:
    """Return the calibration, and how it was come by; rank 0 measures, the others take its result."""
    if training.calibration is not None:
        return Calibration.load(training.calibration), "given"
    if not is_first():
        return from_first(None)
    path = Path(training.cache) / f"alignn-{_key(config, sizes, device)}.json"
    origin = "cached"
    try:
        calibration = Calibration.load(path)
    except RecordError:
        origin = "measured"
        calibration = _measured(config, model, train, sizes, training, device)
        path.parent.mkdir(parents=True, exist_ok=True)
        calibration.save(path, force=True)
    return from_first((calibration, origin))


def _measured(
    config: Any, model: Any, train: Any, sizes: SizeTable, training: AlignnTraining, device: torch.device
) -> Calibration:
    step = AlignnStep(config, deepcopy(model), device, train.collate_fn)
    try:
        calibration = calibrate(
            step, train.dataset, sizes, str(device), config=CalibrationConfig(probes=training.probes)
        )
        if device.type == "cuda":
            calibration = with_overheads(calibration, step, train.dataset, sizes, str(device))
        return calibration
    finally:
        step.close()
        del step
        if device.type == "cuda":
            torch.cuda.empty_cache()


def _key(config: Any, sizes: SizeTable, device: torch.device) -> str:
    """Return what a calibration of this run hangs on, as a short hash."""
    settings = {
        name: value
        for name, value in config.model_dump().items()
        if name
        in ("model", "dtype", "use_amp", "compute_line_graph", "optimizer", "criterion", "classification_threshold")
    }
    properties = torch.cuda.get_device_properties(device) if device.type == "cuda" else None
    where = "cpu" if properties is None else f"{properties.name}, {properties.total_memory}"
    versions = {name: installed(name) for name in ("torch", "dgl", "alignn", "nodebudget")}
    text = json.dumps([settings, where, versions, sizes.fingerprint()], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _memory(
    text: str, calibration: Calibration, device: torch.device, fraction: float | None
) -> tuple[int, DeviceBudget | None]:
    if text != "auto" and not text.strip().endswith("%"):
        return parse_bytes(text), None
    if device.type == "cuda":
        total = int(torch.cuda.get_device_properties(device).total_memory * min(1.0, fraction or 1.0))
        if text == "auto":
            lines = device_budget(total, calibration)
            return lines.memory, lines
    else:
        total = CpuProbe().free_bytes()
    share = _CPU_SHARE if text == "auto" else _share(text)
    return int(total * share), None


def _share(text: str) -> float:
    try:
        share = float(text.strip().rstrip("%")) / 100
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise InputError(f"--memory {text}", limit="auto, bytes such as 36GiB, or up to 100%", hint="give one of these")
    return share


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
