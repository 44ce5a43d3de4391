"""Whether a long training run grows: 2,000 steps of real ALIGNN with sampler, workers and monitor.

    python scripts/benchmarks/soak.py [--steps 2000] [--workers 2] [--device cpu] [--json]

Trains on the AFLOW prototypes that come with pymatgen, in epochs of about twenty batches of `NodeBudgetSampler`. Every
ten steps it reads the resident set of the training process and of its workers, and their numbers of open files. The
first tenth of the run is warm-up; growth is the mean of the last tenth relative to that of the second tenth.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from nodebudget import MemoryMonitor, NodeBudgetSampler
from nodebudget.datasets.example_crystals import example_datasets
from nodebudget.datasets.measure import measure
from nodebudget.monitor.log_reader import read_run
from nodebudget.workloads.alignn import AlignnWorkload

EVERY = 10


def resident(process: int) -> int:
    """Return the resident set of a process, bytes."""
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def open_files(process: int) -> int:
    """Return how many files, pipes and sockets a process has open."""
    return len(list(Path(f"/proc/{process}/fd").iterdir()))


def read_processes() -> dict[str, int]:
    """Read the training process and its workers."""
    workers = [child.pid for child in multiprocessing.active_children() if child.pid]
    return {
        "rss": resident(os.getpid()),
        "workers_rss": sum(map(resident, workers)),
        "files": open_files(os.getpid()),
        "workers_files": sum(map(open_files, workers)),
    }


def train(options: argparse.Namespace, log: Path) -> tuple[list[dict[str, int]], dict[str, Any]]:
    """Train, and read the processes every `EVERY` steps."""
    torch.set_num_threads(1)
    work = AlignnWorkload(
        options.device, hidden_features=options.hidden, alignn_layers=options.layers, gcn_layers=options.layers
    )
    samples = [work.sample(crystal) for crystal in example_datasets()["small cells"]]
    sizes = measure(samples)
    sampler = NodeBudgetSampler(sizes, max_line_edges=int(sizes["line_edges"].mean() * options.batch))
    on_host = AlignnWorkload("cpu", hidden_features=8, alignn_layers=1, gcn_layers=1)
    loader = DataLoader(
        samples,
        batch_sampler=sampler,
        num_workers=options.workers,
        collate_fn=on_host.batch,
        persistent_workers=options.workers > 0 and not options.restart_workers,
    )
    readings = []
    with MemoryMonitor(str(log), model=work.model, optimizer=work.optimizer) as monitor:
        for batch in batches(monitor, loader, sampler, options.steps):
            work.step([part.to(work.device) for part in batch])
            if monitor.steps % EVERY == 0:
                readings.append(read_processes())
    return readings, {"epochs": sampler.epoch, "batches_per_epoch": len(sampler), "crystals": len(samples)}


def batches(monitor: MemoryMonitor, loader: Any, sampler: NodeBudgetSampler, steps: int) -> Iterator[Any]:
    """Yield the batches of epoch after epoch, for `steps` steps."""
    while monitor.steps < steps:
        sampler.set_epoch(sampler.epoch + 1)
        for batch in monitor.watch(loader):
            yield batch
            if monitor.steps == steps:
                return


def growth(values: list[int]) -> float:
    """Return the mean of the last tenth relative to that of the second tenth, less one."""
    tenth = max(1, len(values) // 10)
    before, after = np.mean(values[tenth : 2 * tenth]), np.mean(values[-tenth:])
    return float(after / before - 1) if before else 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--workers", type=int, default=2, help="worker processes of the loader")
    parser.add_argument("--restart-workers", action="store_true", help="start them in every epoch")
    parser.add_argument("--hidden", type=int, default=32, help="width of ALIGNN")
    parser.add_argument("--layers", type=int, default=2, help="ALIGNN layers, and as many on the crystal graph")
    parser.add_argument("--batch", type=int, default=8, help="mean crystals per batch")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "run.jsonl"
        readings, about = train(options, log)
        run = read_run(log)
    columns = {name: [entry[name] for entry in readings] for name in readings[0]}
    result = {
        **about,
        "steps": len(run.steps),
        "growth": {name: growth(values) for name, values in columns.items()},
        "last": {name: values[-1] for name, values in columns.items()},
        "max": {name: max(values) for name, values in columns.items()},
        "warnings": [event["text"] for event in run.events if event["event"] == "warning"],
    }
    if options.json:
        print(json.dumps(result, indent=2))
        return
    print(f"{result['steps']:,} steps, {about['epochs']} epochs of {about['batches_per_epoch']} batches")
    for name, unit in (("rss", 2**20), ("workers_rss", 2**20), ("files", 1), ("workers_files", 1)):
        label = {"rss": "resident set, MiB", "workers_rss": "of the workers, MiB", "files": "open files"}.get(name)
        increase, last, maximum = (result[key][name] for key in ("growth", "last", "max"))
        print(f"{label or 'of the workers':22}{last / unit:8.0f}   max {maximum / unit:6.0f}   growth {increase:+.2%}")
    print("warnings of the monitor:", "; ".join(result["warnings"]) or "none")


if __name__ == "__main__":
    main()
