"""A loader of the same kind with another batch sampler, and what the loader's own sampler draws."""

from __future__ import annotations

import copy
from typing import Any

from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
)

from nodebudget.errors import InputError

_IN_ITS_PLACE = "give the dataset in place of the loader: auto_loader(dataset, step, collate_fn=…)"


def drawn_by(loader: DataLoader[Any]) -> tuple[list[int] | None, bool]:
    """Return the indices that a loader draws in an epoch (None for all), and whether it shuffles them.

    Raises:
        InputError: It does not draw each sample once: an iterable dataset, replacement, a sampler of the user's own.
    """
    if isinstance(loader.dataset, IterableDataset) or not hasattr(loader.dataset, "__len__"):
        raise InputError(
            f"the loader's dataset, a {type(loader.dataset).__name__}, has no length and no items",
            hint="pack streams with NodeBudgetBatcher",
        )
    sampler, batches = loader.sampler, loader.batch_sampler
    if batches is None:
        raise InputError("a loader with batch_size=None, which makes no batches", hint=_IN_ITS_PLACE)
    if type(batches) is not BatchSampler:
        raise InputError(f"a loader whose batches come from a {type(batches).__name__}", hint=_IN_ITS_PLACE)
    if isinstance(sampler, SubsetRandomSampler):
        return [int(index) for index in sampler.indices], True
    if isinstance(sampler, RandomSampler) and not sampler.replacement and len(sampler) == len(loader.dataset):
        return None, True
    if isinstance(sampler, DistributedSampler):
        return None, sampler.shuffle
    if type(sampler) is SequentialSampler:
        return None, False
    raise InputError(
        f"a loader whose samples are drawn by a {type(sampler).__name__}",
        limit="batches within a budget hold every sample once per epoch",
        hint=_IN_ITS_PLACE,
    )


def with_batch_sampler(loader: DataLoader[Any], sampler: Any) -> DataLoader[Any]:
    """Return a loader of the same class, dataset, collate function, workers and so on, with other batches.

    A copy, because loaders of other libraries take other arguments than torch's. The loader itself does not change.
    """
    new = copy.copy(loader)
    # DataLoader refuses to set these.
    new.__dict__ |= {
        **{"batch_sampler": sampler, "batch_size": None, "drop_last": False},
        **{"sampler": SequentialSampler(loader.dataset), "_iterator": None},  # type: ignore[arg-type]
    }
    if getattr(loader, "use_ddp", False):
        # DGL's loader hands the epoch of `loader.set_epoch` to it.
        new.__dict__["dist_sampler"] = sampler
    return new
