"""Ranks that wait for each other: real processes that train real ALIGNN, with batches of several samplers.

    python scripts/benchmarks/ddp.py [crystals.json] [--ranks 2] [--peers PYTHON SITE] [--json]
    python scripts/benchmarks/ddp.py --simulate STEPS.json      # 8 to 1,024 ranks, from measured steps

All samplers get the same crystals and make the same number of optimizer steps. Each rank computes its gradients, then
the ranks wait for the slowest (a barrier, measured), average gradients (gloo) and step. The share of waiting is the
time in the barrier over the time of the epoch, over all ranks; "processor" is what it would be by the processor time of
computing, which other programs on the machine do not change. By default the crystals come with pymatgen.
`--peers` names the Python of an environment in which fairchem-core and metatrain are installed, and its site-packages:
their samplers run there, see `ddp_peers.py`.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import subprocess
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed

from nodebudget import NodeBudgetSampler, SizeTable, measure_samples, open_data
from nodebudget.calibration.time_model import TimedStep, TimeModel, fit_times
from nodebudget.datasets.example_crystals import example_datasets
from nodebudget.workloads.alignn import AlignnWorkload

START = multiprocessing.get_context("forkserver")
EPOCHS = 3
Epochs = list[list[list[list[int]]]]  # epoch → rank → batch → crystal


def work(width: int) -> AlignnWorkload:
    torch.manual_seed(0)
    return AlignnWorkload(hidden_features=width, alignn_layers=2, gcn_layers=2)


def load(options: argparse.Namespace) -> list[dict[str, Any]]:
    crystals = [*open_data(options.data)] if options.data else example_datasets()["large cells"]
    return crystals[: options.graphs]


def timed_step(made: AlignnWorkload, batch: Sequence[Any]) -> float:
    """Compute gradients on a batch and return the seconds that it took."""
    started = time.perf_counter()
    *inputs, target = batch
    made.optimizer.zero_grad()
    output = made.model(tuple(inputs)).reshape(-1)
    torch.nn.functional.mse_loss(output, target).backward()
    return time.perf_counter() - started


def measure_times(options: argparse.Namespace) -> tuple[SizeTable, TimeModel]:
    """Count the crystals, and fit the seconds of a step on batches of several sizes."""
    made, crystals = work(options.width), load(options)
    sizes = measure_samples(made, crystals)
    samples = [made.sample(crystal) for crystal in crystals]
    rng, steps = np.random.default_rng(0), []
    for count in (1, 2, 3, 4, 5, 6, 8, 10, 12, 16):
        rows = rng.choice(len(samples), count, replace=False)
        batch = made.batch([samples[row] for row in rows])
        seconds = [timed_step(made, batch) for _ in range(3)]
        steps.append(TimedStep(sizes.totals(rows), statistics.median(seconds)))
    return sizes, fit_times(steps)


def plans(sizes: SizeTable, times: TimeModel, ranks: int, batch: int, epochs: int = EPOCHS) -> dict[str, Epochs]:
    """Return the batches of each rank for shuffled fixed batches, and for nodebudget by size and by time."""
    per_step = batch * ranks
    steps = len(sizes) // per_step
    found: dict[str, Epochs] = {"shuffled fixed batches": []}
    for epoch in range(epochs):
        order = np.random.default_rng(epoch).permutation(len(sizes))[: steps * per_step].reshape(steps, ranks, batch)
        found["shuffled fixed batches"].append([order[:, rank].tolist() for rank in range(ranks)])
    ways: dict[str, dict[str, Any]] = {
        "nodebudget, by line-graph edges": {"balance": "line_edges"},
        "nodebudget, by time": {"balance": "time", "time_model": times},
    }
    for name, options in ways.items():
        sampler = NodeBudgetSampler(
            sizes, graphs_per_step=per_step, last="drop", num_replicas=ranks, rank=0, **options
        )  # fmt: skip
        found[name] = []
        for epoch in range(epochs):
            sampler.set_epoch(epoch)
            found[name].append([list(sampler.plan.rank_batches(rank)) for rank in range(ranks)])
    return found


def peers(python: str, site: str, sizes: SizeTable, ranks: int, batch: int) -> dict[str, Epochs]:
    """Ask the samplers of other projects, in their environment."""
    steps = len(sizes) // (batch * ranks)
    request = {"nodes": sizes["nodes"].tolist(), "ranks": ranks, "batch": batch, "steps": steps, "epochs": EPOCHS}
    command = [python, str(Path(__file__).with_name("ddp_peers.py")), site]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        command, input=json.dumps(request), env=environment, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def train(rank: int, ranks: int, folder: str, options: argparse.Namespace, ways: dict[str, Epochs]) -> None:
    """One rank: train the epochs of each sampler in turn; write the seconds of computing and of waiting per step."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=ranks)
    made = work(options.width)
    samples = [made.sample(crystal) for crystal in load(options)]
    parameters = [parameter for parameter in made.model.parameters() if parameter.requires_grad]
    seconds: dict[str, list[list[float]]] = {name: [] for name in ways}
    timed_step(made, made.batch(samples[:4]))
    # Samplers take turns in each epoch, so that a busy machine is busy for all of them.
    for epoch in range(EPOCHS):
        for name, epochs in ways.items():
            for rows in epochs[epoch][rank]:
                batch = made.batch([samples[row] for row in rows])
                torch.distributed.barrier()
                before = time.process_time()
                computing = timed_step(made, batch)
                processor = time.process_time() - before
                started = time.perf_counter()
                torch.distributed.barrier()
                waiting = time.perf_counter() - started
                for parameter in parameters:
                    if parameter.grad is None:
                        parameter.grad = torch.zeros_like(parameter)
                    torch.distributed.all_reduce(parameter.grad)
                    parameter.grad /= ranks
                made.optimizer.step()
                exchanging = time.perf_counter() - started - waiting
                seconds[name].append([epoch, computing, waiting, exchanging, processor])
    Path(folder, f"{rank}.json").write_text(json.dumps(seconds))
    torch.distributed.destroy_process_group()


def measured(options: argparse.Namespace, sizes: SizeTable, ways: dict[str, Epochs]) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        arguments = (options.ranks, folder, options, ways)
        ranks = [START.Process(target=train, args=(rank, *arguments)) for rank in range(options.ranks)]
        for process in ranks:
            process.start()
        for process in ranks:
            process.join()
        found = [json.loads(Path(folder, f"{rank}.json").read_text()) for rank in range(options.ranks)]
    rows = []
    for name, epochs in ways.items():
        # Rank, step, and of each the epoch and the seconds of computing, waiting and exchanging.
        table = np.array([of_rank[name] for of_rank in found])
        epoch_seconds = [
            float(table[0, table[0, :, 0] == epoch, 1:4].sum()) for epoch in range(EPOCHS)
        ]  # fmt: skip
        crystals = [row for of_rank in epochs[0] for batch in of_rank for row in batch]
        rows.append(
            {
                "sampler": name,
                "steps": len(epochs[0][0]),
                "crystals": len(set(crystals)),
                "repeated": len(crystals) - len(set(crystals)),
                "graphs_per_step_cv": per_step_cv(epochs, np.ones(len(sizes))),
                "epoch_seconds": statistics.median(epoch_seconds),
                "waiting": float(table[..., 2].sum() / table[..., 1:4].sum()),
                # What ranks would wait on a machine that does nothing else.
                "waiting_by_processor_time": float(1 - table[..., 4].mean() / table[..., 4].max(axis=0).mean()),
            }
        )
    return rows


def per_step_cv(epochs: Epochs, values: np.ndarray) -> float:
    """Return how much the sum of values over all ranks varies between steps."""
    steps = [sum(values[batch].sum() for batch in step) for ranks in epochs for step in zip(*ranks, strict=True)]
    return float(np.std(steps) / np.mean(steps))


def simulated(sizes: SizeTable, times: TimeModel, batch: int) -> list[dict[str, Any]]:
    """Predict the share of waiting for 2 to 1,024 ranks, where a step takes what the times say."""
    rows = []
    seconds = times.graph_seconds(sizes)
    for ranks in (2, 8, 64, 1024):
        # As many copies of the crystals as give each rank some steps.
        copies = max(1, -(-16 * ranks * batch // len(sizes)))
        large = SizeTable({name: np.tile(values, copies) for name, values in sizes.columns.items()})
        for name, epochs in plans(large, times, ranks, batch, epochs=1).items():
            shares = []
            for step in zip(*epochs[0], strict=True):
                loads = [times.coefficients["fixed"] + np.tile(seconds, copies)[rows_].sum() for rows_ in step]
                shares.append((max(loads), float(np.mean(loads))))
            waiting = 1 - sum(mean for _, mean in shares) / sum(largest for largest, _ in shares)
            rows.append({"sampler": name, "ranks": ranks, "waiting": float(waiting)})
    return rows


def show(rows: list[dict[str, Any]], simulation: list[dict[str, Any]]) -> None:
    if rows:
        head = f"{'steps':>6}{'crystals':>10}{'repeated':>10}{'s/epoch':>9}"
        head += f"{'waiting':>9}{'processor':>11}{'graphs per step, CV':>21}"
        print(f"{'sampler':<42}{head}")
    for row in rows:
        cells = f"{row['steps']:6}{row['crystals']:10}{row['repeated']:10}{row['epoch_seconds']:9.2f}"
        cells += f"{row['waiting']:9.1%}{row['waiting_by_processor_time']:11.1%}{row['graphs_per_step_cv']:21.1%}"
        print(f"{row['sampler']:<42}{cells}")
    ranks = sorted({row["ranks"] for row in simulation})
    print(f"\n{'waiting, simulated; ranks:':<42}" + "".join(f"{count:>9,}" for count in ranks))
    for name in dict.fromkeys(row["sampler"] for row in simulation):
        shares = [row["waiting"] for row in simulation if row["sampler"] == name]
        print(f"{name:<42}" + "".join(f"{share:9.1%}" for share in shares))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", help="crystals; by default those that come with pymatgen")
    parser.add_argument("--graphs", type=int, default=100_000, help="the first so many")
    parser.add_argument("--ranks", type=int, default=2, help="processes")
    parser.add_argument("--batch", type=int, default=8, help="mean crystals per rank and step")
    parser.add_argument("--width", type=int, default=32, help="features of the network")
    parser.add_argument("--peers", nargs=2, metavar=("PYTHON", "SITE"), help="environment of other projects' samplers")
    parser.add_argument("--simulate", metavar="TIMES", help="only simulate, with a time model as JSON: coefficients")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    sizes, times = measure_times(options)
    rows: list[dict[str, Any]] = []
    if options.simulate:
        times = TimeModel(json.loads(Path(options.simulate).read_text())["coefficients"], 0.0)
    else:
        ways = plans(sizes, times, options.ranks, options.batch)
        if options.peers:
            ways |= peers(*options.peers, sizes, options.ranks, options.batch)
        rows = measured(options, sizes, ways)
    simulation = simulated(sizes, times, options.batch)
    if options.json:
        print(json.dumps({"measured": rows, "simulated": simulation, "coefficients": times.coefficients}, indent=2))
    else:
        show(rows, simulation)


if __name__ == "__main__":
    main()
