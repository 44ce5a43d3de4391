"""This process's rank under torch.distributed, and values that must be equal on all ranks."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

from nodebudget.errors import InputError, NodeBudgetError
from nodebudget.utils.checks import check_count

T = TypeVar("T")

#: Backends that exchange tensors in main memory; of the others NCCL is known.
_ON_CPU = ("gloo", "mpi", "ucc", "cpu:", "undefined")


def world_and_rank(num_replicas: int | None, rank: int | None) -> tuple[int, int]:
    """Return the number of ranks and this one: as given, else torch.distributed's, else 1 and 0.

    Raises an InputError where they are not whole numbers, or there is no such rank.
    """
    distributed = _distributed()
    if num_replicas is None:
        num_replicas = 1 if distributed is None else distributed.get_world_size()
    if rank is None:
        rank = 0 if distributed is None else distributed.get_rank()
    world = check_count("num_replicas", num_replicas, 1)
    place = check_count("rank", rank, 0)
    if place >= world:
        raise InputError(
            f"rank is {place}",
            limit=f"num_replicas is {world}, so ranks are 0 to {world - 1}",
            hint="give the rank of this process",
        )
    return world, place


def _distributed() -> Any:
    """Return torch.distributed where a process group is initialised, else None."""
    torch = sys.modules.get("torch")
    ready = torch is not None and torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed if torch is not None and ready else None


def are_the_ranks(num_replicas: int, rank: int, given: bool = True) -> bool:
    """Return whether these are the ranks of the default process group, in a process that may communicate with it.

    Args:
        num_replicas: Number of ranks that batches are assigned to.
        rank: The one whose batches this process takes.
        given: Whether they were given, rather than found out when there was perhaps no process group yet.

    Raises:
        InputError: They are others, so that some batches would be trained on by every rank or by none. Ranks that
            were given may be fewer: of groups of processes that train on the same batches.
    """
    distributed = _distributed()
    if distributed is None:
        return False
    world, place = distributed.get_world_size(), distributed.get_rank()
    if (world, place) != (num_replicas, rank) and not (given and num_replicas < world and world % num_replicas == 0):
        raise InputError(
            f"the sampler is rank {rank} of {num_replicas}, this process is rank {place} of {world}",
            limit="the ranks of the process group: else graphs are trained on twice, or never",
            hint="make the sampler after torch.distributed.init_process_group, or pass num_replicas and rank",
        )
    is_worker = sys.modules["torch"].utils.data.get_worker_info() is not None
    return num_replicas > 1 and (world, place) == (num_replicas, rank) and not is_worker


def differing_ranks(values: Mapping[str, str]) -> dict[str, list[int]]:
    """Return which values differ between ranks, and on which ranks they are not rank 0's.

    A collective of the default process group: every rank must call it, with the same names. Exchanges 8 bytes of a hash
    per value. Where the backend is neither one that exchanges tensors in main memory nor NCCL, returns nothing.
    """
    import torch
    import torch.distributed

    device = _exchange_device(str(torch.distributed.get_backend()))
    if device is None:
        return {}
    hashes = [hashlib.sha256(value.encode()).digest() for value in values.values()]
    mine = torch.tensor([int.from_bytes(digest[:8], "big", signed=True) for digest in hashes], device=device)
    gathered = [torch.empty_like(mine) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(gathered, mine)
    differs = (torch.stack(gathered) != gathered[0]).T.tolist()
    return {
        name: [rank for rank, other in enumerate(ranks) if other]
        for name, ranks in zip(values, differs, strict=True)
        if any(ranks)
    }


def is_first_rank() -> bool:
    """Return whether this is rank 0 of the default process group, or the only process."""
    distributed = _distributed()
    return distributed is None or distributed.get_rank() == 0


def from_first_rank(make: Callable[[], T]) -> T:
    """Return what rank 0 makes, on all ranks: a collective, of any value that can be pickled.

    Raises:
        NodeBudgetError: What `make` raised, on every rank.
    """
    distributed = _distributed()
    if distributed is None:
        return make()
    box: list[Any] = [None, None]
    if distributed.get_rank() == 0:
        try:
            box[0] = make()
        except NodeBudgetError as error:
            box[1] = error
    distributed.broadcast_object_list(box)
    if box[1] is not None:
        raise box[1]
    return cast(T, box[0])


def of_all_ranks(value: Any) -> list[Any]:
    """Return the values of all ranks, by rank: a collective, of any value that can be pickled."""
    distributed = _distributed()
    if distributed is None:
        return [value]
    values: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(values, value)
    return values


def _exchange_device(backend: str) -> str | None:
    if any(name in backend for name in _ON_CPU):
        return "cpu"
    if "nccl" not in backend:
        return None
    cuda = sys.modules["torch"].cuda
    current, local = cuda.current_device(), int(os.environ.get("LOCAL_RANK", "0"))
    # Without torch.cuda.set_device every process has the first device, and NCCL refuses two ranks on one.
    return f"cuda:{local if current == 0 and local < cuda.device_count() else current}"
