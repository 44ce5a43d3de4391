"""What the loaders and loops of frameworks need of a sampler: to find it, to place it, and to give it their ranks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nodebudget.sampling.sampler import NodeBudgetSampler
from nodebudget.utils.distributed import world_and_rank


def sampler_of(loader: Any) -> NodeBudgetSampler | None:
    """Return the sampler of a loader, also inside batch samplers that take others; None where it is another kind."""
    for sampler in (getattr(loader, "batch_sampler", None), getattr(loader, "sampler", None)):
        while sampler is not None and not isinstance(sampler, NodeBudgetSampler):
            sampler = getattr(sampler, "batch_sampler", None)
        if sampler is not None:
            return sampler
    return None


def upcoming_epoch(sampler: NodeBudgetSampler) -> int | None:
    """Return the epoch that `set_epoch` or a loaded state chose for the next iteration, or None."""
    if sampler._completed:
        return sampler.epoch + 1
    return sampler.epoch if sampler._placed else None


def is_resumed(sampler: NodeBudgetSampler) -> bool:
    """Return whether the next iteration is the rest of an epoch."""
    return sampler._resume > 0


def follow_process_group(sampler: NodeBudgetSampler) -> None:
    """Give a sampler the ranks of a process group that was made after it, unless its ranks were given."""
    if sampler._ranks_given:
        return
    world, rank = world_and_rank(None, None)
    if world != sampler.num_replicas:
        state = {**sampler.state_dict(), "consumed": sampler._resume}
        placed = sampler._placed
        sampler.num_replicas, sampler.rank = world, rank
        sampler.load_state_dict(state)
        sampler._placed = placed
    sampler.rank = rank


def load_loader_state(
    sampler: NodeBudgetSampler, position: Mapping[str, Any], *, begun: bool, since: int = 0, finished: bool = False
) -> None:
    """Place a sampler where the loop over a loader was.

    Args:
        sampler: Made as the one that the state was taken from.
        position: State of the sampler.
        begun: Whether the loop had taken a batch.
        since: Batches that it took after `position`.
        finished: Whether the loop had come to its end: the next one has a whole epoch, except that `set_epoch` with the
            same epoch leaves nothing of it.
    """
    sampler.load_state_dict(position)
    if since:
        if sampler._consumed == len(sampler):
            # The state is of the time before the first batch of the next epoch.
            sampler.set_epoch(sampler.epoch + 1)
        sampler.load_state_dict({**sampler.state_dict(), "consumed": sampler._consumed + since})
    if not finished:
        if begun:
            sampler.set_epoch(sampler.epoch)
    elif sampler._consumed == len(sampler):
        sampler._resume, sampler._completed = 0, True
