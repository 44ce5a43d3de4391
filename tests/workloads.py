"""Workloads as users write them, small ones."""

from __future__ import annotations

import torch


class Linear:
    """A network on node counts: no graph library at all."""

    def __init__(self, device, width=8, fail_over=None):
        self.device = device
        self.model = torch.nn.Linear(1, width).to(device)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01)
        self.fail_over = fail_over

    def sample(self, item):
        return torch.ones(len(item["atoms"]["elements"]), 1)

    def batch(self, samples):
        return torch.cat(samples).to(self.device)

    def step(self, batch):
        if self.fail_over is not None and len(batch) > self.fail_over:
            raise ValueError("the label is missing\nand more")
        self.optimizer.zero_grad()
        self.model(batch).sum().backward()
        self.optimizer.step()


def raising(device):
    return Linear(device, fail_over=0)


def broken(device):
    raise RuntimeError("no weights")


def not_one(device):
    return object()


NOT_CALLABLE = 3
