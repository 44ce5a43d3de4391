"""Going on with smaller batches when memory runs out, in one process and in several."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from atom_net import GRAPHS, Training, dgl_graphs, join
from paths import FIXTURES
from torch.utils.data import DataLoader

from nodebudget import DoesNotFitError, InputError, NodeBudgetSampler, measure, run_steps
from nodebudget.integrations import AdvancingSampler
from nodebudget.integrations.rank_exchange import RankExchange
from nodebudget.utils.optional_imports import load_dgl


def loader_of(kind: type[NodeBudgetSampler] = AdvancingSampler, **options: Any) -> DataLoader[Any]:
    graphs = dgl_graphs()
    sampler = kind(measure(graphs), max_nodes=200)
    return DataLoader(graphs, batch_sampler=sampler, collate_fn=join, **options)


def ran_out(asked: int, free: int, live: int) -> torch.OutOfMemoryError:
    return torch.OutOfMemoryError(
        f"CUDA out of memory. Tried to allocate {asked}.00 MiB. GPU 0 has a total capacity of 40.00 GiB of which "
        f"{free}.00 MiB is free. Of the allocated memory {live}.00 MiB is allocated by PyTorch, and 9 MiB is reserved"
    )


def step_with(training: Training, most: int, error: Exception) -> Any:
    """Return a step that raises on batches of more nodes than `most`."""

    def step(batch: Any) -> list[int]:
        if batch.num_nodes() > most:
            raise error
        training.step(batch)
        return training.trained_on[-1]

    return step


@pytest.mark.parametrize("workers", [{}, {"num_workers": 2, "persistent_workers": True}])
def test_every_graph_comes_once_and_the_budget_shrinks_by_what_was_over(workers, caplog):
    training, loader = Training(), loader_of(**workers)
    # 80 of 100 MiB fit: 160 of 200 nodes.
    step = step_with(training, 160, ran_out(20, 0, 80))
    trained = {"model": training.model, "optimizer": training.optimizer}
    with caplog.at_level(logging.WARNING, "nodebudget"):
        epochs = [[*run_steps(loader, step, **trained)] for _ in range(2)]
    for batches in epochs:
        assert sorted(chain(*batches)) == [*range(GRAPHS)]
    assert epochs[0] != epochs[1]
    assert loader.batch_sampler.budget.maxima["nodes"] == 160
    assert loader.batch_sampler.epoch == 1
    [line] = caplog.messages
    assert "memory ran out in step 1 of epoch 0" in line
    assert "up to 200 nodes and is up to 160 nodes" in line


def test_in_the_middle_of_an_epoch_the_steps_that_were_taken_count():
    training, loader = Training(), loader_of()
    plain, calls = step_with(training, 10_000, ran_out(1, 0, 1)), []

    def step(batch: Any) -> list[int]:
        calls.append(batch)
        if len(calls) == 4:
            raise ran_out(10, 0, 90)
        return plain(batch)

    taken = [*run_steps(loader, step, model=training.model, optimizer=training.optimizer)]
    assert sorted(chain(*taken)) == [*range(GRAPHS)]
    assert len(taken) == len(loader) == len(calls) - 1
    assert loader.batch_sampler.budget.maxima["nodes"] == 180


def test_an_error_of_dgl_counts_and_all_others_do_not():
    training = Training()
    dgl_error = load_dgl().DGLError("Check failed: e == cudaSuccess: CUDA: out of memory")
    loader = loader_of()
    taken = [*run_steps(loader, step_with(training, 160, dgl_error), model=training.model)]
    assert sorted(chain(*taken)) == [*range(GRAPHS)]
    assert loader.batch_sampler.budget.maxima["nodes"] <= 160
    with pytest.raises(KeyError):
        [*run_steps(loader_of(), step_with(training, 160, KeyError("x")), model=training.model)]


def test_gradients_of_the_failed_step_are_gone_and_a_half_updated_model_is_refused():
    training, loader = Training(), loader_of()
    failed: list[int] = []

    def step(batch: Any) -> float:
        if not failed:
            failed.append(1)
            owner = torch.zeros(batch.num_nodes(), dtype=torch.long)
            training.model(batch.ndata["x"], *batch.edges(), owner, 1).sum().backward()
            raise ran_out(10, 0, 90)
        assert training.steps or all(parameter.grad is None for parameter in training.model.parameters())
        return training.step(batch)

    assert len([*run_steps(loader, step, model=training.model, optimizer=training.optimizer)]) == len(loader)
    optimizer = FailingStep(training.model.parameters(), {})

    def failing(batch: Any) -> None:
        optimizer.step()

    with pytest.raises(DoesNotFitError, match="half updated"):
        [*run_steps(loader, failing, model=training.model, optimizer=optimizer)]


class FailingStep(torch.optim.Optimizer):
    """Runs out of memory where it makes its state."""

    def step(self, closure: Any = None) -> None:
        raise ran_out(1, 0, 1)


def test_other_loaders_and_models_are_refused_by_name():
    training = Training()
    plain = DataLoader(dgl_graphs(), batch_size=8, collate_fn=join)
    with pytest.raises(InputError, match="come from a BatchSampler"):
        [*run_steps(plain, training.step, model=training.model)]


@pytest.mark.parametrize("name", ["FullyShardedDataParallel", "FSDPModule", "SyncBatchNorm"])
def test_ranks_that_exchange_in_the_forward_pass_are_refused_by_name(name, monkeypatch):
    monkeypatch.setattr("nodebudget.integrations.rank_exchange.of_all_ranks", lambda value: [value, value])
    kind = torch.nn.SyncBatchNorm if name == "SyncBatchNorm" else type(name, (torch.nn.Linear,), {})
    model = torch.nn.Sequential(kind(3) if name == "SyncBatchNorm" else kind(3, 3))
    with pytest.raises(InputError, match=name):
        RankExchange(model, [])


def run_ranks(folder: Path, mode: str) -> list[dict[str, Any]]:
    folder.mkdir()
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    paths = os.pathsep.join([str(FIXTURES.parents[1]), str(FIXTURES)])
    done = subprocess.run(
        [*command, str(FIXTURES / "auto_ddp.py"), str(folder), mode],
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "DGLBACKEND": "pytorch"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


def test_ranks_calibrate_in_step_and_the_tightest_decides(tmp_path):
    plain, exchanged = run_ranks(tmp_path / "plain", "plain"), run_ranks(tmp_path / "exchanged", "exchanged")
    for ranks in (plain, exchanged):
        assert ranks[0]["calibrating"] == ranks[1]["calibrating"] > 10
        assert {rank["again"] for rank in ranks} == {0}  # a second start measures nothing
        assert {rank["budgets"][0] for rank in ranks} == {2**20 - 100_000}
        assert ranks[0]["weights"] == ranks[1]["weights"]
        for epoch in range(2):
            assert sorted(chain(*(batch for rank in ranks for batch in rank["taken"][epoch]))) == [*range(80)]
    # Gradients that are exchanged after the backward pass are those that DistributedDataParallel exchanges in it.
    assert plain[0]["taken"] == exchanged[0]["taken"]
    assert plain[0]["weights"] == pytest.approx(exchanged[0]["weights"], rel=1e-5)
    assert plain[0]["buffers"] == pytest.approx(exchanged[0]["buffers"], rel=1e-5)


def test_all_ranks_go_on_when_memory_runs_out_on_one_of_them(tmp_path):
    ranks = run_ranks(tmp_path / "fails", "fails")
    assert ranks[1]["failed"] == [1, 4, 6]
    for epoch in range(2):
        assert sorted(chain(*(batch for rank in ranks for batch in rank["taken"][epoch]))) == [*range(80)]
        assert len({len(rank["taken"][epoch]) for rank in ranks}) == 1
    assert ranks[0]["weights"] == ranks[1]["weights"]
    assert ranks[0]["buffers"] == ranks[1]["buffers"]
    assert ranks[0]["budgets"] == ranks[1]["budgets"]
    assert ranks[0]["budgets"][1] < ranks[0]["budgets"][0]
    assert any("memory ran out in step 2 of epoch 0" in line for line in ranks[0]["messages"])
