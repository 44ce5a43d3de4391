"""Whole epochs: balanced batches fit on smaller devices, and on the memory that they were planned for."""

from __future__ import annotations

import json

import pytest
from on_device import MIB, TESTS, python

BENCHMARK = str(TESTS.parent / "scripts/benchmarks/survival.py")


@pytest.fixture(scope="module")
def result():
    done = python("-W", "ignore", BENCHMARK, "--json", "--graphs", "512", "--step", str(16 * MIB))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["settings"]


@pytest.mark.parametrize("setting", ["default", "expandable"])
def test_balanced_batches_fit_on_a_smaller_device_than_a_fixed_number_of_crystals(result, setting):
    compared = result[setting]["compare"]
    assert compared["batches"]["fixed"] == compared["batches"]["balanced"]
    assert compared["balanced"]["least_device"] < compared["fixed"]["least_device"]
    assert compared["balanced"]["reserved"] < compared["fixed"]["reserved"]


@pytest.mark.parametrize("setting", ["default", "expandable"])
def test_an_epoch_planned_for_some_memory_fits_on_that_memory_in_every_order(result, setting):
    rows = result[setting]["planned"]
    assert {(row["dataset"], row["order"]) for row in rows} == {
        (dataset, order)
        for dataset in ("crystals", "dense", "porous")
        for order in ("largest first", "smallest first", "alternating")
    }
    for row in rows:
        assert row["fits"], row
        assert row["reserved"] <= row["memory"], row


def test_expandable_segments_fill_it_without_a_retry(result):
    for row in result["expandable"]["planned"]:
        assert row["retries"] == 0, row
        assert row["reserved"] >= 0.9 * row["memory"], row
