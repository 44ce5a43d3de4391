"""What the tests on a CUDA device share."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).parent
TESTS = HERE.parent
MIB = 2**20


def is_stand_in() -> bool:
    """Whether the device computes nothing, so that its values and times mean nothing."""
    return torch.cuda.get_device_name(0) == "Stub CUDA device"


def python(*arguments: str, **environment: str | int) -> subprocess.CompletedProcess[str]:
    """Run this interpreter in the folder of the tests, with more in the environment."""
    settings = {name: str(value) for name, value in environment.items()}
    path = os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH")]))
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        cwd=TESTS,
        env={**os.environ, "PYTHONPATH": path, **settings},
        check=False,
    )


def answer(*arguments: str, **environment: str | int) -> Any:
    """Run a script of this folder and return the JSON that it prints."""
    done = python(str(HERE / arguments[0]), *arguments[1:], **environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
