"""What planning takes for many graphs, many ranks, and when ranks share plans.

    python scripts/benchmarks/scale.py [--graphs 1e6 1e7] [--ranks 64 1024] [--processes 2 4 8] [--json]

Tables of drawn sizes are written uncompressed and mapped. Each figure of memory is of a process of its own. 100 million
graphs take about 2.4 GB of disk and some GB of memory: `--graphs 1e8 --only planning`.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from nodebudget import NodeBudgetSampler, SizeTable
from nodebudget.calibration.memory_model import Calibration, ErrorSummary
from nodebudget.calibration.prediction_interval import PredictionBound
from nodebudget.calibration.time_model import TimeModel

#: Processes start with the libraries loaded, and with nothing else.
START = multiprocessing.get_context("forkserver")
MEAN_GRAPHS = 64
#: As ALIGNN has them, about: bytes and seconds.
COSTS = {"fixed": 1e8, "per_graph": 0.0, "per_node": 24e3, "per_edge": 13.5e3, "per_line_edge": 5.5e3}
TIMES = TimeModel({"fixed": 0.02, "per_graph": 1e-5, "per_node": 2e-6, "per_edge": 4e-7, "per_line_edge": 8e-8}, 0.0)


def calibration() -> Calibration:
    exact = ErrorSummary(0.0, 0.0, 8)
    return Calibration(
        COSTS, ("graphs", "nodes", "edges", "line_edges"), 0.0, 1e8, exact, exact, bound=PredictionBound(0.0, 8, 1e15)
    )


def write_table(path: str, graphs: int) -> None:
    rng = np.random.default_rng(0)
    nodes = np.maximum(1, rng.lognormal(3, 0.6, graphs)).astype(np.int64)
    edges = nodes * rng.integers(11, 15, graphs)
    SizeTable.from_counts(nodes, edges, edges * rng.integers(11, 15, graphs)).save(path, compress=False)


def in_process(work: Callable[..., Any], *arguments: Any) -> Any:
    """Return what `work` returns in a fresh process."""
    out = START.SimpleQueue()
    process = START.Process(target=_put, args=(out, work, arguments))
    process.start()
    result = out.get()
    process.join()
    return result


def _put(out: Any, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    out.put(work(*arguments))


def memory(name: str) -> int:
    """Return an entry of this process's status, bytes: VmHWM is its highest resident set, RssAnon its own memory."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def sampler_of(sizes: SizeTable, by: str, **options: Any) -> NodeBudgetSampler:
    """Batches of about as many graphs, by a maximum of line-graph edges or by predicted bytes."""
    if by == "edges":
        maximum = int(sizes["line_edges"].mean() * MEAN_GRAPHS)
        return NodeBudgetSampler(sizes, max_line_edges=maximum, oversized="skip", **options)
    model = calibration()
    mean = sum(COSTS[f"per_{name[:-1]}"] * sizes[name].mean() for name in ("nodes", "edges", "line_edges"))
    memory = int(model.fixed + mean * MEAN_GRAPHS)
    return NodeBudgetSampler(sizes, calibration=model, memory=memory, oversized="skip", **options)


def planning(path: str, by: str) -> dict[str, Any]:
    """Map a table and plan two epochs, as a training process does."""
    before, times = memory("VmHWM"), [time.perf_counter()]
    sizes = SizeTable.load(path, mmap=True)
    times.append(time.perf_counter())
    sampler = sampler_of(sizes, by)
    next(iter(sampler))
    times.append(time.perf_counter())
    sampler.set_epoch(1)
    next(iter(sampler))
    times.append(time.perf_counter())
    load, first, following = np.diff(times).tolist()
    peak = memory("VmHWM")
    return {
        **{"graphs": len(sizes), "by": by, "load_seconds": load, "first_seconds": first, "next_seconds": following},
        **{"peak_bytes": peak, "libraries_bytes": before, "bytes_per_graph": (peak - before) / len(sizes)},
        "table_bytes": sum(values.nbytes for values in sizes.columns.values()),
    }


def ranks(path: str, world: int) -> list[dict[str, Any]]:
    """Simulate so many ranks: the largest load of each step over its ranks' mean, and the time of a rank."""
    sizes = SizeTable.load(path, mmap=True)
    rows = []
    for name, options in {"bytes": {}, "time": {"balance": "time", "time_model": TIMES}}.items():
        started = time.perf_counter()
        sampler = sampler_of(sizes, "bytes", num_replicas=world, rank=world - 1, **options)
        plan = sampler.plan
        planned = time.perf_counter()
        share = list(sampler)
        taken = time.perf_counter()
        rows.append(
            {
                **{"balance": name, "ranks": world, "graphs": len(sizes), "batches": len(plan), "steps": len(share)},
                "equal_steps": len(plan) == world * len(share),
                **uneven(plan.indices, plan.offsets, sizes, world),
                **{"plan_seconds": planned - started, "share_seconds": taken - planned},
                "over_bound": len(plan) / plan.lower_bound - 1,
            }
        )
    order, steps = np.random.default_rng(0).permutation(len(sizes)), len(plan) // world
    ends = np.linspace(0, len(sizes), steps * world + 1).astype(int)
    about = {"ranks": world, "graphs": len(sizes), "batches": steps * world, "steps": steps, "equal_steps": True}
    return [{"balance": "none (shuffled)", **about, **uneven(order, ends, sizes, world)}, *rows]


def uneven(indices: np.ndarray, offsets: np.ndarray, sizes: SizeTable, world: int) -> dict[str, float]:
    """Return the largest load of a step's ranks over their mean, in bytes and time: mean and worst over the steps."""
    shares = {}
    for name, values, fixed in (
        ("bytes", calibration().graph_bytes(sizes), COSTS["fixed"]),
        ("seconds", TIMES.graph_seconds(sizes), TIMES.coefficients["fixed"]),
    ):
        loads = (np.add.reduceat(values[indices], offsets[:-1]) + fixed).reshape(-1, world)
        over = loads.max(axis=1) / loads.mean(axis=1) - 1
        shares |= {f"{name}_over_mean": float(over.mean()), f"{name}_over_worst": float(over.max())}
    return shares


def rank(path: str, place: int, world: int, share: str | None, barrier: Any, out: Any) -> None:
    """Plan three epochs as one of several ranks."""
    sizes = SizeTable.load(path, mmap=True)
    barrier.wait()
    before, times = memory("RssAnon"), []
    sampler = None
    for epoch in range(3):
        barrier.wait()
        started = time.perf_counter()
        sampler = sampler or sampler_of(sizes, "bytes", num_replicas=world, rank=place, share=share)
        sampler.set_epoch(epoch)
        next(iter(sampler))
        barrier.wait()
        times.append(time.perf_counter() - started)
    out.put((times[0], float(np.median(times[1:])), memory("RssAnon") - before))


def sharing(path: str, graphs: int, world: int, share: str | None) -> dict[str, Any]:
    """Let ranks plan, each for itself or together."""
    out, barrier = START.SimpleQueue(), START.Barrier(world)
    processes = [START.Process(target=rank, args=(path, place, world, share, barrier, out)) for place in range(world)]
    for process in processes:
        process.start()
    outcomes = [out.get() for _ in processes]
    for process in processes:
        process.join()
    first, following, memory_kept = (np.array(column) for column in zip(*outcomes, strict=True))
    about = {"graphs": graphs, "ranks": world, "shared": share is not None}
    times = {"first_seconds": float(first.max()), "next_seconds": float(following.max())}
    return {**about, **times, "kept_bytes": float(memory_kept.sum())}


def show(rows: dict[str, list[dict[str, Any]]]) -> None:
    gb = 1e9
    if rows["planning"]:
        print("planning from a mapped table, one process (libraries: numpy, scipy, torch)")
        print(f"{'graphs':>12}{'by':>7}{'load':>9}{'first':>9}{'next':>9}{'peak':>10}{'libraries':>11}{'B/graph':>9}")
    for row in rows["planning"]:
        seconds = "".join(f"{row[f'{name}_seconds']:8.2f}s" for name in ("load", "first", "next"))
        sizes = f"{row['peak_bytes'] / gb:7.2f} GB{row['libraries_bytes'] / gb:8.2f} GB{row['bytes_per_graph']:9.0f}"
        print(f"{row['graphs']:12,}{row['by']:>7}{seconds}{sizes}")
    if rows["ranks"]:
        print("\nranks, simulated: the largest load of a step's ranks over their mean, mean and worst over the steps")
        print(f"{'ranks':>6} {'balance':16}{'batches':>9}{'steps':>7}{'bytes':>16}{'time':>16}{'plan':>8}{'share':>8}")
    for row in rows["ranks"]:
        cells = f"{row['bytes_over_mean']:8.2%}{row['bytes_over_worst']:8.2%}"
        cells += f"{row['seconds_over_mean']:8.2%}{row['seconds_over_worst']:8.2%}"
        cost = f"{row['plan_seconds']:7.2f}s{row['share_seconds']:7.3f}s" if "plan_seconds" in row else ""
        print(f"{row['ranks']:6,} {row['balance']:16}{row['batches']:9,}{row['steps']:7,}{cells}{cost}")
    if rows["sharing"]:
        print("\nreal processes: until all have their batches, and what they keep together")
        print(f"{'graphs':>12}{'ranks':>7} {'plans':14}{'first':>9}{'next':>9}{'kept':>11}")
    for row in rows["sharing"]:
        how = "shared" if row["shared"] else "each its own"
        cells = f"{row['first_seconds']:8.2f}s{row['next_seconds']:8.2f}s{row['kept_bytes'] / 1e6:8.0f} MB"
        print(f"{row['graphs']:12,}{row['ranks']:7} {how:14}{cells}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--graphs", type=float, nargs="+", default=[1e6, 1e7], help="how many graphs")
    parser.add_argument("--ranks", type=int, nargs="+", default=[64, 1024], help="simulated ranks")
    parser.add_argument("--processes", type=int, nargs="+", default=[2, 4, 8], help="real ranks that share plans")
    parser.add_argument("--only", choices=["planning", "ranks", "sharing"], help="one part")
    parser.add_argument("--folder", help="where tables go for the time being")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    START.set_forkserver_preload(
        ["torch", "scipy.stats", "nodebudget.sampling.sampler", "nodebudget.analysis.throughput"]
    )
    rows: dict[str, list[dict[str, Any]]] = {"planning": [], "ranks": [], "sharing": []}
    parts = [options.only] if options.only else list(rows)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for graphs in map(int, options.graphs):
            path = f"{folder}/{graphs}.npz"
            in_process(write_table, path, graphs)
            if "planning" in parts:
                rows["planning"] += [in_process(planning, path, by) for by in ("edges", "bytes")]
            if "ranks" in parts:
                rows["ranks"] += [row for world in options.ranks for row in in_process(ranks, path, world)]
            if "sharing" in parts:
                for world in options.processes:
                    for share in (None, f"{folder}/plans"):
                        rows["sharing"].append(sharing(path, graphs, world, share))
            Path(path).unlink()
    if options.json:
        print(json.dumps(rows, indent=2))
    else:
        show(rows)


if __name__ == "__main__":
    main()
