"""Predicted against measured peaks of training steps inside alignn's own `train_dgl`, for configs of many kinds.

    python scripts/benchmarks/alignn_runs.py
    python scripts/benchmarks/alignn_runs.py --only pure,stress --probes 18 --json

Each config is calibrated as `nodebudget calibrate --alignn-config` does. Then the real `train_dgl` trains on batches
that the calibration has not seen, with a loader that does nothing but start and stop PyTorch's profiler. The error is
that of the bytes above the resident ones.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nodebudget.calibration.calibrate import CalibrationConfig, calibrate
from nodebudget.datasets.example_crystals import example_datasets
from nodebudget.datasets.measure import measure
from nodebudget.profiling.cpu_trace import memory_profiler, peak_of, read_blocks
from nodebudget.utils.optional_imports import require
from nodebudget.workloads.alignn_loop import quiet
from nodebudget.workloads.alignn_run import read_alignn_run
from nodebudget.workloads.alignn_step import AlignnRunWorkload

WIDTH = {"alignn_layers": 2, "gcn_layers": 2, "hidden_features": 64}
NO_FORCES = {"calculate_gradient": False, "gradwise_weight": 0.0}
CONFIGS: dict[str, dict[str, Any]] = {
    "atomwise, forces": {"model": {"name": "alignn_atomwise"}},
    "atomwise, no forces": {"model": {"name": "alignn_atomwise", **NO_FORCES}},
    "atomwise, forces, stress": {"model": {"name": "alignn_atomwise", "stresswise_weight": 0.05}},
    "atomwise, radius graph": {
        "neighbor_strategy": "radius_graph",
        "cutoff": 4.0,
        "max_neighbors": None,
        "model": {"name": "alignn_atomwise"},
    },
    "atomwise, three targets": {
        "target": "many",
        "model": {"name": "alignn_atomwise", "output_features": 3, "energy_mult_natoms": False, **NO_FORCES},
    },
    "atomwise, classes": {
        "classification_threshold": 0.0,
        "model": {"name": "alignn_atomwise", "classification": True, "energy_mult_natoms": False, **NO_FORCES},
    },
    "atomwise, three targets in a CSV": {
        "csv": True,
        "model": {"name": "alignn_atomwise", "energy_mult_natoms": False, **NO_FORCES},
    },
    "atomwise, a target per atom": {
        "model": {
            "name": "alignn_atomwise",
            "atomwise_output_features": 3,
            "atomwise_weight": 1.0,
            "energy_mult_natoms": False,
            **NO_FORCES,
        },
    },
    "atomwise, additional output": {
        "model": {
            "name": "alignn_atomwise",
            "additional_output_features": 4,
            "additional_output_weight": 1.0,
            "energy_mult_natoms": False,
            **NO_FORCES,
        },
    },
    "atomwise, extra features": {
        "model": {"name": "alignn_atomwise", "extra_features": 5, "energy_mult_natoms": False, **NO_FORCES},
    },
    "atomwise, forces, SGD": {"optimizer": "sgd", "model": {"name": "alignn_atomwise"}},
    "pure, forces": {"neighbor_strategy": "pure_torch", "model": {"name": "alignn_atomwise_pure"}},
    "pure, no forces, k-nearest": {"model": {"name": "alignn_atomwise_pure", **NO_FORCES}},
    "pure smooth, forces": {"neighbor_strategy": "pure_torch", "model": {"name": "alignn_atomwise_pure_smooth"}},
    "eALIGNN, forces": {"neighbor_strategy": "radius_graph", "cutoff": 4.0, "model": {"name": "ealignn_atomwise"}},
}


def write_run(
    folder: Path, changes: dict[str, Any], count: int, most: float = float("inf")
) -> tuple[Path, dict[str, str]]:
    """Write id_prop.json of real crystals of up to `most` atoms with random targets, and config.json.

    Returns:
        The path of the config, and options of train_alignn.py.
    """
    rng = np.random.default_rng(0)
    crystals = [crystal for crystals in example_datasets(count // 2).values() for crystal in crystals]
    records = []
    for number, crystal in enumerate(crystals):
        atoms = len(crystal["atoms"]["elements"])
        if atoms > most:
            continue
        records.append(
            {
                "jid": f"c{number}",
                "atoms": crystal["atoms"],
                "total_energy": float(rng.normal()),
                "many": rng.normal(size=3).tolist(),
                "forces": rng.normal(size=(atoms, 3)).tolist(),
                "stresses": rng.normal(size=(3, 3)).tolist(),
                "additional_output": rng.normal(size=4).tolist(),
                "extra_features": rng.normal(size=5).tolist(),
            }
        )
    changes = dict(changes)
    target = changes.pop("target", "total_energy")
    if changes.pop("csv", False):
        write_csv(folder, records)
    else:
        if not changes["model"].get("extra_features"):
            records = [{key: value for key, value in record.items() if key != "extra_features"} for record in records]
        (folder / "id_prop.json").write_text(json.dumps(records))
    model = {"atom_input_features": 92, **WIDTH, **changes.pop("model")}
    config = {"cutoff": 8.0, "num_workers": 0, "batch_size": 4, "learning_rate": 0.001, **changes, "model": model}
    (folder / "config.json").write_text(json.dumps(config))
    return folder / "config.json", {"target_key": target}


def write_csv(folder: Path, records: list[dict[str, Any]]) -> None:
    """Write id_prop.csv with three targets per crystal, and its POSCAR files."""
    poscar, atoms = require("jarvis.io.vasp.inputs").Poscar, require("jarvis.core.atoms").Atoms
    for record in records:
        poscar(atoms.from_dict(record["atoms"])).write_file(str(folder / f"{record['jid']}.vasp"))
    rows = [",".join([f"{record['jid']}.vasp", *map(str, record["many"])]) for record in records]
    (folder / "id_prop.csv").write_text("\n".join(rows) + "\n")


class Watched:
    """A loader of given batches; measures what happens from one request to the next."""

    def __init__(self, dataset: Any, batches: list[list[int]], collate: Any) -> None:
        self.dataset, self._batches, self._collate = dataset, batches, collate
        self.peaks: list[int] = []

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Any]:
        for batch in self._batches:
            with memory_profiler() as profiler:
                yield self._collate([self.dataset[index] for index in batch])
            self.peaks.append(peak_of(read_blocks(profiler).nbytes))


def inside_train_dgl(run: Any, batches: list[list[int]]) -> list[int]:
    """Train the batches in the real `train_dgl`; return the peak bytes above the resident ones, one per batch."""
    dataset, folder = run.dataset(run.records["train"])
    collate = dataset.collate_line_graph if run.settings["line_graph"] else dataset.collate
    # The first steps make the optimizer's state.
    warm = [batches[0][:1]] * 2
    train, val = Watched(dataset, [*warm, *batches], collate), Watched(dataset, [], collate)
    with folder, tempfile.TemporaryDirectory() as output, quiet():
        config = run.config.model_copy(
            deep=True, update={"output_dir": output, "epochs": 1, "write_predictions": False}
        )
        require("alignn.train").train_dgl(config, train_val_test_loaders=[train, val, val, print])
    torch.set_default_dtype(torch.float32)
    return train.peaks[len(warm) :]


def compare(name: str, probes: int, count: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
        config, options = write_run(Path(folder), CONFIGS[name], count)
        run = read_alignn_run(folder, config, **options)
        workload = AlignnRunWorkload("cpu", run=run)
        records = run.records["train"]
        sizes = measure(records, graphs=run.graphs)
        calibration = calibrate(workload, records, sizes, config=CalibrationConfig(probes=probes, max_graphs=12))
        resident = calibration.resident
        workload.close()
        rng = np.random.default_rng(7)
        batches = [rng.choice(len(records), size=size, replace=False).tolist() for size in (3, 5, 6, 8, 8, 10, 10, 12)]
        peaks = inside_train_dgl(run, batches)
    table = measure(records, graphs=run.graphs)
    predicted = [calibration.predict_bytes(**table.totals(batch)) - resident for batch in batches]
    errors = np.array([guess / peak - 1 for guess, peak in zip(predicted, peaks, strict=True)])
    return {
        "config": name,
        "held_out": calibration.holdout.mape,
        "mean": float(np.abs(errors).mean()),
        "under": float(max(-errors.min(), 0)),
        "over": float(max(errors.max(), 0)),
        "largest_mib": max(peaks) / 2**20,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="parts of names, separated by commas")
    parser.add_argument("--probes", type=int, default=18)
    parser.add_argument("--crystals", type=int, default=80)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    rows = []
    for name in CONFIGS:
        if options.only and not any(part.strip() in name for part in options.only.split(",")):
            continue
        print(name, file=sys.stderr)
        rows.append(compare(name, options.probes, options.crystals))
        if not options.json:
            row = rows[-1]
            print(
                f"| {name} | {row['mean']:.2%} | {row['under']:.2%} | {row['over']:.2%} | {row['held_out']:.2%} | "
                f"{row['largest_mib']:.0f} |",
                flush=True,
            )
    if options.json:
        print(json.dumps(rows, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
