"""Does training on balanced batches end where training on batches of a fixed size ends?

    python scripts/mpts_to_jarvis.py mp_20_biternary_val.csv.gz --limit 1000 -o mp20.json
    python scripts/benchmarks/parity.py mp20.json --target formation_energy_per_atom

Real ALIGNN on DGL graphs, once with batches of a fixed size (shuffled) and once with balanced ones under a maximum of
bytes that makes as many batches: the number of steps and the mean number of crystals per batch are the same.
Each seed starts all runs from the same weights and the same split. The fixed run is repeated with another order of the
data, since two runs on the same kind of batches differ, too: that is what a difference has to be held against.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from sets import with_bytes

from nodebudget import NodeBudgetSampler, SizeTable, measure
from nodebudget.datasets.readers.open_dataset import open_data
from nodebudget.utils.optional_imports import require
from nodebudget.workloads.alignn import AlignnWorkload

Epochs = Callable[[int], Iterable[list[int]]]


def load(path: str, target: str, limit: int) -> tuple[list[Any], np.ndarray]:
    """Build alignn's graphs; return samples (g, lg, lattice, target) and targets."""
    entries = [entry for entry in open_data(path).items if isinstance(entry.get(target), (int, float))][:limit]
    if not entries:
        raise SystemExit(f"no crystal of {path} has a number as {target!r}")
    work = AlignnWorkload(alignn_layers=1, gcn_layers=1, hidden_features=8, target=target)
    start = time.perf_counter()
    samples = [work.sample(entry) for entry in entries]
    print(f"{len(samples)} graphs in {time.perf_counter() - start:.0f} s", file=sys.stderr)
    return samples, np.array([entry[target] for entry in entries], dtype=np.float64)


def sizes_of(samples: list[Any]) -> SizeTable:
    counted = measure(samples)
    return with_bytes(counted["nodes"], counted["edges"], counted["line_edges"])


def fixed_epochs(graphs: int, batch: int, seed: int) -> Epochs:
    def epoch(number: int) -> list[list[int]]:
        order = np.random.default_rng([seed, number]).permutation(graphs)
        return [part.tolist() for part in np.array_split(order, -(-graphs // batch))]

    return epoch


def balanced_epochs(sizes: SizeTable, batch: int, seed: int) -> Epochs:
    batches = -(-len(sizes) // batch)
    maximum = -(-int(sizes["bytes"].sum()) // batches)
    sampler = NodeBudgetSampler(sizes, max_columns={"bytes": maximum}, seed=seed)
    while len(sampler) > batches:
        maximum += maximum // 1000
        sampler = NodeBudgetSampler(sizes, max_columns={"bytes": maximum}, seed=seed)

    def epoch(number: int) -> NodeBudgetSampler:
        sampler.set_epoch(number)
        return sampler

    return epoch


def train(samples: list[Any], held_out: list[Any], epochs: Epochs, options: Any, seed: int) -> dict[str, Any]:
    """Train from the weights of `seed`; return the validation error by epoch and what the batches were like."""
    torch.manual_seed(seed)
    shape = {"alignn_layers": options.layers, "gcn_layers": options.layers, "hidden_features": options.hidden}
    work = AlignnWorkload(learning_rate=options.learning_rate, **shape)
    labels = torch.stack([sample[3] for sample in samples])
    mean, scale = labels.mean(), labels.std()
    steps = options.epochs * len(list(epochs(0)))
    schedule = torch.optim.lr_scheduler.OneCycleLR(work.optimizer, options.learning_rate, total_steps=steps)
    errors, graphs, line_edges = [], [], []
    for number in range(options.epochs):
        work.model.train()
        for chosen in epochs(number):
            graph, line_graph, lattice, target = work.batch([samples[place] for place in chosen])
            work.optimizer.zero_grad()
            predicted = work.model((graph, line_graph, lattice)).reshape(-1)
            torch.nn.functional.l1_loss(predicted, (target - mean) / scale).backward()
            work.optimizer.step()
            schedule.step()
            graphs.append(len(chosen))
            line_edges.append(line_graph.num_edges())
        errors.append(validate(work, held_out, float(mean), float(scale)))
    last = errors[-max(1, options.epochs // 5) :]
    return {
        "mae": errors[-1],
        "mae_last_fifth": float(np.mean(last)),
        "steps": len(graphs),
        "graphs": [float(np.mean(graphs)), float(np.std(graphs))],
        "line_edges_cv": float(np.std(line_edges) / np.mean(line_edges)),
        "errors": errors,
    }


@torch.no_grad()
def validate(work: AlignnWorkload, held_out: list[Any], mean: float, scale: float) -> float:
    """Return the mean absolute error in the target's unit."""
    work.model.eval()
    missed = []
    for batch in held_out:
        predicted = work.model(batch[:3]).reshape(-1) * scale + mean
        missed.append((predicted - batch[3]).abs())
    return float(torch.cat(missed).mean())


def study(samples: list[Any], options: Any, seed: int) -> dict[str, Any]:
    """Run all ways on one seed's split."""
    order = np.random.default_rng(seed).permutation(len(samples))
    cut = len(order) // 5
    kept = [samples[place] for place in order[cut:]]
    make = AlignnWorkload(alignn_layers=1, gcn_layers=1, hidden_features=8).batch
    held_out = [make([samples[place] for place in part]) for part in np.array_split(order[:cut], -(-cut // 50))]
    ways = {
        "fixed": fixed_epochs(len(kept), options.batch, seed),
        "fixed, other order": fixed_epochs(len(kept), options.batch, seed + 1000),
        "balanced": balanced_epochs(sizes_of(kept), options.batch, seed),
    }
    results: dict[str, Any] = {"seed": seed}
    for way, epochs in ways.items():
        start = time.perf_counter()
        results[way] = train(kept, held_out, epochs, options, seed)
        results[way]["seconds"] = time.perf_counter() - start
        print(f"seed {seed}, {way}: {results[way]['mae']:.4f}, {results[way]['seconds']:.0f} s", file=sys.stderr)
    return results


def summarise(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Hold the difference between the ways against that between two runs of the same way."""

    def of(way: str) -> np.ndarray:
        return np.array([row[way]["mae"] for row in rows])

    both = np.stack([of("fixed"), of("fixed, other order")])
    fixed = both.mean(axis=0)
    freedom = min(1, len(rows) - 1)
    return {
        "fixed": [float(both.mean()), float(both.std(ddof=1))],
        "balanced": [float(of("balanced").mean()), float(of("balanced").std(ddof=freedom))],
        "balanced_minus_fixed": (of("balanced") - fixed).tolist(),
        "other_order_minus_fixed": (of("fixed, other order") - of("fixed")).tolist(),
    }


def show(rows: list[dict[str, Any]], results: dict[str, Any]) -> None:
    print(
        "\n| seed | way | steps | crystals per batch | line-graph edges, CV | validation MAE | mean of the last fifth |"
    )
    print("| --- " * 7 + "|")
    for row in rows:
        for way in ("fixed", "fixed, other order", "balanced"):
            run = row[way]
            graphs = f"{run['graphs'][0]:.1f} ± {run['graphs'][1]:.2f}"
            errors = f"{run['mae']:.4f} | {run['mae_last_fifth']:.4f}"
            print(f"| {row['seed']} | {way} | {run['steps']} | {graphs} | {run['line_edges_cv']:.2%} | {errors} |")
    for way in ("fixed", "balanced"):
        mean, std = results[way]
        print(f"\n{way}: {mean:.4f} ± {std:.4f} (mean and standard deviation of all runs)")
    for key in ("balanced_minus_fixed", "other_order_minus_fixed"):
        print(f"\n{key.replace('_', ' ')}: {', '.join(f'{value:+.4f}' for value in results[key])}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="crystals with a target, as a JARVIS-style JSON")
    parser.add_argument("--target", default="formation_energy_per_atom", help="its key")
    parser.add_argument("--limit", type=int, default=1000, help="how many crystals; a fifth is for validation")
    parser.add_argument("--batch", type=int, default=32, help="the fixed batch size")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--hidden", type=int, default=32, help="width of the network")
    parser.add_argument(
        "--layers", type=int, default=2, help="layers on the line graph, and as many on the graph alone"
    )
    parser.add_argument("--learning-rate", type=float, default=5e-3)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    require("dgl")
    warnings.simplefilter("ignore")
    samples, targets = load(options.data, options.target, options.limit)
    rows = [study(samples, options, seed) for seed in options.seeds]
    results = {"target_mad": float(np.abs(targets - targets.mean()).mean()), **summarise(rows)}
    if options.json:
        print(json.dumps({"options": vars(options), "crystals": len(samples), "runs": rows, **results}, indent=1))
        return
    print(f"{len(samples)} crystals; guessing the mean of {options.target} is off by {results['target_mad']:.4f}")
    show(rows, results)


if __name__ == "__main__":
    main()
