"""Steps traced on the CPU and replayed through the model, against PyTorch's own allocator."""

from __future__ import annotations

import json
from contextlib import nullcontext

import numpy as np
import pytest
from on_device import MIB, TESTS, answer, is_stand_in, python

from nodebudget.errors import DoesNotFitError
from nodebudget.profiling.cpu_trace import BlockTrace
from nodebudget.profiling.cuda_allocator.allocator import CachingAllocator
from nodebudget.profiling.cuda_allocator.replay import replay

BENCHMARK = str(TESTS.parent / "scripts/benchmarks/allocator.py")
SMALL = ["--json", "--layers", "1", "--graphs", "32", "--batches", "14"]


@pytest.mark.parametrize(
    "model", [["--optimizer", "AdamW"], ["--optimizer", "SGD", "--norm", "BatchNorm1d"]], ids=["adamw", "sgd"]
)
def test_allocated_and_reserved_are_predicted_over_a_sequence_of_batches(model):
    done = python(BENCHMARK, *SMALL, *model)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["where"] == "the stub device") is is_stand_in()
    assert len(result["steps"]) == 28
    for setting in ("default", "expandable"):
        assert result["largest_error"][setting]["allocated"] <= 0.005
        assert result["largest_error"][setting]["reserved"] <= 0.03


@pytest.mark.usefixtures("stand_in")
@pytest.mark.parametrize("mebibytes", [8192, 160, 150, 136])
@pytest.mark.parametrize("expandable", [False, True])
def test_the_model_does_what_the_allocator_did_with_the_same_requests(expandable, mebibytes):
    counted = answer(
        "recorded.py",
        PYTORCH_ALLOC_CONF=f"expandable_segments:{expandable}",
        STUBCUDA_BYTES=mebibytes * MIB,
    )
    table = np.array(counted["events"], dtype=np.int64)
    allocator = CachingAllocator(mebibytes * MIB, expandable=expandable)
    with pytest.raises(DoesNotFitError) if counted["failed"] else nullcontext():
        replay(BlockTrace(table[:, 0], table[:, 1]), allocator)
    assert allocator.peak_allocated == counted["allocated"]
    assert allocator.peak_reserved == counted["reserved"]
    assert allocator.retries == counted["retries"]
