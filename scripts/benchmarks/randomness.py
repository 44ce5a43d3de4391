"""How random balanced batches are: who meets whom, and how much batch means vary, against uniform shuffling.

    python scripts/benchmarks/randomness.py
    python scripts/benchmarks/randomness.py --sets mpts_52_val --batch 32 --epochs 1000 --json

Meetings: over many epochs, pairs of crystals drawn at random, and pairs drawn within and across classes of size (equal
numbers of crystals each, smallest first): how often both are in the same batch, over what uniform shuffling into
batches of as many crystals gives, and the standard error of that. Beside it, how much single pairs differ: the
variance of their number of meetings over that of independent draws (1 with uniform shuffling).

Batch means: the standard deviation over batches of the mean of a target, over that under uniform shuffling, for
targets that are the size (logarithm), half size and half noise, and noise alone. Batches with few large crystals at a
time make training noisier, so less is better, and noise alone must be 1.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
from sets import REAL, read

from nodebudget import SizeTable
from nodebudget.sampling.budget import Budget
from nodebudget.sampling.plan_config import PlanConfig
from nodebudget.sampling.planner import Planner

CLASSES = 4
PAIRS = 100_000


def labels_of(indices: np.ndarray, counts: np.ndarray, graphs: int) -> np.ndarray:
    """Return the batch that each graph is in."""
    labels = np.empty(graphs, dtype=np.int32)
    labels[indices] = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    return labels


def balanced_epochs(planner: Planner, epochs: int) -> Iterator[np.ndarray]:
    for epoch in range(epochs):
        plan = planner.plan(epoch)
        yield labels_of(plan.indices, plan.graphs, len(planner.config.sizes))


def uniform_epochs(graphs: int, batches: int, epochs: int) -> Iterator[np.ndarray]:
    """Shuffle and cut into as many batches, as equal in number as possible."""
    rng = np.random.default_rng(7)
    even = np.arange(graphs, dtype=np.int32) % batches
    for _ in range(epochs):
        yield even[rng.permutation(graphs)]


def draw_pairs(members: np.ndarray, others: np.ndarray, many: int, rng: np.random.Generator) -> np.ndarray:
    """Draw pairs of different graphs, one of each group, each pair once, shape (pairs, 2)."""
    pairs = np.sort(np.stack([rng.choice(members, many), rng.choice(others, many)], axis=1), axis=1)
    return np.unique(pairs[pairs[:, 0] != pairs[:, 1]], axis=0)


def groups_of_pairs(size: np.ndarray, seed: int = 3) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    everyone = np.arange(len(size))
    # Equal sizes are put in order at random, so that a class is no part of the dataset.
    order = np.lexsort((rng.random(len(size)), size))
    classes = np.array_split(order, CLASSES)
    pairs = {"all": draw_pairs(everyone, everyone, PAIRS, rng)}
    for first in range(CLASSES):
        for second in range(first, CLASSES):
            pairs[f"{first + 1}-{second + 1}"] = draw_pairs(classes[first], classes[second], PAIRS, rng)
    top = order[-max(2, len(order) // 100) :]
    pairs["largest 1%"] = draw_pairs(top, top, PAIRS, rng)
    same = np.argsort(size, kind="stable")
    pairs["neighbours in size"] = np.stack([same[:-1], same[1:]], axis=1)
    return pairs


def meetings(epochs: Iterator[np.ndarray], pairs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    counts = {name: np.zeros(len(chosen), dtype=np.int64) for name, chosen in pairs.items()}
    for labels in epochs:
        for name, chosen in pairs.items():
            counts[name] += labels[chosen[:, 0]] == labels[chosen[:, 1]]
    return counts


def summarise(counts: np.ndarray, epochs: int, expected: float) -> dict[str, float]:
    rate = counts.mean() / epochs
    return {
        "ratio": float(rate / expected),
        # Meetings of many pairs in one epoch depend on each other a little; this is what independence would give.
        "error": float(np.sqrt(expected * (1 - expected) / (len(counts) * epochs)) / expected),
        "spread": float(counts.var() / (epochs * rate * (1 - rate))) if rate else 0.0,
        "never": float(np.mean(counts == 0)),
        "never_expected": float((1 - expected) ** epochs),
    }


def spread_of_means(epochs: Iterator[np.ndarray], targets: dict[str, np.ndarray]) -> dict[str, float]:
    """Return the standard deviation over the batches of some epochs of each target's batch mean."""
    means_of: dict[str, list[np.ndarray]] = {name: [] for name in targets}
    for labels in epochs:
        counts = np.bincount(labels)
        for name, values in targets.items():
            means_of[name].append(np.bincount(labels, values) / counts)
    return {name: float(np.concatenate(means).std()) for name, means in means_of.items()}


def targets_of(size: np.ndarray) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(11)
    noise = rng.standard_normal(len(size))
    known = np.log(size)
    known = (known - known.mean()) / max(known.std(), 1e-12)
    return {"size": known, "half size, half noise": (known + noise) / np.sqrt(2), "noise": noise}


def study(name: str, sizes: SizeTable, batch: int, epochs: int) -> dict[str, Any]:
    size = np.asarray(sizes["bytes"], dtype=np.float64)
    planner = Planner(PlanConfig(sizes, Budget.make(max_columns={"bytes": int(np.ceil(size.mean() * batch))})))
    batches = len(planner)
    # Two of the same batch, when all batches have n / batches graphs.
    expected = (len(sizes) / batches - 1) / (len(sizes) - 1)
    pairs = groups_of_pairs(size)
    ours = meetings(balanced_epochs(planner, epochs), pairs)
    uniform = meetings(uniform_epochs(len(sizes), batches, epochs), pairs)
    few = min(epochs, 100)
    means = spread_of_means(balanced_epochs(planner, few), targets_of(size))
    plain = spread_of_means(uniform_epochs(len(sizes), batches, few), targets_of(size))
    return {
        "set": name,
        "graphs": len(sizes),
        "mean_graphs": batch,
        "batches": batches,
        "epochs": epochs,
        "expected_meetings": expected * epochs,
        "meetings": {
            group: {
                "balanced": summarise(ours[group], epochs, expected),
                "uniform": summarise(uniform[group], epochs, expected),
            }
            for group in pairs
        },
        "batch_mean_std": {
            target: {"balanced": means[target], "uniform": plain[target], "ratio": means[target] / plain[target]}
            for target in means
        },
    }


def show(result: dict[str, Any]) -> None:
    head = f"{result['set']}: {result['graphs']:,} crystals, {result['batches']:,} batches"
    print(f"\n### {head}, {result['epochs']} epochs\n")
    print(f"A pair meets {result['expected_meetings']:.1f} times under uniform shuffling.\n")
    print("| pairs | meetings / uniform | error | spread of pairs | the same, uniform | never met | expected |")
    print("| --- " * 7 + "|")
    for group, both in result["meetings"].items():
        ours, plain = both["balanced"], both["uniform"]
        values = f"{ours['ratio']:.3f} | ± {ours['error']:.3f} | {ours['spread']:.2f} | {plain['spread']:.2f}"
        print(f"| {group} | {values} | {ours['never']:.2%} | {ours['never_expected']:.2%} |")
    print("\n| target | std of batch means, balanced | uniform | ratio |\n| --- | --- | --- | --- |")
    for target, row in result["batch_mean_std"].items():
        print(f"| {target} | {row['balanced']:.4f} | {row['uniform']:.4f} | {row['ratio']:.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", choices=REAL, default=["mpts_52_val", "mp_20_biternary_val"])
    parser.add_argument("--batch", type=int, nargs="+", default=[16, 64], help="mean graphs per batch")
    parser.add_argument("--epochs", type=int, default=400, help="over how many epochs pairs are watched")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    studies = []
    for name in options.sets:
        sizes = read(name)
        for batch in options.batch:
            print(f"{name}, {batch}", file=sys.stderr)
            studies.append(study(name, sizes, batch, options.epochs))
    if options.json:
        print(json.dumps(studies, indent=1))
        return
    print(f"Classes of size: 1 is the smallest quarter of the crystals, {CLASSES} the largest.")
    for entry in studies:
        show(entry)


if __name__ == "__main__":
    main()
