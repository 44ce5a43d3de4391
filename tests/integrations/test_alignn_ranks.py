"""What the processes of a run of alignn tell each other, with real processes and the gloo backend."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from alignn_folder import write_root

from nodebudget.errors import OversizedError
from nodebudget.integrations.alignn_ranks import one_writer, start_processes
from nodebudget.utils.optional_imports import require
from nodebudget.workloads.alignn_loop import quiet

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="gloo over a file")


def joined(rank: int, processes: int, folder: str) -> None:
    torch.distributed.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=processes)


def fail_on_the_second(rank: int, processes: int) -> None:
    if rank == 1:
        raise OversizedError("graph 7 is too large", indices=[7], limit="a limit", hint="raise the budget")


def read_data(rank: int, processes: int, folder: str) -> None:
    """Make the training data as `train_alignn.py` does on every rank."""
    joined(rank, processes, folder)
    dataset = require("alignn.lmdb_dataset")
    records = json.loads((Path(folder) / "id_prop.json").read_text())
    with one_writer(rank, processes), quiet():
        made = dataset.get_torch_dataset(
            dataset=[{**record, "target": 0.0} for record in records],
            target="target",
            neighbor_strategy="k-nearest",
            output_dir=folder,
            tmp_name=f"{folder}/train_data",
        )
    (Path(folder) / f"{rank}.json").write_text(json.dumps([len(made), made[3][0].num_nodes()]))
    torch.distributed.destroy_process_group()


def results(folder: Path) -> list[Any]:
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]


def test_an_error_of_a_process_is_raised_as_it_was() -> None:
    with pytest.raises(OversizedError, match=r"graph 7 is too large \(a limit\); raise the budget") as raised:
        start_processes(fail_on_the_second, 2)
    assert raised.value.indices == [7]


def test_one_rank_writes_the_data_files_that_all_read(tmp_path: Path) -> None:
    write_root(tmp_path, count=12)
    start_processes(read_data, 2, str(tmp_path))
    first, second = results(tmp_path)
    assert first == second
    assert first[0] == 12
