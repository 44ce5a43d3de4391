"""Peaks on the CPU, against what can be counted by hand."""

import pytest
import torch

from nodebudget.errors import DoesNotFitError, InputError, MissingError
from nodebudget.profiling.cpu_trace import peak_of, trace_blocks
from nodebudget.profiling.open import open_probe
from nodebudget.utils.optional_imports import require
from nodebudget.workloads.run_step import is_out_of_memory

MIB = 2**20


def megabytes(count):
    return torch.empty(count * MIB, dtype=torch.uint8)


def test_the_peak_is_the_most_that_lives_at_once():
    def run():
        first = megabytes(3)
        del first
        second = megabytes(2)
        third = megabytes(4)
        del second
        return third

    assert open_probe("cpu").measure(run).requested == 6 * MIB


def test_what_lived_before_is_not_counted_and_its_release_is():
    probe = open_probe("cpu")
    held = {}
    probe.measure(lambda: held.update(old=megabytes(5)))

    def run():
        del held["old"]
        held["new"] = megabytes(7)

    assert probe.measure(run).requested == 2 * MIB


def test_a_training_step_by_hand():
    # Input N x 1000 into 10 outputs: the output and its gradient are small, so the peak above the resident bytes is
    # the batch, the gradients of the weight and what the loss needs.
    layer = torch.nn.Linear(1000, 10, bias=False)

    def step():
        layer.zero_grad()
        batch = torch.ones(5000, 1000)
        layer(batch).sum().backward()

    probe = open_probe("cpu")
    probe.measure(step)
    batch, out, weight = 5000 * 1000 * 4, 5000 * 10 * 4, 10 * 1000 * 4
    # At the end the batch and the gradients of output and weight live; the old gradient was released.
    assert probe.measure(step).requested == pytest.approx(batch + out, abs=weight + out)


def test_a_trace_is_in_order():
    trace = trace_blocks(lambda: (megabytes(1), None)[1]).nbytes
    assert trace.tolist() == [MIB, -MIB]
    assert peak_of(trace) == MIB
    assert peak_of(trace[:0]) == 0
    assert peak_of(-trace) == 0


def test_what_the_code_raises_passes_through():
    def fails():
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        open_probe("cpu").measure(fails)


def test_the_cpu_says_what_it_is():
    probe = open_probe("cpu")
    assert probe.describe()["device"] == "cpu"
    assert 0 < probe.free_bytes() <= probe.describe()["memory"]


@pytest.mark.parametrize("device", ["tpu", "cuda:x", "cuda:-1", "cpu:1", ""])
def test_devices_that_cannot_be_calibrated(device):
    with pytest.raises(InputError, match="unsupported device"):
        open_probe(device)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_cuda_the_answer_names_the_next_step():
    with pytest.raises(MissingError, match="--device cpu") as caught:
        open_probe("cuda:0")
    assert caught.value.exit_code == 3


@pytest.mark.parametrize(
    ("error", "is_one"),
    [
        (torch.cuda.OutOfMemoryError("CUDA out of memory"), True),
        (MemoryError(), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), True),
        (RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), True),
        (RuntimeError("shapes do not match"), False),
        (ValueError("out of memory"), False),
        (require("dgl").DGLError("Check failed: e == cudaSuccess: CUDA: out of memory"), True),
        (require("dgl").DGLError("Cannot assign node feature"), False),
        (DoesNotFitError("a step ran out of memory", hint="less"), False),
    ],
)
def test_out_of_memory_is_recognised(error, is_one):
    assert is_out_of_memory(error) is is_one
