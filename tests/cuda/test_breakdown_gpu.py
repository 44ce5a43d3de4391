"""What a step's memory is made of, on a CUDA device."""

import pytest
import torch
from crystals import entries
from linegraph_net import LineGraphWorkload

from nodebudget.analysis.breakdown import break_down, check_counts, choose_batches
from nodebudget.datasets.measure import measure
from nodebudget.profiling.open import open_probe


def test_the_parts_add_up_to_the_measured_peak():
    workload = LineGraphWorkload(device=torch.device("cuda:0"))
    crystals = entries(most=12, count=40)
    sizes = measure(crystals)
    breakdowns = break_down(workload, crystals, sizes, open_probe("cuda:0"), choose_batches(sizes, 10))
    for entry in breakdowns:
        assert abs(entry.error) < 0.01
        assert entry.peak["activations"] > entry.peak["temporary"] > 0
        assert entry.peak["rounding"] < 0.05 * entry.total
        assert entry.timeline.min() >= 0
    assert breakdowns[1].total > breakdowns[2].total
    for check in check_counts(workload):
        assert check.measured == pytest.approx(check.counted, rel=0.01)
