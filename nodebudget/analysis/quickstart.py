"""The whole way on crystals that come with a package: measure, calibrate, pack, train, compare."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from nodebudget.calibration.calibrate import CalibrationConfig, calibrate
from nodebudget.calibration.memory_model import Calibration
from nodebudget.datasets.example_crystals import example_datasets
from nodebudget.datasets.measure import measure_dataset
from nodebudget.datasets.size_table import SizeTable
from nodebudget.errors import InputError, MissingError
from nodebudget.profiling.open import open_probe
from nodebudget.profiling.probe import Probe
from nodebudget.report.html import trials
from nodebudget.report.pictures import draw_runs
from nodebudget.sampling.sampler import NodeBudgetSampler
from nodebudget.utils.files import write_whole
from nodebudget.utils.optional_imports import check_dgl_on, load_dgl, require
from nodebudget.utils.records import write_record
from nodebudget.workloads.protocol import Workload, to_sample
from nodebudget.workloads.registry import load_workload

#: (step, done, all): what is being done, and how far it is.
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Options:
    """What a quickstart runs with.

    Attributes:
        folder: Where the artefacts go.
        device: "cpu" or "cuda:N".
        workload: "alignn" or "alignn-pure"; None takes the latter on a GPU that DGL can't use.
        batch_size: Graphs a batch of the fixed runs.
        memory: The budget in bytes; None takes what a mean batch of large cells is predicted to need.
        probes: Training steps to calibrate with.
        hidden_features: Width of ALIGNN.
        limit: Most crystals of each dataset; None takes all.
        seed: Seed of everything.
    """

    folder: Path
    device: str = "cpu"
    workload: str | None = None
    batch_size: int = 16
    memory: int | None = None
    probes: int = 24
    hidden_features: int = 128
    limit: int | None = None
    seed: int = 0


def run_quickstart(options: Options, progress: Progress) -> dict[str, Any]:
    """Run it all and write the artefacts.

    Returns:
        `memory` (bytes), `runs` (one dict a run), `calibration`, `sizes` and `files`.

    Raises:
        InputError: The folder can't be made.
        MissingError: A package or the device is not there.

    Warns (UserWarning) when ALIGNN is trained without DGL because DGL can't use the device.
    """
    if options.limit is not None and options.limit < options.batch_size:
        raise InputError(
            f"{options.limit} crystals of each dataset",
            limit=f"a fixed batch has {options.batch_size}",
            hint="take more",
        )
    probe = open_probe(options.device)
    # Whatever is missing is said before minutes of work.
    name = options.workload or _choose_workload(options.device)
    if name == "alignn":
        load_dgl()
    require("matplotlib")
    folder = _make_folder(options.folder)
    progress("reading crystals", 0, 1)
    datasets = example_datasets(options.limit)
    progress("reading crystals", 1, 1)
    workload = load_workload(name, options.device, hidden_features=options.hidden_features)
    sizes = {name: _measure(name, crystals, workload, progress) for name, crystals in datasets.items()}
    samples = _build(workload, datasets, progress)
    calibration = _calibrate(workload, samples, sizes, probe, options, progress)
    memory = options.memory or _memory_of(calibration, sizes["large cells"], options.batch_size)
    trainer = _Trainer(workload, _loader_class(name), probe, calibration, memory, options, progress)
    runs = [
        trainer.train(name, batching, samples[name], sizes[name])
        for name in datasets
        for batching in ("fixed", "budget")
    ]
    result = {"memory": memory, "batch_size": options.batch_size, "device": probe.describe(), "runs": runs}
    files = _write(folder, datasets, sizes, calibration, result)
    return {**result, "calibration": calibration, "sizes": sizes, "files": files}


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


def _loader_class(workload: str) -> Any:
    return load_dgl().dataloading.GraphDataLoader if workload == "alignn" else torch.utils.data.DataLoader


def _measure(name: str, crystals: list[dict[str, Any]], workload: Workload, progress: Progress) -> SizeTable:
    graphs = getattr(workload, "graphs", None)
    return measure_dataset(
        crystals, graphs=graphs, progress=lambda done, total: progress(f"measuring {name}", done, total)
    )


def _make_folder(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"the folder {str(folder)!r} can't be made: {error.strerror}", hint="choose another with -o"
        ) from error
    return folder


def _build(workload: Workload, datasets: dict[str, list[dict[str, Any]]], progress: Progress) -> dict[str, list[Any]]:
    total = sum(map(len, datasets.values()))
    built: dict[str, list[Any]] = {name: [] for name in datasets}
    done = 0
    for name, crystals in datasets.items():
        for crystal in crystals:
            built[name].append(to_sample(workload, crystal))
            done += 1
            progress("building graphs", done, total)
    return built


def _calibrate(
    workload: Workload,
    samples: dict[str, list[Any]],
    sizes: dict[str, SizeTable],
    probe: Probe,
    options: Options,
    progress: Progress,
) -> Calibration:
    columns = {name: np.concatenate([table[name] for table in sizes.values()]) for name in sizes["small cells"].columns}
    return calibrate(
        workload,
        [sample for built in samples.values() for sample in built],
        SizeTable(columns, settings=sizes["small cells"].settings),
        probe,
        effort=CalibrationConfig(probes=options.probes, largest=options.batch_size, seed=options.seed),
        progress=lambda done, total: progress("calibrating ALIGNN", done, total),
    )


def _memory_of(calibration: Calibration, sizes: SizeTable, batch_size: int) -> int:
    mean = calibration.graph_bytes(sizes).mean() * batch_size
    # One graph's worth of slack, so that the same number of batches can hold the same crystals.
    return int((calibration.fixed + mean * 1.02) // 2**20 + 1) * 2**20


@dataclass(frozen=True)
class _Trainer:
    """Trains epochs and measures the peak of every step."""

    workload: Workload
    make_loader: Callable[..., Any]
    probe: Probe
    calibration: Calibration
    memory: int
    options: Options
    progress: Progress

    def train(self, dataset: str, batching: str, samples: Sequence[Any], sizes: SizeTable) -> dict[str, Any]:
        """Train one epoch, "fixed" or "budget"."""
        loader = self._loader(batching, samples, sizes)
        steps = []
        for done, batch in enumerate(loader, start=1):
            steps.append(self._step(batch, sizes))
            self.progress(f"training {dataset}, {batching}", done, len(loader))
        graphs, predicted, peaks = (list(values) for values in zip(*steps, strict=True))
        return {
            "dataset": dataset,
            "batching": batching,
            "label": f"batch_size={self.options.batch_size}" if batching == "fixed" else "NodeBudgetSampler",
            "batches": len(steps),
            "graphs": sum(graphs),
            "graphs_left_out": len(samples) - sum(graphs),
            "graphs_per_batch": {"mean": float(np.mean(graphs)), "std": float(np.std(graphs))},
            "predicted_bytes": _summary(predicted),
            "measured_bytes": _summary(peaks),
            "measured_peaks": peaks,
        }

    def _loader(self, batching: str, samples: Sequence[Any], sizes: SizeTable) -> Any:
        make, data = self.make_loader, _Indexed(samples)
        if batching == "fixed":
            # The last, smaller batch is dropped, as alignn's own loaders do.
            size, chance = self.options.batch_size, torch.Generator().manual_seed(self.options.seed)
            return make(data, batch_size=size, shuffle=True, drop_last=True, collate_fn=list, generator=chance)
        sampler = NodeBudgetSampler(sizes, calibration=self.calibration, memory=self.memory, seed=self.options.seed)
        return make(data, batch_sampler=sampler, collate_fn=list)

    def _step(self, batch: list[tuple[int, Any]], sizes: SizeTable) -> tuple[int, float, int]:
        """Return graphs, predicted bytes and measured bytes of a training step."""
        chosen, samples = zip(*batch, strict=True)
        peak = self.probe.measure(lambda: self.workload.step(self.workload.batch(samples)))
        resident = self.calibration.resident if peak.resident is None else peak.resident
        predicted = self.calibration.predict_bytes(**sizes.totals(list(chosen)))
        return len(batch), float(predicted), int(resident + peak.requested)


class _Indexed(Sequence[Any]):
    """Samples that know their place, so that a batch knows which crystals it holds."""

    def __init__(self, samples: Sequence[Any]) -> None:
        self._samples = samples

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: Any) -> Any:
        return int(index), self._samples[int(index)]

    def __iter__(self) -> Iterator[Any]:
        return iter(enumerate(self._samples))


def _summary(values: Sequence[float]) -> dict[str, float]:
    array = np.asarray(values, dtype=np.float64)
    return {"mean": float(array.mean()), "max": float(array.max()), "cv": float(array.std() / array.mean())}


def _write(
    folder: Path,
    datasets: dict[str, list[dict[str, Any]]],
    sizes: dict[str, SizeTable],
    calibration: Calibration,
    result: dict[str, Any],
) -> dict[str, str]:
    files = {}
    for name, crystals in datasets.items():
        stem = name.replace(" ", "_")
        files[name] = _write_bytes(folder / f"{stem}.json", json.dumps(crystals).encode())
        files[f"{name}, sizes"] = sizes[name].save(folder / f"{stem}_sizes.npz", force=True)
    files["calibration"] = calibration.save(folder / "calibration.json", force=True)
    files["table"] = write_record(folder / "runs.json", trials.KIND, trials.SCHEMA_VERSION, result, force=True)
    files["picture"] = write_whole(folder / "peaks.png", lambda file: _draw(result, file), force=True)
    return {name: str(path) for name, path in files.items()}


def _write_bytes(path: Path, content: bytes) -> Path:
    return write_whole(path, lambda file: file.write(content), force=True)


def _draw(result: dict[str, Any], file: BinaryIO) -> None:
    device = result["device"]
    caption = f"every training step of one epoch of ALIGNN, measured on {device['device']} ({device['name']})"
    draw_runs(result["runs"], result["memory"], file, caption=caption)
