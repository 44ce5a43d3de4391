"""Which optimizer step each batch of an epoch belongs to, and its weight in the gradient of that step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from nodebudget.sampling.epoch import EpochProgress
from nodebudget.sampling.packing.batch_grid import Ints
from nodebudget.sampling.plan import Plan


class _Stretch(NamedTuple):
    """The batches of all ranks that were taken of one plan, and which step of the epoch each belongs to."""

    plan: Plan
    batches: int
    steps: Ints


def _stretches(progress: EpochProgress) -> Iterator[_Stretch]:
    first = 0
    taken: list[tuple[EpochProgress, int | None]] = [(progress, None)]
    while taken[0][0].before is not None:
        taken.insert(0, (taken[0][0].before, taken[0][0].steps))
    for part, batches_of_rank in taken:
        plan = part.plan
        batches = len(plan) if batches_of_rank is None else batches_of_rank * plan.config.num_replicas
        steps = np.searchsorted(plan.steps, np.arange(batches), side="right") - 1
        # Steps that are known by their number keep it where their rest is planned again.
        begin = first if plan.step_offsets is None else plan.first_step
        yield _Stretch(plan, batches, steps + begin)
        first = begin + (int(steps[-1]) + 1 if batches else 0)


def loss_weights(progress: EpochProgress, rank: int, values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return a factor for the mean loss of each batch of a rank: see `NodeBudgetSampler.loss_weights`.

    Args:
        progress: The epoch.
        rank: The rank.
        values: What a mean is taken over, by graph, shape (graphs,).
    """
    stretches = list(_stretches(progress))
    loads = [stretch.plan.loads(values)[: stretch.batches] for stretch in stretches]
    totals = np.bincount(np.concatenate([part.steps for part in stretches]), weights=np.concatenate(loads))
    weights = []
    for part, load in zip(stretches, loads, strict=True):
        world = part.plan.config.num_replicas
        chosen = slice(rank % world, None, world)
        of_step = totals[part.steps[chosen]]
        weights.append(world * load[chosen] / np.where(of_step > 0, of_step, 1))
    return np.concatenate(weights)


def step_ends(progress: EpochProgress) -> npt.NDArray[np.bool_]:
    """Return whether each batch of a rank is the last one of its optimizer step, shape (batches of a rank,)."""
    steps = np.concatenate([part.steps[:: part.plan.config.num_replicas] for part in _stretches(progress)])
    return np.append(steps[1:] != steps[:-1], True)
