"""Train on batches of `auto_loader` on exactly the memory that it was given, and count the steps that do not fit.

    bash scripts/test_stubcuda.sh --co -q       # sets up .venv-cuda, with a CUDA build of PyTorch
    stubcuda .venv-cuda/bin/python scripts/benchmarks/auto_soak.py [--steps 2000] [--memory 2GiB] [--json]

Three datasets as in `survival.py`, with either setting of the allocator: epochs of shuffled batches until there were
`--steps` steps, then an epoch each with the batches largest first, smallest first and alternating, from an empty cache.
Without a GPU, run it on a stand-in device, which allocates but computes nothing, and whose memory has an exact limit;
the output then says that it is about the allocator alone. "budget" is what the plan may take of the memory, "live" the
peak of live tensors: less by what is left where one batch fewer would be too few.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from survival import DATASETS, MIB, SETTINGS, STAND_IN, clear, draw, in_own_process, orders
from torch.utils.data import DataLoader

sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "fixtures"))
from linegraph_net import LineGraphWorkload

from nodebudget import AutoOptions, SizeTable, auto_loader
from nodebudget.utils.byte_units import parse_bytes


class Soak:
    """One dataset, and a plain loop with `auto_loader`."""

    def __init__(self, kind: str, options: argparse.Namespace) -> None:
        self.options, self.memory = options, parse_bytes(options.memory)
        self.workload = LineGraphWorkload("cuda:0", width=options.width)
        items = draw(kind, options.graphs)
        self.sizes = SizeTable.from_counts(*(list(column) for column in zip(*items, strict=True)))
        self.loader = DataLoader(
            [self.workload.sample(item) for item in items], batch_size=64, shuffle=True, collate_fn=list
        )
        self.steps = 0

    def step(self, samples: list[Any]) -> None:
        """Take a step, as in the user's loop."""
        self.workload.step(self.workload.batch(samples))

    def run(self) -> dict[str, Any]:
        """Calibrate and train; return what happened."""
        clear(self.memory)
        loader = auto_loader(
            *(self.loader, self.step),
            **{"model": self.workload.model, "optimizer": self.workload.optimizer, "cache": None},
            # A fraction of a real device; the stand-in has no more than this.
            memory="auto" if STAND_IN else self.memory,
            options=AutoOptions(sizes=self.sizes),
        )
        sampler = self.sampler = loader.batch_sampler
        before = torch.cuda.memory_stats()["num_alloc_retries"]
        torch.cuda.reset_peak_memory_stats()
        failures = 0
        while self.steps < self.options.steps:
            for batch in loader:
                failures += self.fails(batch)
                self.steps += 1
                if self.steps == self.options.steps:
                    break
        stats = torch.cuda.memory_stats()
        costs = sampler.budget.calibration.graph_bytes(self.sizes)
        adverse = {}
        batches = [*map(sampler.plan.batch, range(len(sampler.plan)))]
        for order, places in orders([float(costs[batch].sum()) for batch in batches]).items():
            self.workload.optimizer.zero_grad(set_to_none=True)
            self.workload.optimizer.state.clear()
            clear(self.memory)
            adverse[order] = sum(self.fails([self.loader.dataset[int(i)] for i in batches[place]]) for place in places)
        return {
            "batches": len(sampler.plan),
            "graphs": float(sampler.plan.graphs.mean()),
            "planned": sampler.budget.memory / self.memory,
            "live": stats["requested_bytes.all.peak"] / self.memory,
            "reserved": stats["reserved_bytes.all.peak"] / self.memory,
            "retries": stats["num_alloc_retries"] - before,
            "failures": failures,
            "adverse": adverse,
        }

    def fails(self, batch: list[Any]) -> int:
        """Take a step; return 1 if memory ran out."""
        try:
            self.step(batch)
        except torch.cuda.OutOfMemoryError:
            return 1
        return 0


def text(result: dict[str, Any]) -> str:
    """Lay out the results."""
    where, memory = result["where"], f"{result['memory'] / MIB:,.0f} MiB"
    lines = [f"{result['steps']:,} steps of auto_loader's batches on {memory} of {where} (torch {result['torch']})", ""]
    columns = ("graphs", "budget", "live", "reserved", "retries")
    lines.append(f"{'setting':12}{'dataset':10}" + "".join(f"{name:>10}" for name in columns) + "  failures")
    for setting, rows in result["settings"].items():
        for kind, row in rows.items():
            shares = "".join(f"{row[name]:10.1%}" for name in ("planned", "live", "reserved"))
            adverse = sum(row["adverse"].values())
            cells = f"{row['graphs']:10.1f}{shares}{row['retries']:10}"
            lines.append(f"{setting:12}{kind:10}{cells}  {row['failures']}, and {adverse} in adverse orders")
    return "\n".join(lines)


def main() -> None:
    """Run both settings, each in a process of its own, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--graphs", type=int, default=12_000, help="crystals in each dataset")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--memory", default="2GiB", help="of the device")
    parser.add_argument("--width", type=int, default=64, help="of the network's hidden layers")
    parser.add_argument("--datasets", default=",".join(DATASETS))
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--setting", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("there is no CUDA device to run on; run it on one, or under a stand-in")
    warnings.simplefilter("ignore")
    if options.setting:
        torch.manual_seed(0)
        print(json.dumps({kind: Soak(kind, options).run() for kind in options.datasets.split(",")}))
        return
    # The size that the stand-in has in the processes with either setting.
    os.environ["STUBCUDA_BYTES"] = str(parse_bytes(options.memory))
    result = {
        **{"where": "the stub device" if STAND_IN else torch.cuda.get_device_name(), "torch": torch.__version__},
        **{"steps": options.steps, "memory": parse_bytes(options.memory)},
        "settings": {setting: in_own_process(setting, __file__) for setting in SETTINGS},
    }
    print(json.dumps(result, indent=2) if options.json else text(result))


if __name__ == "__main__":
    main()
