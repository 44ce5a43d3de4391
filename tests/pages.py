"""Files of every kind that a page is made of, from real training steps on the CPU."""

from __future__ import annotations

import json
import warnings
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import torch
from click.testing import CliRunner
from crystals import entries
from test_costmodel import fitted
from torch.utils.data import DataLoader

from nodebudget import Calibration, MemoryMonitor, NodeBudgetSampler, SizeTable
from nodebudget.budget import Limits
from nodebudget.calibrate import Effort, calibrate
from nodebudget.cli import main
from nodebudget.costmodel import Bound, ErrorSummary
from nodebudget.errors import DoesNotFitError
from nodebudget.measure import measure_dataset
from nodebudget.plan import make_plan
from nodebudget.probe import open_probe
from nodebudget.workload.alignn import AlignnWorkload


class Holding(torch.nn.Module):
    """A model whose kept outputs count as what lives between steps, as they do on a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.model, self.kept = torch.nn.Linear(256, 256), []

    def buffers(self, recurse=True):
        return iter([*super().buffers(recurse), *self.kept])


def real_files(folder: Path) -> dict[str, Path]:
    """Calibrate real ALIGNN, plan, train under a monitor, and let a run leak and another run out of memory."""
    workload = AlignnWorkload(alignn_layers=1, gcn_layers=1, hidden_features=16)
    samples = [workload.sample(entry) for entry in entries(12, 40)]
    sizes = measure_dataset(samples)
    known = calibrate(workload, samples, sizes, open_probe("cpu"), effort=Effort(probes=12, largest=8))
    memory = int(known.predict_bytes(**sizes.totals(range(40))) / 3)
    plan = make_plan(sizes, Limits.make(calibration=known, memory=memory))
    return {
        "calibration": known.save(folder / "calibration.json"),
        "sizes": sizes.save(folder / "sizes.npz"),
        "plan": plan.save(folder / "plan.json"),
        "run": _trained(folder / "run.jsonl", workload, samples, known, memory, sizes),
        "leak": _leaking(folder / "leak.jsonl"),
        "lost": _out_of_memory(folder / "lost.jsonl"),
    }


def _trained(path, workload, samples, known, memory, sizes):
    sampler = NodeBudgetSampler(sizes, calibration=known, memory=memory)
    loader = DataLoader(samples, batch_sampler=sampler, collate_fn=workload.batch)
    with MemoryMonitor(path, calibration=known, model=workload.model, optimizer=workload.optimizer, trace=True) as run:
        for _ in range(2):
            for batch in run.watch(loader):
                workload.step(batch)
    return path


def _leaking(path):
    model = Holding()
    with warnings.catch_warnings(), MemoryMonitor(path, model=model, trace=True) as monitor:
        warnings.filterwarnings("ignore", message="a leak")
        for batch in monitor.watch(torch.ones(100, 64, 256)):
            model.kept.append(model.model(batch).detach())
    return path


def _out_of_memory(path):
    monitor = MemoryMonitor(path, sizes=lambda batch: {"graphs": 64, "nodes": 2240}, device="cpu")
    try:
        for _ in monitor.watch(range(3)):
            with monitor.oom_guard():
                raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
    except DoesNotFitError as error:
        monitor.close(f"failed: {type(error).__name__}")
    return path


def scripted(**changes) -> Calibration:
    """A calibration by hand: a MiB fixed, a MiB a node, within 1%."""
    given = {
        "coefficients": {"fixed": 2.0**20, "per_graph": 0.0, "per_node": 2.0**20},
        "columns": ("graphs", "nodes"),
        "floor": 0.0,
        "resident": 2.0**20,
        "holdout": ErrorSummary(0.004, 0.006, 8),
        "fit": ErrorSummary(0.002, 0.003, 16),
        "bound": Bound(0.004, 8, 2.0**30),
    }
    return Calibration(**{**given, **changes})


def drawn_sizes(count: int = 200, seed: int = 0, **more) -> SizeTable:
    """Sizes like those of nearest-neighbour graphs."""
    nodes = np.random.default_rng(seed).integers(2, 40, count)
    return SizeTable.from_counts(nodes, 12 * nodes, 144 * nodes, **more)


def plain_files() -> None:
    """Write a file of every kind into this folder, at once."""
    sizes, known = drawn_sizes(), fitted()
    known.save("cal.json")
    sizes.save("sizes.npz")
    memory = int(known.predict_bytes(**sizes.totals(range(200))) / 10)
    plan = make_plan(sizes, Limits.make(calibration=known, memory=memory))
    plan.save("plan.json")
    plan.save("plan.npz")
    with MemoryMonitor("run.jsonl", calibration=scripted(), sizes=sizes, device="cpu", batches=8) as monitor:
        for _ in monitor.watch([[0, 1], [2, 3], [4, 5]]):
            pass


def invoke(*arguments):
    return CliRunner().invoke(main, ["report", *map(str, arguments)])


def change(path, **values):
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, **values}))


def add(path, **event):
    with path.open("a") as log:
        log.write(json.dumps(event) + "\n")


class Elements(HTMLParser):
    """Counts elements and collects text; complains of what is not closed."""

    VOID = frozenset({"meta", "link", "br"})

    def __init__(self, html):
        super().__init__()
        self.names, self.text, self.attributes, self.open = [], [], [], []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.names.append(tag)
        self.attributes += attrs
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)
