"""The whole way on crystals that come with pymatgen: measure, calibrate, plan, train, compare. Writes no files."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from nodebudget.calibration.calibrate import CalibrationConfig, calibrate
from nodebudget.calibration.memory_model import Calibration
from nodebudget.datasets.example_crystals import example_datasets
from nodebudget.datasets.measure import measure
from nodebudget.datasets.size_table import SizeTable
from nodebudget.errors import InputError, MissingError
from nodebudget.profiling.open import open_probe
from nodebudget.profiling.probe import Probe
from nodebudget.sampling.sampler import NodeBudgetSampler
from nodebudget.utils.optional_imports import check_dgl_on, load_dgl
from nodebudget.workloads.protocol import Workload, to_sample
from nodebudget.workloads.registry import load_workload

Progress = Callable[[str, int, int], None]  #: Name of a step, items done, all items.

Crystals = Mapping[str, Sequence[dict[str, Any]]]


@dataclass(frozen=True)
class QuickstartConfig:
    """How to run the quickstart."""

    device: str = "cpu"  #: "cpu" or "cuda:N".
    #: "alignn" or "alignn-pure"; None takes "alignn-pure" on a GPU that DGL can't use, else "alignn".
    workload: str | None = None
    batch_size: int = 16  #: Graphs per batch of the fixed runs.
    memory: int | None = None  #: The budget in bytes; None takes the predicted memory of a mean batch of large cells.
    probes: int = 24  #: Training steps to calibrate with.
    hidden_features: int = 128  #: Width of ALIGNN.
    limit: int | None = None  #: Maximum number of crystals of each dataset; None takes all.
    seed: int = 0  #: Random seed of all parts.

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < self.batch_size:
            raise InputError(
                f"{self.limit} crystals of each dataset",
                limit=f"a fixed batch has {self.batch_size}",
                hint="give a larger --limit or a smaller --batch-size",
            )


@dataclass(frozen=True, eq=False)
class Quickstart:
    """Results of the quickstart."""

    datasets: Crystals  #: Name → crystals.
    sizes: Mapping[str, SizeTable]  #: Name → their sizes.
    calibration: Calibration  #: Of ALIGNN on both datasets.
    device: Mapping[str, Any]  #: The device, as its probe describes it.
    batch_size: int  #: Graphs per batch of the fixed runs.
    memory: int  #: The budget, bytes.
    runs: Sequence[Mapping[str, Any]]  #: One record per dataset and kind of batches ("fixed" or "budget").

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON: the measured runs, without the datasets and the calibration."""
        return {name: getattr(self, name) for name in ("memory", "batch_size", "device", "runs")}


def run_quickstart(config: QuickstartConfig, progress: Progress) -> Quickstart:
    """Calibrate ALIGNN and measure an epoch of each dataset, with a fixed batch size and with a budget.

    Raises a MissingError without a package or the device. Warns (UserWarning) if ALIGNN is trained without DGL because
    DGL can't use the device.
    """
    probe = open_probe(config.device)
    kind = config.workload or _choose_workload(config.device)
    make_loader: Any = torch.utils.data.DataLoader
    if kind == "alignn":
        make_loader = load_dgl().dataloading.GraphDataLoader
    datasets = example_datasets(config.limit)
    workload = load_workload(kind, config.device, hidden_features=config.hidden_features)
    sizes, samples = {}, {}
    for name, crystals in datasets.items():
        graphs = getattr(workload, "graphs", None)
        sizes[name] = measure(crystals, graphs=graphs, progress=partial(progress, f"measuring {name}"))
        tracked = _tracked(crystals, partial(progress, f"building graphs of {name}"))
        samples[name] = [to_sample(workload, crystal) for crystal in tracked]
    calibration = _calibrate(workload, samples, sizes, probe, config, progress)
    memory = config.memory or _mean_batch_memory(calibration, sizes["large cells"], config.batch_size)
    runs = []
    for name in datasets:
        # Without the incomplete last batch, as in alignn's own loaders.
        fixed: dict[str, Any] = {"batch_size": config.batch_size, "shuffle": True, "drop_last": True}
        fixed["generator"] = torch.Generator().manual_seed(config.seed)
        sampler = NodeBudgetSampler(sizes[name], calibration=calibration, memory=memory, seed=config.seed)
        for batching, label, options in (
            ("fixed", f"batch_size={config.batch_size}", fixed),
            ("budget", "NodeBudgetSampler", {"batch_sampler": sampler}),
        ):
            loader = make_loader(list(enumerate(samples[name])), collate_fn=list, **options)
            batches = _tracked(loader, partial(progress, f"training {name}, {batching}"))
            run = _train(batches, workload, probe, calibration, sizes[name])
            runs.append({"dataset": name, "batching": batching, "label": label, **run})
    return Quickstart(datasets, sizes, calibration, probe.describe(), config.batch_size, memory, runs)


def _choose_workload(device: str) -> str:
    """Return the built-in workload that can be trained on a device: DGL's wheels on PyPI have no CUDA."""
    if not device.startswith("cuda"):
        return "alignn"
    try:
        check_dgl_on(device)
    except MissingError as error:
        warnings.warn(f"{error.what}: ALIGNN is trained without DGL ('alignn-pure')", stacklevel=3)
        return "alignn-pure"
    return "alignn"


def _tracked(items: Any, progress: Callable[[int, int], None]) -> Iterator[Any]:
    for done, item in enumerate(items, start=1):
        yield item
        progress(done, len(items))


def _calibrate(
    workload: Workload,
    samples: dict[str, list[Any]],
    sizes: dict[str, SizeTable],
    probe: Probe,
    config: QuickstartConfig,
    progress: Progress,
) -> Calibration:
    small = sizes["small cells"]
    columns = {name: np.concatenate([table[name] for table in sizes.values()]) for name in small.columns}
    return calibrate(
        workload,
        [sample for dataset in samples.values() for sample in dataset],
        SizeTable(columns, settings=small.settings),
        probe,
        config=CalibrationConfig(probes=config.probes, max_graphs=config.batch_size, seed=config.seed),
        progress=partial(progress, "calibrating ALIGNN"),
    )


def _mean_batch_memory(calibration: Calibration, sizes: SizeTable, batch_size: int) -> int:
    mean = calibration.graph_bytes(sizes).mean() * batch_size
    # 2% and up to 1 MiB more, so that the same number of batches can hold all crystals.
    return int((calibration.fixed + mean * 1.02) // 2**20 + 1) * 2**20


def _train(
    batches: Iterable[Any], workload: Workload, probe: Probe, calibration: Calibration, sizes: SizeTable
) -> dict[str, Any]:
    """Train on batches of (index, sample) and return what was measured."""
    graphs, predicted, peaks = [], [], []
    for batch in batches:
        indices, samples = zip(*batch, strict=True)
        peak = probe.measure(lambda samples=samples: workload.step(workload.batch(samples)))  # type: ignore[misc]
        graphs.append(len(batch))
        predicted.append(float(calibration.predict_bytes(**sizes.totals(list(indices)))))
        peaks.append(int((calibration.resident if peak.resident is None else peak.resident) + peak.requested))
    return {
        "batches": len(graphs),
        "graphs": sum(graphs),
        "graphs_left_out": len(sizes) - sum(graphs),
        "graphs_per_batch": {"mean": float(np.mean(graphs)), "std": float(np.std(graphs))},
        "predicted_bytes": _summary(predicted),
        "measured_bytes": _summary(peaks),
        "measured_peaks": peaks,
    }


def _summary(values: Sequence[float]) -> dict[str, float]:
    mean = float(np.mean(values))
    return {"mean": mean, "max": float(max(values)), "cv": float(np.std(values)) / mean}
