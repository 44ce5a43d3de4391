"""alignn's `train_dgl`, paused wherever it asks for a batch, so that its steps can be taken one by one."""

from __future__ import annotations

import contextlib
import io
import itertools
import random
import sys
import tempfile
import warnings
from collections.abc import Iterator
from types import FrameType
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from nodebudget.errors import WorkloadError
from nodebudget.utils.optional_imports import require

#: Epochs and batches per epoch that the loop is told: more than are ever taken.
_ENDLESS = 10**6


class AlignnLoop:
    """Runs `train_dgl` in a coroutine of its own.

    `train_dgl` asks its loaders for batches. These loaders pause it there, and go on with the batch that `step` or
    `validate` was given. So every step is alignn's own, in the order of its loop, whatever a new version does in it.

    Args:
        config: alignn's `TrainingConfig`.
        model: The model to train, or None to let alignn make it.
        device: Where to train.

    Attributes:
        model: The model that is trained.
        optimizer: Its optimizer.
    """

    model: torch.nn.Module
    optimizer: torch.optim.Optimizer

    def __init__(self, config: Any, model: torch.nn.Module | None, device: torch.device) -> None:
        self._greenlet = require("greenlet")
        self._train = require("alignn.train")
        self._device, self._started = device, False
        self._folder = tempfile.TemporaryDirectory(prefix="nodebudget-")
        self._config = config.model_copy(
            deep=True, update={"output_dir": self._folder.name, "epochs": _ENDLESS, "resume_checkpoint": False}
        )
        self._paused: Any = None
        self._dtype = torch.get_default_dtype()
        with _random_state(device):
            self._start(model)

    def step(self, batch: Any) -> None:
        """Take a training step. What it raises passes through; the next step then starts the loop again."""
        self._take("train", batch)

    def validate(self, batch: Any) -> None:
        """Take a validation step, likewise."""
        self._take("val", batch)

    def _take(self, phase: str, batch: Any) -> None:
        if self._paused is None:
            self._start(self.model)
        while self._paused != phase:
            self._paused = self._resume(None)
        self._paused = self._resume(batch)

    def _start(self, model: torch.nn.Module | None) -> None:
        loaders = [_Feed(self, "train"), _Feed(self, "val"), None, lambda *_, **__: None]
        self._loop = self._greenlet.greenlet(
            lambda: self._train.train_dgl(self._config, model=model, train_val_test_loaders=loaders)
        )
        with (
            patch.object(self._train, "group_decay", self._seen_model(self._train.group_decay)),
            patch.object(self._train, "setup_optimizer", self._seen_optimizer(self._train.setup_optimizer)),
        ):
            self._paused = self._resume()

    def _resume(self, *batch: Any) -> Any:
        """Let the loop run until it asks for the next batch; return the phase that it asks for."""
        usual = torch.get_default_dtype()
        self._paused = None  # an error ends the loop
        try:
            # Other devices than the first GPU, and the CPU of a machine that has one: alignn's loop has no such option.
            with contextlib.ExitStack() as stack:
                stack.enter_context(quiet())
                if self._device.type == "cuda":
                    stack.enter_context(torch.cuda.device(self._device))
                else:
                    stack.enter_context(patch("torch.cuda.is_available", lambda: False))
                if self._started:
                    torch.set_default_dtype(self._dtype)
                phase = self._loop.switch(*batch)
                self._dtype, self._started = torch.get_default_dtype(), True
                if self._loop.dead:
                    raise WorkloadError("alignn's loop ended", hint="run train_alignn.py with this config to see where")
                return phase
        finally:
            torch.set_default_dtype(usual)

    def close(self) -> None:
        """End the loop."""
        if self._paused is not None:
            self._paused = None
            self._loop.throw()
        self._folder.cleanup()

    def ask(self, phase: str) -> Any:
        """Pause the loop until there is a batch for this phase; None ends the phase."""
        return self._loop.parent.switch(phase)

    def _seen_model(self, group_decay: Any) -> Any:
        def capture(model: torch.nn.Module) -> Any:
            self.model = model
            return group_decay(model)

        return capture

    def _seen_optimizer(self, setup_optimizer: Any) -> Any:
        def capture(params: Any, config: Any) -> torch.optim.Optimizer:
            # After an error the loop starts again on the same weights: the optimizer's state belongs to them.
            if not hasattr(self, "optimizer"):
                self.optimizer = setup_optimizer(params, config)
            return self.optimizer

        return capture


class _Feed:
    """A loader for `train_dgl` whose batches come from outside."""

    def __init__(self, loop: AlignnLoop, phase: str) -> None:
        self._loop, self._phase = loop, phase
        self.dataset = self
        self.ids = itertools.repeat("")

    def __len__(self) -> int:
        return _ENDLESS

    def __iter__(self) -> Iterator[Any]:
        while True:
            release_last_step(sys._getframe().f_back)
            batch = self._loop.ask(self._phase)
            if batch is None:
                return
            yield batch


def release_last_step(frame: FrameType | None) -> None:
    """Release the graph of the last step, which alignn's loop holds until the next forward pass is over.

    A validation step is not followed by a backward pass: the activations of its batch would stand beside those of the
    next one, or of the first training step.

    Args:
        frame: Where the batch is asked for; only `alignn.train` is touched.
    """
    if frame is None or frame.f_globals.get("__name__") != "alignn.train":
        return
    values = frame.f_locals
    for value in list(values.values()):
        if isinstance(value, dict) and any(_has_graph(entry) for entry in value.values()):
            value.clear()
        elif _has_graph(value):
            with contextlib.suppress(RuntimeError):  # a view can't be detached in place
                value.detach_()
    if isinstance(values, dict):  # before Python 3.13 a copy, which would keep the values alive
        values.clear()


def _has_graph(value: object) -> bool:
    return isinstance(value, torch.Tensor) and value.grad_fn is not None


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep back what alignn prints and warns of."""
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def _random_state(device: torch.device) -> Iterator[None]:
    """Leave the state of all random generators, and torch's settings that alignn changes, as they were."""
    python, numpy_state = random.getstate(), np.random.get_state()
    deterministic, benchmark = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy_state)
            torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = deterministic, benchmark
