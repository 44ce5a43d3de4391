"""The time that the monitor adds to a training step, as a ratio within one run.

    python scripts/benchmarks/monitor_overhead.py [--hidden 64] [--batch 16] [--steps 40] [--device cpu] [--json]

Trains real ALIGNN on the AFLOW prototypes that come with pymatgen. Steps with the monitor, without it, and without it
again alternate on the same batch; ratios are medians over the batches, and that of the two without is the noise. Times
are processor time on the CPU, which other processes do not add to, and wall-clock time on a GPU. Since the cost may be
within the noise, the monitor is also timed by itself, between the same steps, around an empty step.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nodebudget import MemoryMonitor
from nodebudget.calibration.memory_model import Calibration, ErrorSummary
from nodebudget.calibration.prediction_interval import PredictionBound
from nodebudget.datasets.example_crystals import example_datasets
from nodebudget.workloads.alignn import AlignnWorkload

#: The time of a prediction does not depend on these values.
CALIBRATION = Calibration(
    coefficients={"fixed": 1e8, "per_graph": 0.0, "per_node": 2e4, "per_edge": 1e4, "per_line_edge": 5e3},
    columns=("graphs", "nodes", "edges", "line_edges"),
    floor=0.0,
    resident=1e8,
    holdout=ErrorSummary(0.0, 0.0, 8),
    fit=ErrorSummary(0.0, 0.0, 16),
    bound=PredictionBound(0.01, 8, 1e12),
)


def prepare(options: argparse.Namespace) -> tuple[AlignnWorkload, list[Any]]:
    """Make the model and its batches on the device."""
    workload = AlignnWorkload(
        options.device, hidden_features=options.hidden, alignn_layers=options.layers, gcn_layers=options.layers
    )
    crystals = example_datasets()["small cells"]
    samples = [workload.sample(crystal) for crystal in crystals[: 8 * options.batch]]
    starts = range(0, len(samples) - options.batch + 1, options.batch)
    return workload, [workload.batch(samples[start : start + options.batch]) for start in starts]


def compare(workload: AlignnWorkload, batches: list[Any], monitor: MemoryMonitor, steps: int) -> dict[str, list[float]]:
    """Time steps with and without the monitor, alternating, and the monitor alone."""
    seconds: dict[str, list[float]] = {"without": [], "with": [], "again": [], "alone": []}
    wait = torch.cuda.synchronize if workload.device.type == "cuda" else (lambda: None)
    clock = time.perf_counter if workload.device.type == "cuda" else time.process_time
    for step in range(steps + 2):
        batch = batches[step % len(batches)]
        # The order rotates too.
        ways = ("without", "with", "again")
        for way in ways[step % 3 :] + ways[: step % 3]:
            wait()
            start = clock()
            if way == "with":
                with monitor.step(batch, waited=0.0):
                    workload.step(batch)
            else:
                workload.step(batch)
            wait()
            seconds[way].append(clock() - start)
        start = clock()
        with monitor.step(batch, waited=0.0):
            pass
        seconds["alone"].append(clock() - start)
    # The first steps also allocate the optimizer's state.
    return {way: taken[2:] for way, taken in seconds.items()}


def disk_seconds(folder: Path, times: int = 50) -> float:
    """Return the seconds that fsync would add to a line."""
    line = b"x" * 400 + b"\n"
    file = os.open(folder / "synced", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    start = time.perf_counter()
    for _ in range(times):
        os.write(file, line)
        os.fsync(file)
    taken = (time.perf_counter() - start) / times
    os.close(file)
    return taken


def ratio(above: list[float], below: list[float]) -> float:
    """Return the median ratio of pairs."""
    return float(np.median(np.array(above) / np.array(below)))


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden", type=int, default=64, help="width of ALIGNN")
    parser.add_argument("--layers", type=int, default=4, help="ALIGNN layers, and as many on the crystal graph")
    parser.add_argument("--batch", type=int, default=16, help="crystals per batch")
    parser.add_argument("--steps", type=int, default=40, help="steps of each kind")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    workload, batches = prepare(options)
    with tempfile.TemporaryDirectory() as folder:
        with MemoryMonitor(f"{folder}/run.jsonl", calibration=CALIBRATION, device=options.device) as monitor:
            seconds = compare(workload, batches, monitor, options.steps)
        synced = disk_seconds(Path(folder))
    medians = {way: float(np.median(times)) for way, times in seconds.items()}
    result = {
        "steps": options.steps,
        "median_seconds": medians,
        "with_over_without": ratio(seconds["with"], seconds["without"]),
        "without_over_without": ratio(seconds["again"], seconds["without"]),
        "alone_share_of_step": medians["alone"] / medians["without"],
        "disk_wait_share_of_step": synced / medians["without"],
    }
    if options.json:
        print(json.dumps(result, indent=2))
        return
    print(f"median of {options.steps} steps: {1000 * medians['without']:.1f} ms without the monitor")
    print(f"with the monitor / without:              {result['with_over_without']:.4f}")
    print(f"without / without, the noise:            {result['without_over_without']:.4f}")
    print(f"the monitor alone, {1e6 * medians['alone']:.0f} µs:  {result['alone_share_of_step']:.4%} of a step")
    print(f"fsync after each line, which the monitor does not do: {result['disk_wait_share_of_step']:.4%} more")


if __name__ == "__main__":
    main()
