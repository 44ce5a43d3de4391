"""A workload of what a training loop has already: a model, an optimizer, a collate function and a step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch

from nodebudget.workloads.protocol import Workload

#: Modules that hold the user's model as `module`, and take its name.
_WRAPPERS = ("DistributedDataParallel", "FullyShardedDataParallel", "OptimizedModule", "DataParallel")


class StepWorkload(Workload):
    """The user's own training step, or prediction, as a workload.

    Args:
        model: What the step trains.
        optimizers: The optimizers that the step uses; none if it only predicts.
        collate: Samples to what `step` takes.
        step: Batch → anything; one whole step.
        sizes: Sample → its sizes by name; None counts graphs.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        optimizers: Sequence[torch.optim.Optimizer],
        collate: Callable[[list[Any]], Any],
        step: Callable[[Any], object],
        sizes: Callable[[Any], Mapping[str, float]] | None = None,
    ) -> None:
        self.model, self._collate, self._step = model, collate, step
        self.optimizer: Any = optimizers[0] if len(optimizers) == 1 else _Together(optimizers)
        self.name = type(unwrapped(model)).__qualname__
        if sizes is not None:
            self.sizes, self.sample = sizes, _unchanged

    def batch(self, samples: Sequence[Any]) -> Any:
        """Collate as the loader does; the step moves the batch to the device."""
        return self._collate(list(samples))

    def step(self, batch: Any) -> None:
        """Take one step; what it returns is released, as by a loop that keeps nothing."""
        self._step(batch)


def _unchanged(item: Any) -> Any:
    return item


class _Together:
    """Several optimizers, or none, as one."""

    def __init__(self, optimizers: Iterable[torch.optim.Optimizer]) -> None:
        self._optimizers = tuple(optimizers)

    @property
    def state(self) -> dict[Any, Any]:
        return {(place, key): value for place, o in enumerate(self._optimizers) for key, value in o.state.items()}

    def zero_grad(self, set_to_none: bool = True) -> None:
        for optimizer in self._optimizers:
            optimizer.zero_grad(set_to_none=set_to_none)


def unwrapped(model: torch.nn.Module) -> torch.nn.Module:
    """Return the user's model inside wrappers such as DistributedDataParallel."""
    while type(model).__name__ in _WRAPPERS:
        inner = getattr(model, "module", None) or getattr(model, "_orig_mod", None)
        if not isinstance(inner, torch.nn.Module):
            break
        model = inner
    return model
