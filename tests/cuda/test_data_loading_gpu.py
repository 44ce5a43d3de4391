"""What pin_memory, workers and caches do to the memory of a CUDA device, by its allocator."""

from __future__ import annotations

import json

import pytest
from on_device import python
from paths import ROOT

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def measured(data):
    options = ["--gpu", "0", "--data", data, "--limit", "16", "--batch-size", "4", "--workers", "1", "--json"]
    done = python(str(ROOT / "scripts/studies/data_loading"), *options)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def pairs(measured, name):
    return [entry for entry in measured["pairs"] if entry["setting"] == name]


def test_none_of_the_suspects_raises_device_memory(measured):
    assert {claim["number"]: claim["device"] for claim in measured["claims"]} == dict.fromkeys((2, 3, 4, 5), "refuted")
    assert measured["not_measured"] == []
    for name in ("pin_memory", "num_workers", "prefetch_factor", "graph cache"):
        assert pairs(measured, name)[0]["device_bytes"] == pytest.approx(0, abs=2**20), name


def test_pinned_memory_is_on_the_host_and_dgl_graphs_are_not_pinned(measured):
    (found,) = pairs(measured, "pin_memory")
    assert found["a"]["pinned"] == 0
    assert found["b"]["pinned"] >= found["b"]["batch"]
    assert found["b"]["pinned_graph"] == 0
    assert "such method" in measured["claims"][0]["reason"]


def test_what_a_collate_function_moves_to_the_device_is_there(measured):
    (found,) = pairs(measured, "collate function")
    assert found["formula_device_bytes"] == 2 * found["a"]["batch"]
    assert found["device_bytes"] == pytest.approx(found["formula_device_bytes"], rel=0.25)


def test_a_text_cache_is_on_the_device_only_when_it_is_moved_there(measured):
    in_host, on_device = pairs(measured, "text cache")
    assert in_host["device_bytes"] < 0  # the encoder is not needed
    assert on_device["device_bytes"] == pytest.approx(on_device["formula_device_bytes"], rel=0.05)
