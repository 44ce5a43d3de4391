"""A small network, its samples, and a calibration of it."""

from __future__ import annotations

import gc

import pytest
import torch
from linegraph_net import LineGraphWorkload, random_sizes

from nodebudget.calibration.calibrate import CalibrationConfig, calibrate
from nodebudget.datasets.measure import measure
from nodebudget.profiling.open import open_probe


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Steps this small are faster so."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def frozen_imports():
    """Collections after a step ran out of memory do not look at all objects of the packages that were imported."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="session")
def workload():
    torch.manual_seed(0)
    return LineGraphWorkload(width=16, layers=1)


ITEMS = random_sizes(16)


@pytest.fixture(scope="session")
def samples(workload):
    return [workload.sample(item) for item in ITEMS]


@pytest.fixture(scope="session")
def calibration(workload, samples):
    """A calibration of this workload, on this device."""
    sizes = measure(samples)
    return calibrate(workload, ITEMS, sizes, open_probe("cpu"), config=CalibrationConfig(probes=12, max_graphs=8))
