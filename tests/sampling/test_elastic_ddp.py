"""Real ranks: one is killed or runs out of memory in the middle of an epoch, and every crystal is trained on once."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from nodebudget.datasets.size_table import SizeTable
from nodebudget.sampling.sampler import NodeBudgetSampler

EPOCHS = 2
NODES = np.maximum(1, np.random.default_rng(0).lognormal(3, 0.6, 400)).astype(np.int64)
SIZES = SizeTable.from_counts(NODES)


class Run:
    """What each rank has: a model, a sampler and a loader, from the checkpoint where there is one."""

    def __init__(self, folder: Path, name: str, rank: int, world: int, workers: int = 0) -> None:
        self.rank, self.checkpoint = rank, folder / "checkpoint.pt"
        store = f"file://{folder / name}.store"
        torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=world)
        self.model = DistributedDataParallel(torch.nn.Linear(1, 1))
        self.optimizer = torch.optim.AdamW(self.model.parameters())
        self.sampler = NodeBudgetSampler(SIZES, max_nodes=700)
        # Samples are (index, nodes).
        data = list(enumerate(NODES.tolist()))
        self.loader = DataLoader(data, batch_sampler=self.sampler, num_workers=workers, collate_fn=torch.tensor)
        self.log = (folder / f"{name}.{rank}.jsonl").open("w", buffering=1)
        if self.checkpoint.exists():
            found = torch.load(self.checkpoint, weights_only=True)
            self.model.load_state_dict(found["model"])
            self.sampler.load_state_dict(found["sampler"])

    def loss(self, batch: torch.Tensor) -> torch.Tensor:
        return (self.model(batch[:, 1:].float()) / 100 - 1).square().mean()

    def note(self, epoch: int, step: int, batch: torch.Tensor) -> None:
        about = {"epoch": epoch, "step": step, "length": len(self.loader), "batch": batch[:, 0].tolist()}
        self.log.write(json.dumps(about) + "\n")

    def save(self, step: int) -> None:
        if self.rank == 0:
            state = {"model": self.model.state_dict(), "sampler": self.sampler.state_dict(consumed=step)}
            torch.save(state, self.checkpoint.with_suffix(".part"))
            self.checkpoint.with_suffix(".part").replace(self.checkpoint)


def train(folder: Path, name: str, rank: int, world: int, killed: tuple[int, ...]) -> None:
    """Train to the end; rank, epoch and step of `killed` kill themselves."""
    # A worker takes batches ahead of the training loop.
    run = Run(folder, name, rank, world, workers=1 if killed else 0)
    step = run.sampler.state_dict()["consumed"]
    for epoch in range(run.sampler.epoch, EPOCHS):
        run.sampler.set_epoch(epoch)
        for batch in run.loader:
            if killed == (rank, epoch, step):
                os.kill(os.getpid(), signal.SIGKILL)
            run.optimizer.zero_grad()
            run.loss(batch).backward()
            run.optimizer.step()
            run.note(epoch, step, batch)
            step += 1
            run.save(step)
        step = 0
    torch.distributed.destroy_process_group()


def run_out(folder: Path, name: str, rank: int, world: int) -> None:
    """Train to the end; each rank has another memory, and what is over it is refused."""
    run = Run(folder, name, rank, world)
    room = [750, 500][rank]
    for epoch in range(2):
        run.sampler.set_epoch(epoch)
        step = 0
        while step < len(run.loader):
            for batch in run.loader:
                if not try_step(run, batch, room):
                    run.sampler.set_budget(max_nodes=int(run.sampler.budget.maxima["nodes"] * 0.8), consumed=step)
                    break
                run.note(epoch, step, batch)
                step += 1
    torch.distributed.destroy_process_group()


def try_step(run: Run, batch: torch.Tensor, room: int) -> bool:
    failed = torch.zeros(1)
    run.optimizer.zero_grad()
    try:
        with run.model.no_sync():
            run.loss(batch).backward()
        if batch[:, 1].sum() > room:
            raise torch.OutOfMemoryError
    except torch.OutOfMemoryError:
        failed += 1
    torch.distributed.all_reduce(failed)
    if failed:
        return False
    for parameter in run.model.parameters():
        torch.distributed.all_reduce(parameter.grad)
    run.optimizer.step()
    return True


def launch(target: Callable[..., None], folder: Path, name: str, world: int, *further: Any) -> list[int]:
    """Start ranks and wait; as torchrun does, end the others when one is gone. Return the exit codes."""
    start = multiprocessing.get_context("forkserver")
    start.set_forkserver_preload(["torch", "nodebudget.sampling.sampler", __name__])
    ranks = [start.Process(target=target, args=(folder, name, rank, world, *further)) for rank in range(world)]
    for process in ranks:
        process.start()
    waiting = {process.sentinel: process for process in ranks}
    while waiting:
        for sentinel in multiprocessing.connection.wait(list(waiting)):
            if waiting.pop(sentinel).exitcode:
                for process in waiting.values():
                    process.kill()
    for process in ranks:
        process.join()
    return [process.exitcode for process in ranks]


def read(folder: Path, name: str) -> list[list[dict[str, Any]]]:
    """Return the steps of each rank."""
    return [
        [json.loads(line) for line in path.read_text().splitlines()] for path in sorted(folder.glob(f"{name}.*.jsonl"))
    ]


@pytest.mark.parametrize(
    ("world", "resumed"),
    [(2, (3,)), pytest.param(2, (2,), marks=pytest.mark.slow), pytest.param(3, (2, 3), marks=pytest.mark.slow)],
)
def test_a_run_whose_rank_was_killed_goes_on_with_as_many_ranks_or_others(
    world: int, resumed: tuple[int, ...], tmp_path: Path
) -> None:
    first = tmp_path / "first"
    first.mkdir()
    codes = launch(train, first, "killed", world, (world - 1, 1, 3))
    assert codes[world - 1] == -signal.SIGKILL
    before = read(first, "killed")
    state = torch.load(first / "checkpoint.pt", weights_only=True)["sampler"]
    assert (state["epoch"], state["num_replicas"]) == (1, world)
    assert 2 <= state["consumed"] <= 3
    for again in resumed:
        folder = tmp_path / f"resumed by {again}"
        folder.mkdir()
        (folder / "checkpoint.pt").write_bytes((first / "checkpoint.pt").read_bytes())
        assert launch(train, folder, "resumed", again, ()) == [0] * again
        after = read(folder, "resumed")
        assert len({len(rank) for rank in after}) == 1
        # What was trained on before the checkpoint, and all that came after.
        kept = [step for rank in before for step in rank if (step["epoch"], step["step"]) < (1, state["consumed"])]
        steps = kept + [step for rank in after for step in rank]
        for epoch in range(EPOCHS):
            trained = [index for step in steps if step["epoch"] == epoch for index in step["batch"]]
            assert sorted(trained) == list(range(len(NODES)))
        for rank in after:
            places = [step["step"] for step in rank if step["epoch"] == 1]
            assert places == list(range(state["consumed"], rank[0]["length"]))
        assert max(NODES[step["batch"]].sum() for step in steps) <= 700


def test_ranks_agree_on_a_smaller_budget_when_one_runs_out_of_memory(tmp_path: Path) -> None:
    assert launch(run_out, tmp_path, "run", 2) == [0, 0]
    ranks = read(tmp_path, "run")
    places = [[(step["epoch"], step["step"], step["length"]) for step in rank] for rank in ranks]
    assert places[0] == places[1]
    for epoch in range(2):
        trained = [index for rank in ranks for step in rank if step["epoch"] == epoch for index in step["batch"]]
        assert sorted(trained) == list(range(len(NODES)))
    assert max(NODES[step["batch"]].sum() for step in ranks[1]) <= 500
