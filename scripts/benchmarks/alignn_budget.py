"""Peaks of all steps of `nodebudget train-alignn` against the memory that it was given, in adverse orders of batches.

    python scripts/benchmarks/alignn_budget.py
    STUBCUDA_BYTES=$((512<<20)) stubcuda python scripts/benchmarks/alignn_budget.py --device cuda

On the CPU, PyTorch's profiler measures every step of alignn's own loop; the run gets --memory. On a CUDA device each
run is a process of its own that gets `--memory auto`: what the device leaves, with both settings of the allocator. On a
stand-in device that computes nothing, the ids that map nodes to graphs come from the host: the number of a graph's
nodes can't be read back from the device.

Prints, for each run: memory of a step, training steps, CV of their peaks, mean and largest peak, and the largest peak
of a validation step, all of live tensors and relative to the memory.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from alignn_runs import write_run

from nodebudget.integrations import AlignnTraining, TrainingBudget, train_alignn
from nodebudget.profiling.cpu_trace import memory_profiler, peak_of, read_blocks
from nodebudget.utils.byte_units import format_bytes, parse_bytes
from nodebudget.utils.optional_imports import require
from nodebudget.workloads.alignn_loop import quiet, release_last_step

NO_FORCES = {"calculate_gradient": False, "gradwise_weight": 0.0}
PURE = {"neighbor_strategy": "pure_torch"}
CONFIGS: dict[str, dict[str, Any]] = {
    "DGL, forces": {"model": {"name": "alignn_atomwise"}},
    "DGL, no forces": {"model": {"name": "alignn_atomwise", **NO_FORCES}},
    "pure, forces": {**PURE, "model": {"name": "alignn_atomwise_pure"}},
    "pure, no forces": {**PURE, "model": {"name": "alignn_atomwise_pure", **NO_FORCES}},
}
#: Largest crystals, in atoms: a batch holds several of them.
_ATOMS = 24
ORDERS = ("largest first", "smallest first", "alternating")


class Watched:
    """A budgeted loader of alignn's loop in another order of its batches; notes the peak bytes of each step."""

    def __init__(self, loader: Any, order: str) -> None:
        self.loader, self.order, self.dataset = loader, order, loader.dataset
        self.peaks: list[int] = []

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        for indices in ordered(self.loader.batch_sampler, self.order):
            batch = self.loader.collate_fn([self.dataset[index] for index in indices])
            if torch.cuda.is_available():
                torch.cuda.reset_peak_memory_stats()
                yield batch
                self.peaks.append(torch.cuda.memory_stats()["requested_bytes.all.peak"])
            else:
                with memory_profiler() as profiler:
                    yield batch
                self.peaks.append(peak_of(read_blocks(profiler).nbytes))
            del batch
            release_last_step(sys._getframe().f_back)


def ordered(sampler: Any, order: str) -> list[list[int]]:
    batches = sorted(sampler, key=lambda batch: int(sampler.sizes.take(batch).columns["line_edges"].sum()))
    if order == "largest first":
        batches.reverse()
    elif order == "alternating":
        half = len(batches) // 2
        mixed = [batch for pair in zip(batches[:half], batches[::-1], strict=False) for batch in pair]
        batches = mixed + batches[half : len(batches) - half]
    return batches


def one(name: str, order: str, memory: str, probes: int, count: int, epochs: int) -> dict[str, Any]:
    """Train one run; return its peaks, and the memory that a step may take."""
    module = require("alignn.train_alignn")
    train_dgl, budgets, watched = module.train_dgl, list[TrainingBudget](), list[Watched]()
    with tempfile.TemporaryDirectory() as folder:
        changes = {"epochs": epochs, "write_predictions": False, "filename": f"{folder}/", **CONFIGS[name]}
        config, options = write_run(Path(folder), changes, count, _ATOMS)

        def watch(config: Any, train_val_test_loaders: Any, **ranks: Any) -> Any:
            train, val, *rest = train_val_test_loaders
            watched.extend([Watched(train, order), Watched(val, order)])
            return train_dgl(config, train_val_test_loaders=[*watched, *rest], **ranks)

        training = AlignnTraining(
            folder,
            str(config),
            memory,
            cache=f"{folder}/cache",
            probes=probes,
            alignn={**options, "output_dir": f"{folder}/out"},
        )
        with patch.object(module, "train_dgl", watch), quiet():
            train_alignn(training, budgets.append)
    budget, (train, val) = budgets[0], watched
    # The profiler of the CPU sees what a step allocates; parameters and optimizer state are there before it.
    alive = 0 if torch.cuda.is_available() else round(budget.calibration.resident)
    peaks = np.asarray(train.peaks) + alive
    result = {
        "config": name,
        "order": order,
        "memory": budget.memory,
        "held_out": budget.calibration.holdout.mape,
        "batches": len(budget.plan),
        "steps": len(peaks),
        "cv": float(np.std(peaks) / np.mean(peaks)),
        "mean": float(np.mean(peaks)),
        "largest": int(peaks.max()),
        "validation": max(val.peaks) + alive,
    }
    if torch.cuda.is_available():
        statistics = torch.cuda.memory_stats()
        result |= {"reserved": statistics["reserved_bytes.all.peak"], "retries": statistics["num_alloc_retries"]}
    return result


def ids_from_the_host() -> None:
    """Let alignn's batched graphs count their nodes on the host: a stand-in device gives no values back."""
    graph = require("alignn.torch_graph_builder").TorchGraph
    moved = graph.to

    def to(self: Any, device: Any) -> Any:
        there = moved(self, device)
        there.on_host = getattr(self, "on_host", (self.batch_num_nodes, self.batch_num_edges))
        return there

    def ids(which: int) -> property:
        return property(
            lambda self: torch.repeat_interleave(torch.arange(self.batch_size), self.on_host[which]).to(self.src.device)
        )

    graph.to, graph.node_batch_id, graph.edge_batch_id = to, ids(0), ids(1)


def child(options: argparse.Namespace, name: str, order: str, setting: str) -> dict[str, Any]:
    environment = {"PYTORCH_ALLOC_CONF": "expandable_segments:True" if setting == "expandable" else ""}
    command = [sys.executable, "-W", "ignore", __file__, "--one", name, order, "--device", "cuda"]
    counts = [part for key in ("probes", "crystals", "epochs") for part in (f"--{key}", str(getattr(options, key)))]
    done = subprocess.run(
        [*command, *counts], capture_output=True, text=True, env={**os.environ, **environment}, check=False
    )
    if done.returncode:
        return {"config": name, "order": order, "setting": setting, "failed": done.stderr.strip().splitlines()[-1]}
    return {**json.loads(done.stdout), "setting": setting}


def row(result: dict[str, Any]) -> str:
    head = f"| {result['config']} | {result['order']} | {result.get('setting', 'CPU')} |"
    if "failed" in result:
        return f"{head} failed: {result['failed']} |"
    share = result["mean"] / result["memory"]
    return (
        f"{head} {format_bytes(result['memory'])} | {result['steps']} | {result['cv']:.2%} | {share:.1%} | "
        f"{result['largest'] / result['memory']:.1%} | {result['validation'] / result['memory']:.1%} |"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--only", help="part of a config's name")
    parser.add_argument("--memory", default="192MiB", help="memory of a step on the CPU")
    parser.add_argument("--probes", type=int, default=18)
    parser.add_argument("--crystals", type=int, default=400)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--one", nargs=2, metavar=("CONFIG", "ORDER"), help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    counts = options.probes, options.crystals, options.epochs
    if options.one:
        if "Stub" in torch.cuda.get_device_name(0):
            ids_from_the_host()
        print(json.dumps(one(*options.one, "auto", *counts)))
        return 0
    parse_bytes(options.memory)
    results = []
    for name in CONFIGS:
        # DGL's wheel can't use a CUDA device.
        if (options.only and options.only not in name) or (options.device == "cuda" and name.startswith("DGL")):
            continue
        # On the CPU there is no allocator that remembers the order.
        for order in ORDERS if options.device == "cuda" else ORDERS[:1]:
            if options.device == "cpu":
                results.append(one(name, order, options.memory, *counts))
            else:
                results += [child(options, name, order, setting) for setting in ("default", "expandable")]
            if not options.json:
                print("\n".join(map(row, results[-1 if options.device == "cpu" else -2 :])), flush=True)
    if options.json:
        print(json.dumps(results, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
