"""This process's rank under torch.distributed, and values that must be equal on all ranks."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping

import torch
import torch.distributed
from torch.utils.data import get_worker_info

from nodebudget.errors import InputError
from nodebudget.utils.checks import check_count

#: Backends that exchange tensors in main memory; the others, but for NCCL, are not asked.
_ON_CPU = ("gloo", "mpi", "ucc", "cpu:")


def world_and_rank(num_replicas: int | None, rank: int | None) -> tuple[int, int]:
    """Return the number of ranks and this one: as given, else torch.distributed's, else 1 and 0.

    Raises:
        InputError: They are not whole numbers, or there is no such rank.
    """
    ready = _is_initialized()
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


def _is_initialized() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def are_the_ranks(num_replicas: int, rank: int) -> bool:
    """Return whether these are the ranks of torch.distributed's default group, in a process that may call it."""
    if num_replicas == 1 or not _is_initialized() or get_worker_info() is not None:
        return False
    return (torch.distributed.get_world_size(), torch.distributed.get_rank()) == (num_replicas, rank)


def differing_ranks(values: Mapping[str, str]) -> dict[str, list[int]]:
    """Return which values differ between ranks, and on which ranks they are not rank 0's.

    A collective of the default process group: every rank must call it, with the same names.
    """
    device = _device()
    if device is None:
        return {}
    hashes = [hashlib.sha256(value.encode()).digest() for value in values.values()]
    own = torch.tensor([int.from_bytes(digest[:8], "big", signed=True) for digest in hashes], device=device)
    every = [torch.empty_like(own) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(every, own)
    differs = (torch.stack(every) != every[0]).T.tolist()
    return {
        name: [rank for rank, other in enumerate(ranks) if other]
        for name, ranks in zip(values, differs, strict=True)
        if any(ranks)
    }


def _device() -> torch.device | None:
    """Return where the group's backend takes tensors; None where that is not known."""
    backend = str(torch.distributed.get_backend())
    if backend == "undefined" or any(name in backend for name in _ON_CPU):
        return torch.device("cpu")
    if "nccl" not in backend:
        return None
    chosen, local = torch.cuda.current_device(), int(os.environ.get("LOCAL_RANK", "0"))
    # A process that did not call torch.cuda.set_device has the first one, and NCCL refuses two ranks on one.
    return torch.device("cuda", local if chosen == 0 and local < torch.cuda.device_count() else chosen)
