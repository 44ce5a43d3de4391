"""Static shapes on a CUDA device: equal peaks, and nothing more reserved after the second step."""

from __future__ import annotations

import pytest
from on_device import answer

pytest.importorskip("torch_geometric")


@pytest.mark.parametrize("setting", ["expandable_segments:False", "expandable_segments:True"])
def test_every_step_takes_the_same_memory_to_the_byte(setting: str) -> None:
    counted = answer("static_steps.py", "static", "3", PYTORCH_ALLOC_CONF=setting, PYTORCH_CUDA_ALLOC_CONF=setting)
    assert len(counted["peaks"]) == 48
    assert len(set(counted["peaks"][2:])) == 1
    assert len(set(counted["reserved"][1:])) == 1
    fixed = answer("static_steps.py", "fixed", "1", PYTORCH_ALLOC_CONF=setting, PYTORCH_CUDA_ALLOC_CONF=setting)
    assert len(set(fixed["peaks"][2:])) > 1
