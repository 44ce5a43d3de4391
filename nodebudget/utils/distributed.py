"""Which rank this process is, and of how many."""

from __future__ import annotations

import torch.distributed

from nodebudget.errors import InputError
from nodebudget.utils.checks import check_count


def world_and_rank(num_replicas: int | None, rank: int | None) -> tuple[int, int]:
    """Return the number of ranks and this one: as given, else torch.distributed's, else 1 and 0.

    Raises:
        InputError: They are no whole numbers, or there is no such rank.
    """
    ready = torch.distributed.is_available() and torch.distributed.is_initialized()
    if num_replicas is None:
        num_replicas = torch.distributed.get_world_size() if ready else 1
    if rank is None:
        rank = torch.distributed.get_rank() if ready else 0
    world = check_count("num_replicas", num_replicas, 1)
    place = check_count("rank", rank, 0)
    if place >= world:
        raise InputError(
            f"rank is {place}",
            limit=f"num_replicas is {world}, so ranks are 0 to {world - 1}",
            hint="give the rank of this process",
        )
    return world, place
