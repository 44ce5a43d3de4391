"""The processes of a run of alignn on several GPUs, and what they tell each other."""

from __future__ import annotations

import os
import pickle
import random
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch.multiprocessing.spawn import ProcessExitedException, spawn

from nodebudget.errors import NodeBudgetError
from nodebudget.utils.optional_imports import require

#: Modules of alignn whose datasets are files that all ranks share.
_FILES = ("alignn.lmdb_dataset", "alignn.pure_lmdb_dataset")


def launched() -> tuple[int, int | None]:
    """Return rank and number of processes as torchrun or Slurm set them; (0, None) where this is the only process."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ:
        return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    if int(os.environ.get("SLURM_NTASKS", "1")) > 1 and "SLURM_PROCID" in os.environ:
        return int(os.environ["SLURM_PROCID"]), int(os.environ["SLURM_NTASKS"])
    return 0, None


def start_processes(train: Callable[..., None], processes: int, *arguments: Any) -> None:
    """Run `train(rank, processes, *arguments)` in one new process per rank.

    Raises:
        NodeBudgetError: What the first rank that failed raised.
    """
    os.environ.setdefault("MASTER_PORT", str(random.SystemRandom().randint(20_000, 60_000)))
    with tempfile.TemporaryDirectory(prefix="nodebudget-") as folder:
        message = Path(folder) / "error.pickle"
        try:
            spawn(_rank, args=(train, processes, str(message), arguments), nprocs=processes)  # type: ignore[no-untyped-call]
        except ProcessExitedException:
            if not message.exists():
                raise
            raise pickle.loads(message.read_bytes()) from None


def _rank(rank: int, train: Callable[..., None], processes: int, message: str, arguments: tuple[Any, ...]) -> None:
    try:
        train(rank, processes, *arguments)
    except NodeBudgetError as error:
        # The other ranks are ended then, and may fail in turn: the first message stays.
        written = Path(f"{message}.{rank}")
        written.write_bytes(pickle.dumps(error))
        if not Path(message).exists():
            written.replace(message)
        sys.exit(error.exit_code)


@contextmanager
def one_writer(rank: int, world_size: int) -> Iterator[None]:
    """Let rank 0 write the dataset's files and the others read them; alignn's ranks write the same files at once."""
    with ExitStack() as stack:
        for name in _FILES if world_size > 1 else ():
            module = require(name)
            stack.enter_context(
                patch.object(module, "get_torch_dataset", _in_turn(module.get_torch_dataset, rank == 0))
            )
        yield


def _in_turn(make_dataset: Callable[..., Any], first: bool) -> Callable[..., Any]:
    def made(**settings: Any) -> Any:
        if first:
            dataset = make_dataset(**settings)
            torch.distributed.barrier()
            return dataset
        torch.distributed.barrier()
        return make_dataset(**{**settings, "read_existing": True})

    return made
