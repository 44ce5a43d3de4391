"""The probe of a CUDA device: its counters, and that nothing stays behind, whatever happens."""

from __future__ import annotations

import gc

import pytest
import torch
from linegraph_net import LineGraphWorkload, random_sizes
from on_device import MIB

from nodebudget import SizeTable
from nodebudget.calibration.calibrate import CalibrationConfig, calibrate
from nodebudget.errors import MissingError, WorkloadError
from nodebudget.profiling.cuda import CudaProbe
from nodebudget.profiling.open import open_probe

DEVICE = torch.device("cuda:0")
ITEMS = random_sizes(80)
SIZES = SizeTable.from_counts(*(list(column) for column in zip(*ITEMS, strict=True)))
CONFIG = CalibrationConfig(probes=18, max_graphs=16)


def megabytes(count):
    return torch.empty(count * MIB, dtype=torch.uint8, device=DEVICE)


def live():
    gc.collect()
    return torch.cuda.memory_allocated(DEVICE)


class Watching(CudaProbe):
    """Remembers what is left after each release."""

    def __init__(self):
        super().__init__(0)
        self.left = []

    def release(self):
        super().release()
        self.left.append((torch.cuda.memory_allocated(0), torch.cuda.memory_reserved(0)))


def test_the_peak_is_the_maximum_that_lives_at_once():
    probe = open_probe("cuda:0")
    held = megabytes(8)

    def run():
        first = megabytes(32)
        del first
        megabytes(16)

    peak = probe.measure(run)
    assert peak.requested == 32 * MIB
    assert peak.resident == live()
    assert peak.reserved >= peak.allocated >= peak.resident + peak.requested
    assert peak.outside is not None
    assert held.numel() == 8 * MIB


def test_what_is_cached_counts_as_free_and_release_gives_it_back():
    probe = open_probe("cuda:0")
    probe.release()
    before, held = probe.free_bytes(), torch.cuda.memory_reserved(DEVICE)
    probe.measure(lambda: megabytes(64))
    assert torch.cuda.memory_reserved(DEVICE) >= held + 64 * MIB
    assert probe.free_bytes() == before
    probe.release()
    assert torch.cuda.memory_reserved(DEVICE) == held


def test_the_device_says_what_it_is():
    device = open_probe("cuda:0").describe()
    assert device["device"] == "cuda:0"
    assert device["name"] == torch.cuda.get_device_name(0)
    assert device["memory"] >= torch.cuda.mem_get_info(0)[0]


def test_a_number_beyond_the_devices():
    with pytest.raises(MissingError, match="there is no GPU 64"):
        open_probe("cuda:64")


def test_after_each_probe_only_what_is_resident_is_left():
    workload, probe = LineGraphWorkload(DEVICE), Watching()
    calibration = calibrate(workload, ITEMS, SIZES, probe, config=CONFIG)
    assert len(probe.left) == len(calibration.observations) == 18
    assert len({allocated for allocated, _ in probe.left}) == 1
    # Beside the live tensors only the rests of their segments.
    assert all(reserved - allocated < 64 * MIB for allocated, reserved in probe.left)


def test_out_of_memory_is_an_observation_and_nothing_of_that_step_stays():
    workload, probe = LineGraphWorkload(DEVICE, width=64), Watching()
    # Of all that the device has free, this process gets little, which the probe does not know beforehand.
    share = 200 * MIB / torch.cuda.mem_get_info(0)[1]
    torch.cuda.set_per_process_memory_fraction(share)
    calibration = calibrate(workload, ITEMS, SIZES, probe, config=CONFIG)
    roles = [entry.role for entry in calibration.observations]
    assert roles.count("out-of-memory") == 1
    lost = next(entry for entry in calibration.observations if entry.role == "out-of-memory")
    measured = [entry for entry in calibration.observations if entry.role != "out-of-memory"]
    assert all(entry.peak <= 200 * MIB for entry in measured)
    assert all(entry.sizes["line_edges"] < lost.sizes["line_edges"] for entry in measured)
    gradients = sum(parameter.numel() * 4 for parameter in workload.model.parameters())
    steady, after = probe.left[0][0], probe.left[roles.index("out-of-memory")][0]
    assert steady - 2 * gradients <= after <= steady
    workload.step(workload.batch([workload.sample(ITEMS[0])]))


def test_another_error_names_the_batch_and_lets_go_of_it():
    workload, probe = LineGraphWorkload(DEVICE, fail_over=150), Watching()
    with pytest.raises(WorkloadError, match=r"a training step on crystals .* raised ValueError") as caught:
        calibrate(workload, ITEMS, SIZES, probe, config=CONFIG)
    del caught  # it holds the frames of the step, and these its tensors
    assert live() == probe.left[-1][0]
