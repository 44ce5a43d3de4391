"""Processor time of commands that only plan, compared with importing what they print with.

    python scripts/benchmarks/startup.py [--runs 5] [--json]

Prints user and system time of each command over that of `python -c "import numpy, rich, click"`: medians of runs that
alternate with the baseline, so that a busy machine slows both. The goal is a ratio of 2 for suggest, compare and plan.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from nodebudget import SizeTable

GOLDEN = Path(__file__).parents[2] / "tests" / "golden"
BASELINE = ["-c", "import numpy, rich, click"]


def commands(folder: Path) -> dict[str, list[str]]:
    """Return the commands to time; what they read is written to the folder."""
    nodes = np.random.default_rng(0).integers(5, 60, 300)
    for name, factor in (("a", 1), ("b", 2)):
        table = SizeTable.from_counts(factor * nodes, 12 * factor * nodes, 150 * factor * nodes)
        for suffix in ("npz", "csv"):
            table.save(folder / f"{name}.{suffix}")
    record = json.loads((GOLDEN / "calibration_v2.json").read_text())
    record["device"] = {"device": "cuda:0", "name": "NVIDIA H200", "memory": 150_000_000_000}
    (folder / "gpu.json").write_text(json.dumps(record))
    lines = {
        "suggest, means": "suggest --reference 35 --batch-size 64 --target 20",
        "suggest, sizes": "suggest --reference a.npz --batch-size 64 --target b.npz",
        "compare": "compare a.npz b.csv --batch-size 16",
        "plan, .npz": "plan a.npz --max-nodes 1000",
        "plan, .csv": "plan a.csv --max-nodes 1000 --json",
        "plan, memory": f"plan a.npz --calibration {GOLDEN / 'calibration_v2.json'} --memory 100kB",
        "plan, GPU record": "plan a.npz --calibration gpu.json --memory 100kB",
        "monitor": f"monitor {GOLDEN / 'run_v1.jsonl'}",
        "report": f"report {GOLDEN / 'run_v1.jsonl'} {GOLDEN / 'calibration_v2.json'} a.npz -o page.html --force",
        "--help": "--help",
    }
    return {name: ["-m", "nodebudget", *line.split()] for name, line in lines.items()}


def seconds(arguments: list[str], folder: Path) -> float:
    """Return the processor time, user and system, of one Python process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, *arguments], cwd=folder, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)} failed: {done.stderr}")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Time all commands and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5, help="runs of each command")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    # Threads that numpy starts take processor time that depends on the number of cores.
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        timed = {"baseline": BASELINE, **commands(folder)}
        runs: dict[str, list[float]] = {name: [] for name in timed}
        for _ in range(options.runs + 1):
            for name, arguments in timed.items():
                runs[name].append(seconds(arguments, folder))
    # The first run reads from the disk.
    medians = {name: statistics.median(values[1:]) for name, values in runs.items()}
    ratios = {name: value / medians["baseline"] for name, value in medians.items()}
    if options.json:
        print(json.dumps({"seconds": medians, "ratios": ratios}, indent=2))
        return
    print(f"{'command':<16} {'seconds':>8} {'ratio':>6}")
    for name, value in medians.items():
        print(f"{name:<16} {value:>8.2f} {ratios[name]:>6.2f}")


if __name__ == "__main__":
    main()
