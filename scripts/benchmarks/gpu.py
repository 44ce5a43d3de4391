"""An epoch of real crystals with real ALIGNN on a GPU: a fixed number of crystals per batch, and balanced batches.

    nodebudget calibrate --gpu 0 --workload alignn-pure --data crystals.json -o cal.json
    python scripts/benchmarks/gpu.py crystals.json --calibration cal.json [--json]
    python scripts/benchmarks/gpu.py --show scripts/benchmarks/h200/epoch.json     # what was measured before

Assigns the same crystals to the same number of batches twice: shuffled, with a fixed number in each, and by
`NodeBudgetSampler` with the calibration. Of each epoch: the measured and the predicted peak of every step, the time of
the steps, the memory that the allocator held at the end, and the smallest device that the epoch fits on, found by
limiting PyTorch's fraction of the memory. Then the planned epoch on the memory that `nodebudget plan --capacity` asks
for, in three orders, and the fixed one on that memory. All with either setting of the allocator. `--other` names a
calibration of another machine to compare with; cuBLAS's workspaces are added to the predictions of one made on a CPU.
"""

from __future__ import annotations

import argparse
import json
import pickle
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from survival import (
    MIB,
    SETTINGS,
    STAND_IN,
    Batches,
    Bench,
    balanced_batches,
    clear,
    device_for,
    in_own_process,
    least_device,
    orders,
    outcome,
)

from nodebudget import Calibration
from nodebudget.datasets.measure import measure
from nodebudget.datasets.readers.open_dataset import open_data
from nodebudget.profiling.cuda_allocator.allocator import CUBLAS_WORKSPACES, CUBLAS_WORKSPACES_HOPPER
from nodebudget.workloads.protocol import to_sample
from nodebudget.workloads.registry import load_workload

STARTED = time.perf_counter()


class Crystals(Bench):
    """Real crystals on the device, with a real workload."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.items = [*open_data(options.data)][: options.graphs]
        cache = Path(options.samples) if options.samples else None
        if cache is not None and cache.exists():
            self.samples = pickle.loads(cache.read_bytes())
        else:
            workload = load_workload(options.workload, "cpu", hidden_features=8)
            self.samples = [to_sample(workload, item) for item in self.items]
            if cache is not None:
                cache.write_bytes(pickle.dumps(self.samples))
        self.sizes = measure(self.samples)
        say("graphs built")

    def make(self) -> Any:
        """Make a new workload."""
        torch.manual_seed(0)
        return load_workload(self.options.workload, "cuda:0", hidden_features=self.options.hidden)

    def epoch(self, batches: Batches, models: dict[str, Calibration]) -> dict[str, Any]:
        """Train on the batches; return peaks (bytes) and times (s) of the steps, and errors of predictions."""
        clear()
        workload, peaks, seconds = self.make(), [], []
        for batch in [batches[0], *batches]:  # the first makes the gradients and the optimizer's state
            made = workload.batch([self.samples[place] for place in batch])
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            start = time.perf_counter()
            workload.step(made)
            torch.cuda.synchronize()
            seconds.append(time.perf_counter() - start)
            peaks.append(torch.cuda.memory_stats()["requested_bytes.all.peak"])
            del made
        # cuBLAS has workspaces on a GPU only.
        newer = torch.cuda.get_device_capability() >= (9, 0)
        workspaces = sum(CUBLAS_WORKSPACES_HOPPER if newer else CUBLAS_WORKSPACES)
        bytes_, times = np.array(peaks[1:], dtype=float), np.array(seconds[1:])
        errors = {}
        for name, model in models.items():
            more = 0 if model.context["device"]["device"].startswith("cuda") else workspaces
            off = np.array([model.predict_bytes(**self.sizes.totals(batch)) + more for batch in batches]) / bytes_ - 1
            errors[name] = {"mean": float(np.abs(off).mean()), "under": float(max(-off.min(), 0))}
        graphs = np.array([len(batch) for batch in batches])
        return {
            "batches": len(batches),
            "graphs": {"mean": float(graphs.mean()), "std": float(graphs.std())},
            "peak": summary(bytes_),
            "step_seconds": summary(times),
            "crystals_per_second": float(graphs.sum() / times.sum()),
            "reserved": torch.cuda.memory_stats()["reserved_bytes.all.peak"],
            "errors": errors,
        }


def say(what: str) -> None:
    print(f"{time.perf_counter() - STARTED:6.1f} s: {what}", file=sys.stderr)


def summary(values: np.ndarray) -> dict[str, float]:
    return {"mean": float(values.mean()), "max": float(values.max()), "cv": float(values.std() / values.mean())}


def run(options: argparse.Namespace, setting: str) -> dict[str, Any]:
    """Run all parts with one setting of the allocator."""
    bench = Crystals(options)
    models = {"calibration": Calibration.load(options.calibration)}
    if options.other:
        models["other"] = Calibration.load(options.other)
    order = np.random.default_rng(0).permutation(len(bench.items))
    fixed = [order[start : start + options.batch_size].tolist() for start in range(0, len(order), options.batch_size)]
    calibration = models["calibration"]
    balanced, budget = balanced_batches(bench, calibration, len(fixed))
    batches = {"fixed": fixed, "balanced": balanced}
    # The first epoch loads the libraries' kernels.
    bench.epoch(fixed[:3], models)
    epochs = {name: bench.epoch(each, models) for name, each in batches.items()}
    say("epochs measured")
    for name, each in batches.items():
        epochs[name]["least_device"] = least_device(bench, each, options.step)["least_device"]
        say(f"least device, {name}")
    memory = device_for(budget, calibration, setting)
    loads = [float(calibration.graph_bytes(bench.sizes)[batch].sum()) for batch in balanced]
    rows = [
        {"order": name, **bench.run([balanced[place] for place in places], memory)}
        for name, places in orders(loads).items()
    ]
    rows.append({"order": "fixed", **bench.run(fixed, memory)})
    return {"epochs": epochs, "memory": memory, "on_that_memory": rows}


def text(result: dict[str, Any]) -> str:
    """Format the result, in MiB and ms."""
    where = f"{result['where']} (torch {result['torch']})"
    lines = [f"{result['graphs']} crystals, {result['workload']} on {where}; MiB, ms"]
    head = f"{'setting':12}{'batches':14}{'peak':>8}{'max':>8}{'CV':>8}{'reserved':>10}{'least':>8}"
    lines += ["", head + f"{'step':>8}{'CV':>8}{'crystals/s':>12}"]
    for setting, parts in result["settings"].items():
        for name, row in parts["epochs"].items():
            peak, step = row["peak"], row["step_seconds"]
            batches = f"{row['batches']} {name}"
            cells = f"{batches:14}{peak['mean'] / MIB:8.0f}{peak['max'] / MIB:8.0f}{peak['cv']:8.2%}"
            cells += f"{row['reserved'] / MIB:10.0f}{row['least_device'] / MIB:8.0f}"
            cells += f"{step['mean'] * 1e3:8.1f}{step['cv']:8.2%}{row['crystals_per_second']:12.0f}"
            lines.append(f"{setting:12}{cells}")
    lines.append("")
    errors = parts["epochs"]["balanced"]["errors"]
    for what, off in errors.items():
        lines.append(f"{what}: balanced batches, mape {off['mean']:.2%}, max underprediction {off['under']:.2%}")
    lines += ["", f"{'setting':12}{'order':16}{'memory':>8}{'reserved':>10}{'used':>8}  retries"]
    for setting, parts in result["settings"].items():
        for row in parts["on_that_memory"]:
            lines.append(f"{setting:12}{row['order']:16}{outcome(row, parts['memory'])}")
    return "\n".join(lines)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", help="crystals, such as a JARVIS-style JSON")
    parser.add_argument("--calibration", help="of this workload on this device")
    parser.add_argument("--other", help="a calibration of another machine to compare with")
    parser.add_argument("--workload", default="alignn-pure")
    parser.add_argument("--hidden", type=int, default=256, help="width of the network's hidden layers")
    parser.add_argument("--graphs", type=int, default=1280, help="maximum number of crystals in an epoch")
    parser.add_argument("--batch-size", type=int, default=64, help="of the fixed batches")
    parser.add_argument("--step", type=int, default=256 * MIB, help="precision of the least device, bytes")
    parser.add_argument("--samples", help="pickle file of the graphs, written by the first run")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--show", type=Path, help="print the table of a file that --json wrote; measure nothing")
    parser.add_argument("--setting", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.show:
        print(text(json.loads(options.show.read_text())))
        return
    if not options.data or not options.calibration:
        parser.error("crystals and their calibration are needed")
    if not torch.cuda.is_available():
        sys.exit("there is no CUDA device to run on")
    if options.setting:
        print(json.dumps(run(options, options.setting)))
        return
    settings = {setting: in_own_process(setting, __file__) for setting in SETTINGS}
    result = {
        "where": "the stub device" if STAND_IN else torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "workload": options.workload,
        "graphs": options.graphs,
        "settings": settings,
    }
    print(json.dumps(result, indent=2) if options.json else text(result))


if __name__ == "__main__":
    main()
