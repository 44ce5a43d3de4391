"""Training with a static shape, beside fixed and balanced batches: time, memory and error of alignn's network.

    python scripts/benchmarks/static_steps.py
    python scripts/benchmarks/static_steps.py --features 256 --batch 64 --forces --compile --device cuda:0

Trains alignn's network without DGL on AFLOW prototypes of pymatgen. Prints seconds per step (mean, CV), crystals per
second, peak memory of a step (mean, maximum), and the mean squared error of the last epoch, each as a ratio to fixed
batches. With --compile also through torch.compile(dynamic=False).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "fixtures"))

from crystals import entries

from nodebudget import NodeBudgetSampler, measure_samples, open_probe, pad_batch
from nodebudget.workloads.alignn import PureAlignnWorkload

WAYS = ("fixed", "balanced", "static", "static, compiled")


def sampler_of(way: str, sizes: Any, batch: int) -> Any:
    if way == "fixed":
        return None
    if way == "balanced":
        return NodeBudgetSampler(sizes, max_line_edges=int(np.ceil(1.01 * batch * sizes["line_edges"].mean())))
    return NodeBudgetSampler(sizes, graphs_per_step=batch, pack="static")


def batches(sampler: Any, graphs: int, batch: int, epoch: int) -> Iterable[list[int]]:
    if sampler is not None:
        sampler.set_epoch(epoch)
        return list(sampler)
    order = np.random.default_rng(epoch).permutation(graphs)
    return [order[first : first + batch].tolist() for first in range(0, graphs, batch)]


def train(way: str, crystals: list[Any], options: argparse.Namespace) -> dict[str, float]:
    torch.manual_seed(0)
    workload = PureAlignnWorkload(
        options.device,
        hidden_features=options.features,
        alignn_layers=options.layers,
        gcn_layers=options.layers,
        calculate_gradient=options.forces,
    )
    samples = [workload.sample(crystal) for crystal in crystals]
    sampler = sampler_of(way, measure_samples(workload, crystals), options.batch)
    model = torch.compile(workload.model, dynamic=False) if "compiled" in way else workload.model
    probe, seconds, peaks, errors, trained = open_probe(options.device), [], [], [], 0
    for epoch in range(options.epochs):
        for indices in batches(sampler, len(samples), options.batch, epoch):
            made, mask = workload.batch([samples[index] for index in indices]), None
            if way.startswith("static"):
                made, mask = pad_batch(made, sampler.shapes)
            started = time.perf_counter()
            error = step(workload, model, made, mask)
            if options.device != "cpu":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - started)
            trained += len(indices)
            if epoch == options.epochs - 1:
                errors.append(error * len(indices))
    for indices in list(batches(sampler, len(samples), options.batch, options.epochs))[: options.peaks]:
        made, mask = workload.batch([samples[index] for index in indices]), None
        if way.startswith("static"):
            made, mask = pad_batch(made, sampler.shapes)
        peaks.append(probe.measure(lambda made=made, mask=mask: step(workload, model, made, mask)).requested)
    warm = np.array(seconds[3:])
    return {
        "seconds": float(np.median(warm)),
        "cv": float(warm.std() / warm.mean()),
        "crystals_per_second": trained / sum(seconds)
        if "compiled" not in way
        else options.batch / float(np.median(warm)),
        "first_step": seconds[0],
        "peak_mean": float(np.mean(peaks)),
        "peak_max": float(np.max(peaks)),
        "peaks": len(set(peaks[1:])),
        "error": sum(errors) / len(samples),
    }


def step(workload: Any, model: Any, batch: Any, mask: torch.Tensor | None) -> float:
    *inputs, target = batch
    workload.optimizer.zero_grad()
    output = model(tuple(inputs))
    errors = (output["out"].reshape(-1) - target).square()
    loss = errors.mean() if mask is None else (errors * mask).sum() / mask.sum()
    if workload.config["calculate_gradient"]:
        loss = loss + output["grad"].square().mean()
    loss.backward()
    workload.optimizer.step()
    return float(loss.detach())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="cpu or cuda:N")
    parser.add_argument("--crystals", type=int, default=240, help="how many prototypes")
    parser.add_argument("--features", type=int, default=64, help="features of the hidden layers")
    parser.add_argument("--layers", type=int, default=2, help="ALIGNN layers, and as many on the crystal graph")
    parser.add_argument("--batch", type=int, default=16, help="graphs per batch")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--peaks", type=int, default=12, help="steps whose peak is measured")
    parser.add_argument("--forces", action="store_true", help="train on forces as well")
    parser.add_argument("--compile", action="store_true", help="also through torch.compile")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # alignn's own
    crystals = [{**entry, "target": float(len(entry["atoms"]["elements"]))} for entry in entries(40, options.crystals)]
    found = {way: train(way, crystals, options) for way in WAYS if options.compile or "compiled" not in way}
    if options.json:
        print(json.dumps(found, indent=2))
        return
    first = found["fixed"]
    print("| batches | step, median | CV | crystals/s | peak, mean | peak, max | different peaks | error |")
    print("|" + " --- |" * 8)
    for way, row in found.items():
        ratio = {
            key: row[key] / first[key] for key in ("seconds", "crystals_per_second", "peak_mean", "peak_max", "error")
        }
        print(
            f"| {way} | {ratio['seconds']:.2f} | {row['cv']:.1%} | {ratio['crystals_per_second']:.2f} | "
            f"{ratio['peak_mean']:.2f} | {ratio['peak_max']:.2f} | {row['peaks']} | {ratio['error']:.2f} |"
        )


if __name__ == "__main__":
    main()
