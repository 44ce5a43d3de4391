"""A calibrated budget in one line: the user's loader with batches that fill the memory."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.utils.data import DataLoader, Subset

from nodebudget.analysis.allocator_overhead import with_overheads
from nodebudget.analysis.step_memory import memory_at_hand, step_memory
from nodebudget.calibration.calibrate import CalibrationConfig, calibrate
from nodebudget.calibration.calibration_cache import CalibrationCache, describe_use
from nodebudget.calibration.memory_model import Calibration
from nodebudget.datasets.counting.graph import is_graph
from nodebudget.datasets.size_table import SizeTable
from nodebudget.errors import CrystalError, InputError
from nodebudget.integrations.advancing import AdvancingSampler
from nodebudget.integrations.auto_messages import errors_of, learning_rate_lines, plan_line, say
from nodebudget.integrations.loader_copy import drawn_by, with_batch_sampler
from nodebudget.integrations.rank_exchange import RankExchange, RanksProbe
from nodebudget.integrations.snapshot import unchanged
from nodebudget.profiling.cuda import use_expandable_segments
from nodebudget.profiling.open import open_probe
from nodebudget.utils.checks import check_count
from nodebudget.utils.distributed import from_first_rank, is_first_rank, of_all_ranks
from nodebudget.utils.optional_imports import require
from nodebudget.workloads.sample_sizes import measure_samples
from nodebudget.workloads.user_step import StepWorkload

#: Probes end early once the 99% prediction interval is narrower than this fraction of the bytes.
_SETTLED = 0.01

#: Part of the memory that larger probes go up to on the CPU, where a step that takes too much ends the process.
_CPU_REACH = 0.25

#: Entry of a record's context: the bytes that "auto" or a share was when it was made.
_AT_HAND = "memory_at_hand"

#: Maximum number of graphs in the first probes.
_FIRST_GRAPHS = 32


@dataclass(frozen=True)
class AutoOptions:
    """Rarely needed arguments of `auto_loader`.

    Attributes:
        sizes: Sizes of the dataset, one row per sample; or a function of a sample that returns its sizes by name
            (`{"nodes": …, "edges": …}`), for samples that are not graphs. None counts graphs.
        pack: "balanced", "dense" or "sequential", as `NodeBudgetSampler` takes it; None: balanced where the loader
            shuffles, else sequential, in the dataset's order.
        shuffle: None: as the loader does; a dataset is shuffled.
        seed: Random seed of the batches.
        oversized: What happens to a graph over the budget: "raise", "skip" or "alone".
        probes: Maximum number of steps to fit to and to check on.
        accept_error: Make budgets of a calibration, too, that is over 5% off on held-out steps with little noise.
    """

    sizes: SizeTable | Callable[[Any], Mapping[str, float]] | None = None
    pack: str | None = None
    shuffle: bool | None = None
    seed: int = 0
    oversized: str = "raise"
    probes: int = 24
    accept_error: bool = False


def auto_loader(
    loader_or_dataset: Any,
    step: Callable[[Any], object],
    *,
    model: torch.nn.Module | None = None,
    optimizer: Any = None,
    memory: int | str = "auto",
    graphs_per_step: int | None = None,
    restore: Iterable[Any] = (),
    cache: str | None = ".nodebudget",
    collate_fn: Callable[[list[Any]], Any] | None = None,
    options: AutoOptions | None = None,
) -> Any:
    """Return the loader with batches that fill the memory: its own dataset, collate function and workers.

    Measures the dataset, and steps of `step` on batches of it: what they change is put back. Then plans batches whose
    steps all take nearly the same memory, within `memory`. Three lines in the log say what was found.

    ::

        loader = auto_loader(loader, step, model=model, optimizer=optimizer)
        for epoch in range(100):
            for batch in loader:      # other batches in every epoch; no set_epoch
                step(batch)

    `loader.batch_sampler` is an `AdvancingSampler`; its `state_dict` and `load_state_dict` resume in the middle of an
    epoch. Under torch.distributed call it on every rank: all calibrate in step, the rank with the least memory decides.

    Args:
        loader_or_dataset: A torch `DataLoader`, or one of DGL or PyTorch Geometric, that draws every sample of its
            dataset (or of a subset) once. Or a dataset, for which a loader is made.
        step: Trains on a batch of the loader: zero the gradients, forward, backward, optimizer. Or predicts.
        model: The model that it trains, on its device.
        optimizer: Its optimizer, or several; None for a step that only predicts.
        memory: Bytes that a run may take: "auto" (what the device has; on the CPU, 80% of the host memory that is
            free), a share of that such as "50%", or bytes such as "36GiB".
        graphs_per_step: Effective batch size, over all ranks. None: as many graphs as fit.
        restore: What else the step changes: schedulers, gradient scalers, averaged weights.
        cache: Folder that keeps calibrations. A run with the same model, settings, device, versions and graphs
            measures nothing. None keeps none.
        collate_fn: Samples to batch, for a dataset.
        options: Rarely needed arguments.

    Raises:
        InputError: The loader draws samples otherwise, a sample can't be counted, or an argument is not valid.
        DoesNotFitError: Not even a small step fits, or `memory` is less than a step takes without any graph.
        OversizedError: A graph is over the budget, and `options.oversized` is "raise".
        WorkloadError: `step` raised.
    """
    options = options or AutoOptions()
    if model is None:
        raise InputError("auto_loader without a model", hint="pass model=…: its weights are put back after calibrating")
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    at_hand = memory_at_hand(memory, device)
    use_expandable_segments(device)
    if graphs_per_step is not None:
        graphs_per_step = check_count("graphs_per_step", graphs_per_step, 1)
    loader = _as_loader(loader_or_dataset, collate_fn, options)
    indices, shuffled = drawn_by(loader)
    optimizers = optimizers_of(optimizer)
    sizes_of = options.sizes if callable(options.sizes) else None
    ranks = len(of_all_ranks(None))
    is_parallel = type(model).__name__ == "DistributedDataParallel"
    exchange = RankExchange(model, optimizers) if ranks > 1 and is_parallel else None
    guarded = step if exchange is None else functools.partial(exchange.run, step)
    workload = StepWorkload(model, optimizers, loader.collate_fn, guarded, sizes_of)
    per_rank = None if graphs_per_step is None else -(-graphs_per_step // ranks)
    generators = [
        value for value in (loader.generator, getattr(loader.sampler, "generator", None)) if value is not None
    ]
    with unchanged([model], optimizers, [*restore, *generators], device):
        sizes = _sizes(workload, loader.dataset, indices, options)
        run = _Run(workload, optimizers, step, loader, device, cache, options)
        calibration, said = run.calibration(sizes, indices, (memory, at_hand), per_rank)
    calibration = calibration.accept_error(options.accept_error)
    before = calibration.context.get(_AT_HAND, {}).get(str(memory), 0)
    if device.type != "cuda" and 0 < before <= memory_at_hand("100%", device):
        # What is free differs from start to start; a run that goes on needs the plan that it had.
        memory = at_hand = before
    bytes_, lines = step_memory(memory, calibration, device)
    bytes_ = min(of_all_ranks(bytes_))
    shuffle = shuffled if options.shuffle is None else options.shuffle
    sampler = AdvancingSampler(
        sizes,
        calibration=calibration,
        memory=bytes_,
        graphs_per_step=graphs_per_step,
        shuffle=shuffle,
        seed=options.seed,
        oversized=options.oversized,
        pack=options.pack or ("balanced" if shuffle else "sequential"),
    )
    if is_first_rank():
        advice = [] if graphs_per_step is not None else learning_rate_lines(sampler, loader.batch_size)
        say([said, plan_line(sampler, at_hand, lines), *advice])
    return with_batch_sampler(loader, sampler)


def _as_loader(data: Any, collate_fn: Callable[[list[Any]], Any] | None, options: AutoOptions) -> DataLoader[Any]:
    if isinstance(data, DataLoader):
        if collate_fn is not None:
            raise InputError("collate_fn with a loader, which has its own", hint="leave collate_fn out")
        return data
    if not hasattr(data, "__len__") or not hasattr(data, "__getitem__"):
        raise InputError(f"a {type(data).__name__} is neither a loader nor a dataset", hint="pass a DataLoader")
    if not len(data):
        raise InputError("the dataset is empty", hint="give one with one graph or more")
    shuffle = True if options.shuffle is None else options.shuffle
    if collate_fn is not None:
        return DataLoader(data, shuffle=shuffle, collate_fn=collate_fn)
    first = data[0][0] if isinstance(data[0], (tuple, list)) and len(data[0]) else data[0]
    if is_graph(first) and hasattr(first, "in_degrees"):
        return require("dgl.dataloading").GraphDataLoader(data, shuffle=shuffle)  # type: ignore[no-any-return]
    if is_graph(first) and hasattr(first, "edge_index"):
        return require("torch_geometric.loader").DataLoader(data, shuffle=shuffle)  # type: ignore[no-any-return]
    return DataLoader(data, shuffle=shuffle)


def optimizers_of(optimizer: Any) -> tuple[Any, ...]:
    """Return one optimizer, several or none as a tuple; raise an InputError over something else."""
    given = () if optimizer is None else tuple(optimizer) if isinstance(optimizer, (list, tuple)) else (optimizer,)
    for one in given:
        if not hasattr(one, "param_groups") or not hasattr(one, "state"):
            raise InputError(f"a {type(one).__name__} as optimizer", hint="pass the torch.optim.Optimizer of the step")
    # accelerate's prepared optimizer has the one that torch knows inside.
    return tuple(getattr(one, "optimizer", one) for one in given)


def _sizes(workload: StepWorkload, dataset: Any, indices: Sequence[int] | None, options: AutoOptions) -> SizeTable:
    """Return the sizes of the samples that the loader draws; their settings name the samples' places."""
    drawn = dataset if indices is None else Subset(dataset, indices)
    if not isinstance(options.sizes, SizeTable):
        sizes = from_first_rank(lambda: _measured_sizes(workload, drawn))
    else:
        sizes = options.sizes
        if len(sizes) != len(dataset):
            raise InputError(
                f"{len(sizes)} sizes for a dataset of {len(dataset)}", hint="give one row per sample of the dataset"
            )
        sizes = sizes if indices is None else sizes.take(indices)
    if indices is not None:
        sizes = SizeTable(sizes.columns, sizes.ids, {**sizes.settings, "indices": list(indices)})
    return sizes


def _measured_sizes(workload: StepWorkload, drawn: Any) -> SizeTable:
    try:
        return measure_samples(workload, drawn)
    except CrystalError as error:
        raise InputError(
            f"sample {error.index} of the dataset can't be counted: {error.reason}",
            limit="graphs of DGL or PyTorch Geometric, tuples that start with one, or crystals",
            hint="pass options=AutoOptions(sizes=…): a table, or a function that returns {'nodes': …} for a sample",
        ) from error


@dataclass(frozen=True)
class _Run:
    """What is calibrated."""

    workload: StepWorkload
    optimizers: tuple[Any, ...]
    step: Callable[[Any], object]
    loader: DataLoader[Any]
    device: torch.device
    cache: str | None
    options: AutoOptions

    def calibration(
        self, sizes: SizeTable, indices: Sequence[int] | None, memory: tuple[int | str, int], max_graphs: int | None
    ) -> tuple[Calibration, str]:
        """Return the calibration, from the cache or measured, and a line that says which.

        `memory` is what the user named, and the bytes that this is now.
        """
        probe = open_probe(str(self.device))
        functions = {"step": self.step, "collate function": self.loader.collate_fn}
        cache = CalibrationCache(self.cache, describe_use(self.workload, self.optimizers, functions, probe, sizes))
        cached, reason = from_first_rank(cache.load)
        if cached is not None:
            return cached, f"calibration from {self.cache}: {errors_of(cached)}"
        started = time.perf_counter()
        dataset = self.loader.dataset if indices is None else Subset(self.loader.dataset, indices)
        calibration = self._measured(dataset, sizes, memory[1], max_graphs)
        at_hand = {str(memory[0]): memory[1]}
        calibration = replace(calibration, context={**calibration.context, _AT_HAND: at_hand})
        seconds, steps = time.perf_counter() - started, len(calibration.observations)
        calibration, problem = from_first_rank(lambda: cache.save(calibration))
        reason += f"; not kept: {problem}" if problem else ""
        return calibration, f"calibrated with {steps} steps in {seconds:.1f} s ({reason}): {errors_of(calibration)}"

    def _measured(self, dataset: Any, sizes: SizeTable, memory: int, max_graphs: int | None) -> Calibration:
        batch_size = max(4, self.loader.batch_size or 1, min(max_graphs or 1, _FIRST_GRAPHS))
        config = CalibrationConfig(
            probes=self.options.probes,
            max_graphs=min(_FIRST_GRAPHS, batch_size),
            variants=False,
            settle=_SETTLED,
            reach=int(memory * (1.0 if self.device.type == "cuda" else _CPU_REACH)),
            reach_graphs=max_graphs,
        )
        before = _versions(self.workload.model)
        probe = open_probe(str(self.device))
        calibration = calibrate(
            self.workload, dataset, sizes, RanksProbe(probe) if len(of_all_ranks(None)) > 1 else probe, config=config
        )
        if not self.optimizers and _versions(self.workload.model) != before:
            raise InputError(
                "the step changed weights of the model, and no optimizer was given",
                hint="pass optimizer=…, whose state is put back after calibrating",
            )
        if self.device.type == "cuda":
            bytes_, _ = step_memory(memory, calibration, self.device)
            calibration = with_overheads(
                calibration.accept_error(self.options.accept_error),
                *(self.workload, dataset, sizes, str(self.device)),
                memory=bytes_,
                max_graphs=max_graphs,
            )
            torch.cuda.empty_cache()
        return calibration


def _versions(model: torch.nn.Module) -> list[int]:
    return [parameter._version for parameter in model.parameters()]
