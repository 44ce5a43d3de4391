"""What training steps change, restorers on the host and put back."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import numpy as np
import torch

from nodebudget.errors import InputError

PutBack = Callable[[], Any]


@contextmanager
def unchanged(
    models: Iterable[torch.nn.Module], optimizers: Iterable[Any], others: Sequence[Any], device: torch.device
) -> Iterator[None]:
    """Put everything back at the end: weights, buffers, gradients, optimizer state, random states and others.

    Copies are kept on the host, so that no memory of the device is taken.

    Args:
        models: Their parameters, gradients, buffers and training modes.
        optimizers: Their states and settings.
        others: Modules, optimizers, `torch.Generator`s, and objects with `state_dict` and `load_state_dict`.
        device: Its random state is put back as well.

    Raises:
        InputError: One of `others` has no state that can be put back.
    """
    snapshot = _Snapshot()
    restorers = [
        *map(snapshot.module, models),
        *map(snapshot.optimizer, optimizers),
        *map(snapshot.other, others),
        *_random_states(device),
    ]
    try:
        yield
    finally:
        for put_back in restorers:
            put_back()


def _random_states(device: torch.device) -> list[PutBack]:
    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    restorers: list[PutBack] = [
        lambda: random.setstate(python),
        lambda: np.random.set_state(numpy),
        lambda: torch.set_rng_state(cpu),
    ]
    if device.type == "cuda":
        state = torch.cuda.get_rng_state(device)
        restorers.append(lambda: torch.cuda.set_rng_state(state, device))
    return restorers


class _Snapshot:
    """Copies of values, each with a function that puts it back."""

    def __init__(self) -> None:
        self._tensors: dict[int, PutBack] = {}

    def module(self, model: torch.nn.Module) -> PutBack:
        restorers: list[PutBack] = []
        for module in model.modules():
            for tensors in (module._parameters, module._buffers):
                restorers += [
                    self._entry(tensors, name, tensor) for name, tensor in tensors.items() if tensor is not None
                ]
            restorers.append(lambda module=module, training=module.training: setattr(module, "training", training))  # type: ignore[misc]
        restorers += [self._gradient(parameter) for parameter in model.parameters()]
        return lambda: [put_back() for put_back in restorers]

    def optimizer(self, optimizer: Any) -> PutBack:
        state = self._value(optimizer.state)
        # The parameters are the model's, and stay.
        groups = [self._value({k: v for k, v in group.items() if k != "params"}) for group in optimizer.param_groups]

        def put_back() -> None:
            state()
            for group, settings in zip(optimizer.param_groups, groups, strict=True):
                group.update(settings())

        return put_back

    def other(self, value: Any) -> PutBack:
        if isinstance(value, torch.nn.Module):
            return self.module(value)
        if isinstance(value, torch.optim.Optimizer):
            return self.optimizer(value)
        if isinstance(value, torch.Generator):
            state = value.get_state()
            return lambda: value.set_state(state)
        if not hasattr(value, "state_dict") or not hasattr(value, "load_state_dict"):
            raise InputError(
                f"restore=… has a {type(value).__name__}",
                limit="objects with state_dict() and load_state_dict()",
                hint="leave it out, or give the object that holds the state",
            )
        saved = _Snapshot()._value(value.state_dict(), in_place=False)
        return lambda: value.load_state_dict(saved())

    def _entry(self, tensors: dict[str, Any], name: str, tensor: torch.Tensor) -> PutBack:
        value = self._tensor(tensor)
        return lambda: tensors.__setitem__(name, value())

    def _gradient(self, parameter: torch.nn.Parameter) -> PutBack:
        value = self._value(parameter.grad)
        return lambda: setattr(parameter, "grad", value())

    def _tensor(self, tensor: torch.Tensor, in_place: bool = True) -> PutBack:
        if id(tensor) in self._tensors:
            return self._tensors[id(tensor)]
        copy = tensor.detach().to("cpu", copy=True)

        def put_back() -> torch.Tensor:
            if not in_place:
                return copy.to(tensor.device)
            with torch.no_grad():
                tensor.copy_(copy)
            return tensor

        return self._tensors.setdefault(id(tensor), put_back)

    def _value(self, value: Any, in_place: bool = True) -> PutBack:
        """Return a function that gives the value as it is now: the same containers and tensors if `in_place`."""
        if isinstance(value, torch.Tensor):
            return self._tensor(value, in_place)
        if isinstance(value, dict):
            entries = {key: self._value(entry, in_place) for key, entry in value.items()}

            def fill() -> Any:
                target: dict[Any, Any] = value if in_place else type(value)()
                target.clear()
                target.update({key: entry() for key, entry in entries.items()})
                return target

            return fill
        if isinstance(value, list):
            rows = [self._value(entry, in_place) for entry in value]
            return lambda: [row() for row in rows]
        try:
            saved = deepcopy(value)
        except Exception:  # a lock, an open file: nothing that a step changes
            saved = value
        return lambda: saved
