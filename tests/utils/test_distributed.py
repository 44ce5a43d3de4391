"""Ranks: as given or torch.distributed's, and where they exchange tensors."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from nodebudget.errors import InputError
from nodebudget.utils import distributed


def test_without_a_process_group_there_is_one_rank() -> None:
    assert distributed.world_and_rank(None, None) == (1, 0)
    assert distributed.world_and_rank(4, 3) == (4, 3)
    assert not distributed.are_the_ranks(4, 3)
    with pytest.raises(InputError, match="ranks are 0 to 3"):
        distributed.world_and_rank(4, 4)


@pytest.mark.parametrize(
    ("backend", "current", "local", "device"),
    [
        ("gloo", 0, 0, "cpu"),
        ("undefined", 0, 0, "cpu"),
        ("cpu:gloo,cuda:nccl", 0, 1, "cpu"),
        ("nccl", 1, 1, "cuda:1"),
        ("nccl", 0, 1, "cuda:1"),  # no call of torch.cuda.set_device
        ("nccl", 2, 1, "cuda:2"),  # another assignment of devices to ranks
        ("nccl", 0, 5, "cuda:0"),  # each process sees its own device only
        ("xccl", 0, 0, None),
    ],
)
def test_ranks_exchange_hashes_where_their_backend_takes_tensors(
    backend: str, current: int, local: int, device: str | None, monkeypatch: Any
) -> None:
    monkeypatch.setattr(torch.cuda, "current_device", lambda: current)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setenv("LOCAL_RANK", str(local))
    assert distributed._exchange_device(backend) == device
