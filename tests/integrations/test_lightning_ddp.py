"""Lightning under DDP, in real processes: a loader made before the process group or in the hook, whole and resumed."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from paths import FIXTURES, ROOT


@pytest.mark.skipif(importlib.util.find_spec("lightning") is None, reason="lightning is not installed")
def test_each_rank_has_its_share_of_every_epoch_also_when_resumed(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(FIXTURES / "lightning_ddp.py"), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(FIXTURES)]), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    ranks = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    assert ranks[0]["expected"] != ranks[1]["expected"]
    seen = [graph for rank in ranks for batch in rank["expected"] for graph in batch]
    assert sorted(seen) == sorted([*range(1000)] * 3)
    for rank in ranks:
        assert len(rank["runs"]) == 4
        for name, run in rank["runs"].items():
            assert run["whole"] == rank["expected"], name
            assert run["resumed"] == rank["expected"][rank["stop"] :], name
