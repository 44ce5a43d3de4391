"""The whole way on crystals that come with a package: measure, calibrate, pack, train, compare."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nodebudget.calibrate import Effort, calibrate
from nodebudget.costmodel import Calibration
from nodebudget.errors import InputError
from nodebudget.files import write_whole
from nodebudget.frameworks import load_dgl, require
from nodebudget.measure import measure_dataset
from nodebudget.probe import Probe, open_probe
from nodebudget.record import write_record
from nodebudget.report.pictures import draw_runs
from nodebudget.sampler import NodeBudgetSampler
from nodebudget.sizes import SizeTable
from nodebudget.workload import Workload, load_workload, to_sample

#: Cells of at most so many atoms make the small-cell dataset, the others the large-cell one.
SMALL = 8

#: (step, done, all): what is being done, and how far it is.
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Options:
    """What a quickstart runs with.

    Attributes:
        folder: Where the artefacts go.
        device: "cpu" or "cuda:N".
        batch_size: Graphs a batch of the fixed runs.
        memory: The budget in bytes; None takes what a mean batch of large cells is predicted to need.
        probes: Training steps to calibrate with.
        hidden_features: Width of ALIGNN.
        limit: Most crystals of each dataset; None takes all.
        seed: Seed of everything.
    """

    folder: Path
    device: str = "cpu"
    batch_size: int = 16
    memory: int | None = None
    probes: int = 24
    hidden_features: int = 256
    limit: int | None = None
    seed: int = 0


def prototype_datasets(limit: int | None = None) -> dict[str, list[dict[str, Any]]]:
    """Return the AFLOW prototypes that come with pymatgen as two JARVIS-style datasets, by the size of the cell.

    Their target is the volume an atom, in Å³: a real property that a network can learn from the structure.

    Raises:
        MissingError: pymatgen or jarvis-tools is not there.
    """
    library = require("pymatgen.analysis.prototypes").AFLOW_PROTOTYPE_LIBRARY
    crystals = [_jarvis_dict(entry["snl"].structure, str(entry["tags"]["aflow"])) for entry in library]
    small = [crystal for crystal in crystals if len(crystal["atoms"]["elements"]) <= SMALL]
    large = [crystal for crystal in crystals if len(crystal["atoms"]["elements"]) > SMALL]
    return {"small cells": small[:limit], "large cells": large[:limit]}


def run_quickstart(options: Options, progress: Progress) -> dict[str, Any]:
    """Run it all and write the artefacts.

    Returns:
        `memory` (bytes), `runs` (one dict a run), `calibration`, `sizes` and `files`.

    Raises:
        InputError: The folder can't be made.
        MissingError: A package or the device is not there.
    """
    probe = open_probe(options.device)
    load_dgl()
    folder = _make_folder(options.folder)
    progress("reading crystals", 0, 1)
    datasets = prototype_datasets(options.limit)
    workload = load_workload("alignn", options.device, hidden_features=options.hidden_features)
    graphs = getattr(workload, "graphs", None)
    sizes = {}
    for name, crystals in datasets.items():
        sizes[name] = measure_dataset(
            crystals,
            graphs=graphs,
            progress=lambda done, total, name=name: progress(f"measuring {name}", done, total),
        )
    samples = _build(workload, datasets, progress)
    calibration = _calibrate(workload, samples, sizes, probe, options, progress)
    memory = options.memory or _memory_of(calibration, sizes["large cells"], options.batch_size)
    runs = [
        _train(
            name,
            batching,
            workload,
            samples[name],
            sizes[name],
            calibration,
            memory,
            probe,
            options,
            progress,
        )
        for name in datasets
        for batching in ("fixed", "budget")
    ]
    result = {"memory": memory, "batch_size": options.batch_size, "device": probe.describe(), "runs": runs}
    files = _write(folder, datasets, sizes, calibration, result)
    return {**result, "calibration": calibration, "sizes": sizes, "files": files}


def _jarvis_dict(structure: Any, name: str) -> dict[str, Any]:
    atoms = require("jarvis.core.atoms").Atoms(
        lattice_mat=structure.lattice.matrix,
        coords=structure.frac_coords,
        elements=[site.specie.symbol for site in structure],
        cartesian=False,
    )
    return {"jid": name, "target": float(structure.volume / len(structure)), "atoms": atoms.to_dict()}


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
        _Built(workload),
        [sample for built in samples.values() for sample in built],
        SizeTable(columns, settings=sizes["small cells"].settings),
        probe,
        effort=Effort(probes=options.probes, largest=options.batch_size, seed=options.seed),
        progress=lambda done, total: progress("calibrating ALIGNN", done, total),
    )


class _Built:
    """A workload whose samples are made already."""

    def __init__(self, workload: Workload) -> None:
        self.model, self.optimizer = workload.model, workload.optimizer
        self.batch, self.step = workload.batch, workload.step
        self.name = getattr(workload, "name", "")
        self.config = getattr(workload, "config", None)


def _memory_of(calibration: Calibration, sizes: SizeTable, batch_size: int) -> int:
    mean = calibration.graph_bytes(sizes).mean() * batch_size
    # One graph's worth of slack, so that the same number of batches can hold the same crystals.
    return int((calibration.fixed + mean * 1.02) // 2**20 + 1) * 2**20


def _train(
    dataset: str,
    batching: str,
    workload: Workload,
    samples: Sequence[Any],
    sizes: SizeTable,
    calibration: Calibration,
    memory: int,
    probe: Probe,
    options: Options,
    progress: Progress,
) -> dict[str, Any]:
    """Train one epoch and measure the peak of every step."""
    make = load_dgl().dataloading.GraphDataLoader
    if batching == "fixed":
        # The last, smaller batch is dropped, as alignn's own loaders do.
        loader = make(_Indexed(samples), batch_size=options.batch_size, shuffle=True, drop_last=True, collate_fn=list)
    else:
        sampler = NodeBudgetSampler(sizes, calibration=calibration, memory=memory, seed=options.seed)
        loader = make(_Indexed(samples), batch_sampler=sampler, collate_fn=list)
    peaks, predicted, graphs = [], [], []
    for done, batch in enumerate(loader, start=1):
        chosen = [index for index, _ in batch]
        peak = probe.measure(lambda: workload.step(workload.batch([sample for _, sample in batch])))  # noqa: B023
        resident = calibration.resident if peak.resident is None else peak.resident
        peaks.append(int(resident + peak.allocated))
        predicted.append(float(calibration.predict_bytes(**sizes.totals(chosen))))
        graphs.append(len(chosen))
        progress(f"training {dataset}, {batching}", done, len(loader))
    return {
        "dataset": dataset,
        "batching": batching,
        "label": f"batch_size={options.batch_size}" if batching == "fixed" else "NodeBudgetSampler",
        "batches": len(peaks),
        "graphs": sum(graphs),
        "graphs_left_out": len(samples) - sum(graphs),
        "graphs_per_batch": {"mean": float(np.mean(graphs)), "std": float(np.std(graphs))},
        "predicted_bytes": _summary(predicted),
        "measured_bytes": _summary(peaks),
        "measured_peaks": peaks,
    }


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
        text = json.dumps(crystals)
        files[name] = write_whole(folder / f"{stem}.json", lambda file, t=text: file.write(t.encode()), force=True)
        files[f"{name}, sizes"] = sizes[name].save(folder / f"{stem}_sizes.npz", force=True)
    files["calibration"] = calibration.save(folder / "calibration.json", force=True)
    files["table"] = write_record(folder / "runs.json", "nodebudget.quickstart", 1, result, force=True)
    caption = f"every training step of one epoch of ALIGNN, measured on {result['device']['device']} ({result['device']['name']})"
    files["picture"] = write_whole(
        folder / "peaks.png",
        lambda file: draw_runs(result["runs"], result["memory"], file, caption=caption),
        force=True,
    )
    return {name: str(path) for name, path in files.items()}
