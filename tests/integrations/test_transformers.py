"""The Trainer of transformers, in real processes: the sampler's epochs, and checkpoints in the middle of one."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from paths import FIXTURES, ROOT

MISSING = [name for name in ("transformers", "accelerate") if importlib.util.find_spec(name) is None]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_trainer_sees_every_epoch_and_goes_on_from_each_checkpoint(ranks: int, tmp_path: Path) -> None:
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
    done = subprocess.run(
        [sys.executable, *(launch if ranks > 1 else []), str(FIXTURES / "transformers_train.py"), str(tmp_path)],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(FIXTURES)]),
            "OMP_NUM_THREADS": "1",
            "ACCELERATE_USE_CPU": "1",
        },
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for rank in range(ranks):
        run = json.loads((tmp_path / f"{rank}.json").read_text())
        assert run["whole"] == run["expected"]
        assert len(run["resumed"]) > 5
        for step, rest in run["resumed"].items():
            assert rest == run["expected"][int(step) :], step
