"""Warnings of drift, leaks and fragmentation."""

from __future__ import annotations

from dataclasses import replace

import calibrations
import numpy as np

from nodebudget.calibration.prediction_interval import PredictionBound
from nodebudget.monitor.drift import DriftWatch, LeakWatch, fragmentation
from nodebudget.monitor.meters import Reading

#: Within 1%, and 500 bytes between steps.
CALIBRATION = replace(calibrations.calibration(1000.0), resident=500.0, bound=PredictionBound(0.01, 8, 1e9))


def drift(measured, resident):
    watch = DriftWatch(CALIBRATION)
    warnings = [watch.look(2000.0, Reading(measured=measured, resident=resident)) for _ in range(20)]
    return warnings[-1]


def test_drift_says_how_much_and_why():
    assert drift(2010, 500) is None
    text = drift(3000, 500)
    assert "50.0% more memory than predicted" in text
    assert "the bytes per graph, node or edge are different" in text
    text = drift(1500, 100)
    assert "25.0% less" in text
    assert "100 B are allocated between steps, 500 B at the calibration" in text


def leaks(allocated, *, of_process=False):
    watch = LeakWatch(of_process=of_process)
    return [text for text in map(watch.look, allocated) if text]


def test_memory_that_settles_is_not_a_leak():
    rng = np.random.default_rng(0)
    assert leaks([2**30 + min(step, 40) * 2**24 + int(rng.integers(0, 2**26)) for step in range(400)]) == []
    assert leaks(2**30 + int(rng.integers(0, 2**26)) for step in range(20_000)) == []
    assert leaks((2**31 + step * 2**12 for step in range(400)), of_process=True) == []


def test_memory_that_grows_is_a_leak():
    rng = np.random.default_rng(0)
    assert "1.00 MiB per step" in leaks(2**31 + step * 2**20 for step in range(100))[0]
    assert "possible leak" in leaks(2**31 + step * 2**12 + int(rng.integers(0, 2**24)) for step in range(40_000))[0]
    assert "resident set" in leaks((2**31 + step * 2**21 for step in range(100)), of_process=True)[0]


def test_retries_mean_fragmentation():
    assert fragmentation(Reading(measured=10, reserved=20, retries=0)) is None
    assert "2 times in one step, 10 B reserved but unused" in fragmentation(
        Reading(measured=10, reserved=20, retries=2)
    )
