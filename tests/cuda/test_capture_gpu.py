"""A captured step on a CUDA device: the same training as without, and what can't be captured is named."""

from __future__ import annotations

import pytest
import torch
from on_device import is_stand_in
from torch import nn

from nodebudget import InputError, capture_step

pytest.importorskip("torch_geometric")


def make() -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.SiLU(), nn.Linear(16, 1)).cuda()
    return model, torch.optim.AdamW(model.parameters(), lr=1e-2, capturable=True)


def step_of(model: nn.Module, optimizer: torch.optim.Optimizer):
    def step(batch):
        values, target, mask = batch
        optimizer.zero_grad(set_to_none=False)
        with torch.autocast("cuda", torch.bfloat16, cache_enabled=False):
            out = model(values)[:, 0]
        loss = ((out.float() - target).square() * mask).sum() / mask.sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss

    return step


def batches(count: int):
    made = torch.Generator().manual_seed(1)
    for _ in range(count):
        values = torch.randn(64, 8, generator=made)
        yield values.cuda(), values.sum(dim=1).cuda(), (torch.arange(64) < 60).cuda()


def test_the_stand_in_runs_the_steps_before_the_capture_and_has_no_graphs(stand_in: None) -> None:
    model, optimizer = make()
    with pytest.raises(InputError, match="the step can't be captured: CUDA error: stub CUDA error"):
        capture_step(step_of(model, optimizer), next(batches(1)))
    assert len(optimizer.state) == 4


def test_a_captured_step_trains_as_the_step_does() -> None:
    if is_stand_in():
        pytest.skip("the stand-in has no CUDA graphs")
    example = next(batches(1))
    plain, captured = make(), make()
    step = step_of(*plain)
    replayed = capture_step(step_of(*captured), tuple(tensor.clone() for tensor in example))
    for _ in range(3):  # as many as the capture warms up with
        step(example)
    for batch in batches(20):
        loss, other = step(batch), replayed(batch)
        torch.testing.assert_close(loss.detach(), other.detach(), rtol=1e-3, atol=1e-4)
    for one, two in zip(plain[0].parameters(), captured[0].parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-4)
    with pytest.raises(InputError, match="the captured step has"):
        replayed(tuple(tensor[:10] for tensor in example))


def test_what_can_not_be_captured_is_named() -> None:
    if is_stand_in():
        pytest.skip("the stand-in has no CUDA graphs")
    with pytest.raises(InputError, match=r"the step can't be captured: .*; what can't be captured: values read"):
        capture_step(lambda batch: batch[0].sum().item(), next(batches(1)))
