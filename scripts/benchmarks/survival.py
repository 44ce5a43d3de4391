"""The smallest device that an epoch fits on, and whether an epoch planned for M bytes fits on M bytes.

    bash scripts/test_stubcuda.sh --co -q       # sets up .venv-cuda, with a CUDA build of PyTorch
    .venv-cuda/bin/python scripts/benchmarks/survival.py [--graphs 1280] [--json]

The first part assigns the same lognormal crystals to the same number of batches twice: shuffled, with a fixed number
of crystals in each, and by `NodeBudgetSampler`. The second plans three datasets for M bytes and runs the batches
largest first, smallest first and alternating. Both with either setting of the allocator.
`torch.cuda.set_per_process_memory_fraction` limits the memory of the device. Without a GPU, run it on a stand-in
device, which allocates but computes nothing, and whose memory has an exact limit; the output then says that it is about
the allocator alone.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "fixtures"))
from linegraph_net import LineGraphWorkload

from nodebudget import Calibration, NodeBudgetSampler, SizeTable
from nodebudget.analysis.allocator_overhead import with_overheads
from nodebudget.analysis.device_budget import device_budget
from nodebudget.calibration.calibrate import CalibrationConfig, calibrate
from nodebudget.errors import DoesNotFitError
from nodebudget.profiling.open import open_probe

SETTINGS = {"default": "expandable_segments:False", "expandable": "expandable_segments:True"}
#: Mean number of atoms; minimum and maximum number of neighbors per atom.
DATASETS = {"crystals": (12, 11.5, 15.0), "dense": (6, 25.0, 32.0), "porous": (40, 4.0, 7.0)}
BATCH = 64
STAND_IN = torch.cuda.is_available() and torch.cuda.get_device_name() == "Stub CUDA device"
MIB = 2**20

Item = tuple[int, int, int]
Batches = list[list[int]]


def draw(kind: str, count: int) -> list[Item]:
    """Draw (nodes, edges, line_edges) of crystals."""
    mean, minimum, maximum = DATASETS[kind]
    rng = np.random.default_rng(7)
    nodes = np.clip(rng.lognormal(np.log(mean), 0.6, count), 1, 8 * mean).astype(int)
    edges = np.ceil(nodes * rng.uniform(minimum, maximum, count)).astype(int)
    line_edges = np.ceil(edges * rng.uniform(minimum, maximum, count)).astype(int)
    return [*zip(nodes.tolist(), edges.tolist(), line_edges.tolist(), strict=True)]


class Bench:
    """One dataset on the device, and its training step."""

    def __init__(self, kind: str, options: argparse.Namespace) -> None:
        self.options = options
        self.items = draw(kind, options.graphs)
        self.sizes = SizeTable.from_counts(*(list(column) for column in zip(*self.items, strict=True)))
        self.samples = [self.make().sample(item) for item in self.items]

    def make(self) -> LineGraphWorkload:
        """Make a new workload."""
        return LineGraphWorkload("cuda:0", width=self.options.width)

    def calibration(self) -> Calibration:
        """Calibrate on the dataset."""
        config = CalibrationConfig(probes=24, max_graphs=BATCH)
        calibration = calibrate(self.make(), self.items, self.sizes, open_probe("cuda:0"), config=config)
        clear()
        calibration = with_overheads(calibration, self.make(), self.items, self.sizes, "cuda:0")
        clear()
        return calibration

    def run(self, batches: Batches, memory: int | None = None) -> dict[str, Any]:
        """Train on the batches with this memory, from an empty cache; return whether they fit, and the peaks."""
        clear(memory)
        before = torch.cuda.memory_stats().get("num_alloc_retries", 0)
        fits = True
        try:
            self._train(batches)
        except torch.cuda.OutOfMemoryError:
            fits = False
        stats = torch.cuda.memory_stats()
        clear()
        return {
            "fits": fits,
            "retries": stats["num_alloc_retries"] - before,
            "allocated": stats["allocated_bytes.all.peak"],
            "reserved": stats["reserved_bytes.all.peak"],
        }

    def _train(self, batches: Batches) -> None:
        workload = self.make()
        for batch in batches:
            workload.step(workload.batch([self.samples[place] for place in batch]))


def clear(memory: int | None = None) -> None:
    """Return all cached memory to the device, and limit what this process may take."""
    gc.collect()
    torch._C._cuda_clearCublasWorkspaces()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    if STAND_IN:
        # It reads its limit at each request; a fraction of a device is only a rough limit of expandable segments.
        os.environ["STUBCUDA_BYTES"] = str(memory or 2**40)
        return
    total = torch.cuda.mem_get_info()[1]
    torch.cuda.set_per_process_memory_fraction(1.0 if memory is None else memory / total)


def least_device(bench: Bench, batches: Batches, step: int) -> dict[str, Any]:
    """Bisect the smallest memory, to within `step` bytes, that the batches fit in."""
    free = bench.run(batches)
    fails, fits = 0, -(-free["reserved"] // step)
    while fits - fails > 1:
        middle = (fits + fails) // 2
        if bench.run(batches, middle * step)["fits"]:
            fits = middle
        else:
            fails = middle
    return {"allocated": free["allocated"], "reserved": free["reserved"], "least_device": fits * step}


def balanced_batches(bench: Bench, calibration: Calibration, count: int) -> tuple[Batches, int]:
    """Return `count` batches of `NodeBudgetSampler`, and the smallest memory that gives so few."""
    mean = float(calibration.graph_bytes(bench.sizes).sum()) / count
    for slack in np.arange(1.001, 1.2, 0.002):
        memory = int(calibration.fixed + mean * slack)
        sampler = NodeBudgetSampler(bench.sizes, calibration=calibration, memory=memory)
        if len(sampler) <= count:
            return [*sampler], memory
    raise SystemExit("no budget gives so few batches")


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """Compare a fixed number of graphs per batch with balanced batches."""
    bench = Bench("crystals", options)
    calibration = bench.calibration()
    order = np.random.default_rng(0).permutation(len(bench.items))
    fixed = [order[start : start + BATCH].tolist() for start in range(0, len(order), BATCH)]
    batches = {"fixed": fixed, "balanced": balanced_batches(bench, calibration, len(fixed))[0]}
    devices = {name: least_device(bench, plan, options.step) for name, plan in batches.items()}
    return {**devices, "batches": {name: len(plan) for name, plan in batches.items()}}


def orders(loads: Sequence[float]) -> dict[str, list[int]]:
    """Return orders of the batches in which the allocator's cache fits badly."""
    up = np.argsort(loads, kind="stable").tolist()
    turns = [place for pair in zip(up, up[::-1], strict=True) for place in pair][: len(up)]
    return {"largest first": up[::-1], "smallest first": up, "alternating": turns}


def device_for(budget: int, calibration: Calibration, setting: str) -> int:
    """Return the smallest device of which `nodebudget plan --capacity` leaves this budget for a step, bytes."""
    # Memory outside PyTorch is not limited here.
    left = lambda capacity: device_budget(capacity, calibration, setting=setting, outside=0).memory  # noqa: E731
    fails, enough = budget, 4 * budget + 2**28
    while enough - fails > 2**10:
        middle = (fails + enough) // 2
        try:
            fits = left(middle) >= budget
        except DoesNotFitError:
            fits = False
        fails, enough = (fails, middle) if fits else (middle, enough)
    return enough


def planned(options: argparse.Namespace, setting: str) -> list[dict[str, Any]]:
    """Plan each dataset for M bytes, and run it on M bytes."""
    rows = []
    for kind in DATASETS:
        bench = Bench(kind, options)
        calibration = bench.calibration()
        batches, budget = balanced_batches(bench, calibration, -(-options.graphs // BATCH))
        memory = device_for(budget, calibration, setting)
        loads = [float(calibration.graph_bytes(bench.sizes)[batch].sum()) for batch in batches]
        for order, places in orders(loads).items():
            result = bench.run([batches[place] for place in places], memory)
            rows.append({"dataset": kind, "order": order, "memory": memory, "batches": len(batches), **result})
    return rows


def in_own_process(setting: str, script: str = __file__) -> dict[str, Any]:
    """Run a script like this one with a setting of the allocator, which reads it once per process."""
    environment = {**os.environ, "PYTORCH_ALLOC_CONF": SETTINGS[setting]}
    # The allocator warns each time that memory runs out, which is measured here.
    environment["TORCH_CPP_LOG_LEVEL"] = "ERROR"
    command = [sys.executable, "-W", "ignore", script, *sys.argv[1:], "--setting", setting]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def outcome(row: dict[str, Any], memory: int) -> str:
    """Format the result of an epoch on this memory."""
    cells = f"{memory / MIB:8.0f}{row['reserved'] / MIB:10.0f}{row['reserved'] / memory:8.1%}"
    return cells + (f"{row['retries']:9}" if row["fits"] else "  out of memory")


def text(result: dict[str, Any]) -> str:
    """Lay out both parts, MiB."""
    lines = [f"an epoch of {result['graphs']} crystals on {result['where']} (torch {result['torch']}), MiB", ""]
    lines.append(f"{'setting':12}{'batches':10}{'allocated':>10}{'reserved':>10}{'least device':>14}")
    for setting, parts in result["settings"].items():
        for name in ("fixed", "balanced"):
            row = parts["compare"][name]
            cells = f"{row['allocated'] / MIB:10.0f}{row['reserved'] / MIB:10.0f}{row['least_device'] / MIB:14.0f}"
            lines.append(f"{setting:12}{name:10}{cells}")
    lines += ["", f"{'setting':12}{'dataset':10}{'order':16}{'memory':>8}{'reserved':>10}{'used':>8}  retries"]
    for setting, parts in result["settings"].items():
        for row in parts["planned"]:
            lines.append(f"{setting:12}{row['dataset']:10}{row['order']:16}{outcome(row, row['memory'])}")
    return "\n".join(lines)


def main() -> None:
    """Run both parts and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--graphs", type=int, default=1280, help="crystals in an epoch")
    parser.add_argument("--width", type=int, default=64, help="of the network's hidden layers")
    parser.add_argument("--step", type=int, default=8 * MIB, help="precision of the least device, bytes")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--setting", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("there is no CUDA device to run on; run it on one, or under a stand-in")
    if options.setting:
        print(json.dumps({"compare": compare(options), "planned": planned(options, options.setting)}))
        return
    where = "the stub device" if STAND_IN else torch.cuda.get_device_name()
    settings = {setting: in_own_process(setting) for setting in SETTINGS}
    result = {"where": where, "torch": torch.__version__, "graphs": options.graphs, "settings": settings}
    print(json.dumps(result, indent=2) if options.json else text(result))


if __name__ == "__main__":
    main()
