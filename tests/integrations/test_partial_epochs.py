"""Loops that train on a part of an epoch: Lightning's limits, accelerate's skipped batches; where these are there."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

import pytest
import torch
from generated import SIZES
from torch.utils.data import DataLoader

from nodebudget.integrations import AdvancingSampler

# Warnings of these packages about their own code.
pytestmark = pytest.mark.filterwarnings("ignore")


def without(package: str) -> Any:
    return pytest.mark.skipif(importlib.util.find_spec(package) is None, reason=f"{package} is not installed")


def tensor(samples: list[int]) -> torch.Tensor:
    return torch.tensor(samples)


def fit(**options: Any) -> tuple[list[list[int]], int]:
    """Train two epochs with Lightning; return the training batches and the number of validation passes."""
    module = importlib.import_module("lightning.pytorch")
    seen: list[list[int]] = []
    passes = []

    class Model(module.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(1, 1)

        def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
            seen.append(batch.tolist())
            return self.layer(batch[:, None].float()).mean()

        def validation_step(self, batch: torch.Tensor, batch_idx: int) -> None:
            if batch_idx == 0:
                passes.append(self.trainer.global_step)

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.0)

    sampler = AdvancingSampler(SIZES, max_nodes=2000, seed=1)
    train = DataLoader(range(1000), batch_sampler=sampler, collate_fn=tensor)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "num_sanity_val_steps": 0}
    trainer = module.Trainer(max_epochs=2, use_distributed_sampler=False, accelerator="cpu", **quiet, **options)
    trainer.fit(Model(), train, DataLoader(range(4), batch_size=2))
    return seen, len(passes)


def epochs(count: int) -> list[list[list[int]]]:
    sampler = AdvancingSampler(SIZES, max_nodes=2000, seed=1)
    return [list(sampler) for _ in range(count)]


@without("lightning")
@pytest.mark.parametrize(("limit", "taken"), [(4, 4), (0.5, 6)])
def test_lightnings_limit_takes_the_first_batches_of_each_epoch(limit: Any, taken: int) -> None:
    first, second = epochs(2)
    assert len(first) == 12
    seen, passes = fit(limit_train_batches=limit, limit_val_batches=1)
    assert seen == first[:taken] + second[:taken]
    assert passes == 2


@without("lightning")
def test_validation_within_an_epoch_leaves_its_batches_as_they_are() -> None:
    first, second = epochs(2)
    seen, passes = fit(val_check_interval=0.25)
    assert seen == first + second
    assert passes == 8


@without("accelerate")
def test_accelerates_skip_first_batches_is_the_rest_of_the_epoch() -> None:
    accelerate = importlib.import_module("accelerate")
    first, second = epochs(2)
    sampler = AdvancingSampler(SIZES, max_nodes=2000, seed=1)
    loader = DataLoader(range(1000), batch_sampler=sampler, collate_fn=list)
    assert list(accelerate.skip_first_batches(loader, 5)) == first[5:]
    assert list(loader) == second
