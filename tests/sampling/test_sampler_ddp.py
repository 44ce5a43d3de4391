"""Real processes: ranks train real ALIGNN under DistributedDataParallel and never wait for a missing batch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from paths import FIXTURES


@pytest.mark.parametrize("ranks", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_ranks_train_alignn_on_every_crystal_once(ranks: int, tmp_path: Path) -> None:
    command = [
        sys.executable,
        *("-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"),
        *(str(FIXTURES / "ddp_train.py"), str(tmp_path)),
    ]
    paths = os.pathsep.join([str(FIXTURES.parent), str(FIXTURES)])
    done = subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "DGLBACKEND": "pytorch"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(ranks)]
    assert {entry["world"] for entry in found} == {ranks}
    assert len({entry["length"] for entry in found} | {len(entry["batches"]) for entry in found}) == 1
    graphs = sorted(graph for entry in found for batch in entry["batches"] for graph in batch)
    assert graphs == list(range(found[0]["graphs"]))
    assert max(nodes for entry in found for nodes in entry["nodes"]) <= 48
    # The same weights everywhere: the ranks took every step together.
    assert len({tuple(entry["weights"]) for entry in found}) == 1
