"""Tests on a CUDA device: a real GPU, or a stand-in that allocates and computes nothing."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from typing import Any

import pytest
import torch
from on_device import TESTS, is_stand_in, python


def pytest_collection_modifyitems(items):
    absent = pytest.mark.skip(reason="there is no CUDA device")
    for item in items:
        if TESTS / "cuda" in item.path.parents:
            item.add_marker(pytest.mark.cuda)
            if not torch.cuda.is_available():
                item.add_marker(absent)


@pytest.fixture
def stand_in():
    """Skip on a real GPU: its memory and the number of devices can't be chosen."""
    if not is_stand_in():
        pytest.skip("needs a device whose memory can be chosen")


@pytest.fixture(autouse=True)
def clean():
    """Leave nothing of one test in the allocator for the next."""
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)
    torch.cuda.empty_cache()


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> str:
    """Real crystals as a JARVIS-style JSON."""
    from crystals import entries

    path = tmp_path_factory.mktemp("data") / "crystals.json"
    path.write_text(json.dumps(entries(most=12, count=60)))
    return str(path)


@pytest.fixture
def calibrate(data: str) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run `nodebudget calibrate` on the crystals, as a user does."""

    def run(*arguments: str, workload: str = "linegraph_net:LineGraphWorkload", **environment: str | int) -> Any:
        command = ["-m", "nodebudget", "calibrate", "--workload", workload, "--data", data, "--probes", "18"]
        return python(*command, "--max-graphs", "12", *arguments, **environment)

    return run
