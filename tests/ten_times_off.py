"""A training run whose calibration says a tenth of what a step takes, with as much memory as the budget and no more.

Really runs out of memory: the address space of the process is bounded. Prints what happened as JSON.
"""

from __future__ import annotations

import json
import resource
from dataclasses import replace
from pathlib import Path

import torch
from linegraph_net import LineGraphWorkload, random_sizes
from torch import nn
from torch.utils.data import DataLoader

from nodebudget import Calibration, MemoryMonitor, NodeBudgetSampler, SizeTable
from nodebudget.calibrate import Effort, calibrate
from nodebudget.errors import DoesNotFitError
from nodebudget.probe import open_probe

GRAPHS = 160
ITEMS = random_sizes(GRAPHS)
SIZES = SizeTable.from_counts(*(list(column) for column in zip(*ITEMS, strict=True)))


def a_tenth(known: Calibration) -> Calibration:
    coefficients = {name: value / (1 if name == "fixed" else 10) for name, value in known.coefficients.items()}
    return replace(known, coefficients=coefficients, pieces=())


def bound_memory(more: int) -> None:
    """Let this process have so many bytes more than it has."""
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + more, held + more))


def split(work: LineGraphWorkload, sampler: NodeBudgetSampler, samples: list) -> dict:
    """Run each step in as many parts as it takes."""
    monitor, parts, trained = MemoryMonitor(), [], []

    def loss(part: list) -> torch.Tensor:
        batch = work.batch(part)
        return nn.functional.mse_loss(work.model(batch), batch.target)

    for batch in sampler:
        work.optimizer.zero_grad()
        parts.append(monitor.run_with_split(loss, [samples[place] for place in batch], work.model).parts)
        work.optimizer.step()
        trained += batch
    return {"parts": parts, "trained": sorted(trained)}


def smaller(work: LineGraphWorkload, sampler: NodeBudgetSampler, samples: list) -> dict:
    """Deal what is left under a smaller budget whenever memory runs out."""
    loader = DataLoader(range(GRAPHS), batch_sampler=sampler, collate_fn=list)
    budgets, trained, step, hints = [sampler.limits.memory], [], 0, []
    monitor = MemoryMonitor(sizes=SIZES, calibration=sampler.limits.calibration)
    while step < len(sampler):
        try:
            for batch in loader:
                with monitor.oom_guard(indices=batch):
                    work.step(work.batch([samples[place] for place in batch]))
                trained += batch
                step += 1
        except DoesNotFitError as error:
            hints.append(error.hint)
            work.optimizer.zero_grad()
            budgets.append(budgets[-1] // 2)
            sampler.set_budget(memory=budgets[-1], consumed=step)
    return {"budgets": budgets, "hints": hints, "trained": sorted(trained)}


def main() -> None:
    torch.set_num_threads(1)
    work = LineGraphWorkload(width=32)
    known = calibrate(work, ITEMS, SIZES, open_probe("cpu"), effort=Effort(probes=14, largest=8))
    memory = int(known.fixed + known.graph_bytes(SIZES).mean() * 8)
    sampler = NodeBudgetSampler(SIZES, calibration=a_tenth(known), memory=memory)
    samples = [work.sample(item) for item in ITEMS]
    bound_memory(2 * memory)
    print(json.dumps({"split": split(work, sampler, samples), "smaller": smaller(work, sampler, samples)}))


if __name__ == "__main__":
    main()
