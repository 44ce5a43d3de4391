"""The CUDA allocator predicted from a CPU run, compared with what the allocator counts for the same steps.

    bash scripts/test_stubcuda.sh --co -q       # sets up .venv-cuda, with a CUDA build of PyTorch
    .venv-cuda/bin/python scripts/benchmarks/allocator.py [--batches 14] [--json]

Training steps of a network of edge-gated convolutions on graphs and line graphs (tests/fixtures/linegraph_net.py), on
a sequence of batches of different sizes: each step starts with the cache of the one before. Without a GPU, run it on a
stand-in device, which allocates but computes nothing; the output then says that it is about the allocator alone.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "fixtures"))
from linegraph_net import LineGraphWorkload, random_sizes

from nodebudget.profiling.cuda_allocator.allocator import (
    CUBLAS_WORKSPACES,
    CUBLAS_WORKSPACES_HOPPER,
    CachingAllocator,
)
from nodebudget.profiling.cuda_allocator.replay import replay, trace_resident, trace_steps

SETTINGS = {"default": "expandable_segments:False", "expandable": "expandable_segments:True"}
MIB = 2**20


def batches(workload: LineGraphWorkload, count: int, maximum: int) -> Iterator[list[Any]]:
    """Draw batches of different numbers of crystals, the same in each run."""
    sizes, rng = random_sizes(512), np.random.default_rng(1)
    for graphs in rng.integers(max(maximum // 8, 1), maximum + 1, count):
        yield [workload.sample(sizes[place]) for place in rng.choice(len(sizes), int(graphs), replace=False)]


def make(options: argparse.Namespace, device: str) -> LineGraphWorkload:
    """Make the workload."""
    torch.manual_seed(0)
    return LineGraphWorkload(
        device, width=options.width, layers=options.layers, norm=options.norm, optimizer=options.optimizer
    )


def predict(options: argparse.Namespace) -> dict[str, list[tuple[int, int]]]:
    """Trace on the CPU; return peak allocated and reserved of each step, for each setting."""
    workload = make(options, "cpu")
    resident = trace_resident(workload)
    newer = torch.cuda.get_device_capability() >= (9, 0)
    workspaces = CUBLAS_WORKSPACES_HOPPER if newer else CUBLAS_WORKSPACES
    drawn = batches(workload, options.batches, options.graphs)
    traces = [*trace_steps(workload, drawn, workspaces=workspaces)]
    peaks: dict[str, list[tuple[int, int]]] = {}
    for name in SETTINGS:
        allocator = CachingAllocator(expandable=name == "expandable")
        replay(resident, allocator)
        peaks[name] = []
        for trace in traces:
            allocator.reset_peaks()
            replay(trace, allocator)
            peaks[name].append((allocator.peak_allocated, allocator.peak_reserved))
    return peaks


def count(options: argparse.Namespace) -> dict[str, Any]:
    """Run on the device; return what its allocator counts."""
    workload, steps = make(options, "cuda:0"), []
    for samples in batches(workload, options.batches, options.graphs):
        torch.cuda.reset_peak_memory_stats()
        batch = workload.batch(samples)
        workload.step(batch)
        del batch
        steps.append((torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()))
    return {"device": torch.cuda.get_device_name(), "steps": steps}


def counted(setting: str) -> dict[str, Any]:
    """Run `count` in a process of its own: the allocator reads its settings once."""
    command = [sys.executable, __file__, *sys.argv[1:], "--count"]
    # The default of newer versions of PyTorch; older ones allocate 1 MiB more, for cuBLASLt.
    environment = {"TORCH_CUBLASLT_UNIFIED_WORKSPACE": "1", **os.environ, "PYTORCH_ALLOC_CONF": SETTINGS[setting]}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """Return predicted and counted bytes of each step, and the largest errors."""
    rows, errors, predicted = [], {}, predict(options)
    for setting, steps in predicted.items():
        real = counted(setting)
        pairs = np.array([[*step] for step in steps]), np.array(real["steps"])
        error = pairs[0] / pairs[1] - 1
        errors[setting] = dict(zip(("allocated", "reserved"), np.abs(error).max(0).tolist(), strict=True))
        for number, (ours, theirs, off) in enumerate(zip(*pairs, error, strict=True), start=1):
            values = zip(("allocated", "reserved"), ours.tolist(), theirs.tolist(), off.tolist(), strict=True)
            kinds = {kind: {"predicted": p, "counted": c, "error": e} for kind, p, c, e in values}
            rows.append({"setting": setting, "step": number, **kinds})
    device = real["device"]
    where = "the stub device" if device == "Stub CUDA device" else device
    return {"where": where, "torch": torch.__version__, "largest_error": errors, "steps": rows}


def table(result: dict[str, Any]) -> str:
    """Format the comparison as a table, in MiB."""
    lines = [f"predicted on a CPU against counted on {result['where']} (torch {result['torch']}), MiB"]
    lines.append(
        f"{'setting':12}{'step':>4}{'allocated':>12}{'counted':>10}{'error':>10}",
    )
    lines[-1] += f"{'reserved':>12}{'counted':>10}{'error':>10}"
    for row in result["steps"]:
        line = f"{row['setting']:12}{row['step']:4}"
        for kind in ("allocated", "reserved"):
            cell = row[kind]
            line += f"{cell['predicted'] / MIB:12.1f}{cell['counted'] / MIB:10.1f}{cell['error']:+10.3%}"
        lines.append(line)
    for setting, errors in result["largest_error"].items():
        lines.append(f"{setting}: max error {errors['allocated']:.3%} allocated, {errors['reserved']:.3%} reserved")
    return "\n".join(lines)


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, default=14, help="training steps in a row")
    parser.add_argument(
        "--graphs", type=int, default=64, help="maximum number of crystals in a batch; the minimum is an eighth"
    )
    parser.add_argument("--width", type=int, default=32, help="of the network's hidden layers")
    parser.add_argument("--layers", type=int, default=2, help="pairs of layers")
    parser.add_argument("--norm", default="LayerNorm", help="LayerNorm or BatchNorm1d")
    parser.add_argument("--optimizer", default="AdamW", help="name in torch.optim")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--count", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.count:
        print(json.dumps(count(options)))
        return
    if not torch.cuda.is_available():
        sys.exit("there is no CUDA device to compare with; run it on one, or under a stand-in")
    result = compare(options)
    print(json.dumps(result, indent=2) if options.json else table(result))


if __name__ == "__main__":
    main()
