"""The monitor in the training loop of Hugging Face's Trainer."""

from __future__ import annotations

from collections.abc import Sized
from typing import Any

from nodebudget.monitor.monitor import MemoryMonitor
from nodebudget.utils.optional_imports import require


def trainer_callback(monitor: MemoryMonitor) -> Any:
    """Return a callback for `transformers.Trainer` that monitors each forward and backward pass.

    It is given to the Trainer::

        Trainer(model, args, ..., callbacks=[trainer_callback(MemoryMonitor("run.jsonl"))])

    The Trainer shows its callbacks no batches: they are counted where they go into the model. With accumulation
    of gradients each of the passes is a step, the last one with the optimizer's in it; it begins when its batch goes
    into the model.

    Args:
        monitor: Closed with the end of training.

    Raises:
        MissingError: transformers is not there.
    """
    module = require("transformers")

    class MemoryCallback(module.TrainerCallback):  # type: ignore[misc, name-defined]
        """Monitors each pass."""

        def __init__(self) -> None:
            self._step: Any = None
            self._hook: Any = None

        def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            """Look at what goes into the model."""
            self._hook = given["model"].register_forward_pre_hook(self._begin, with_kwargs=True)

        def on_epoch_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            """Log the epoch."""
            loader = given.get("train_dataloader")
            monitor.begin_epoch(len(loader) if isinstance(loader, Sized) else None)

        def _begin(self, model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            # Evaluation runs the model too; and checkpointing may run parts of it again.
            if model.training and self._step is None:
                self._step = monitor.step(kwargs or args).__enter__()

        def _end(self) -> None:
            if self._step is not None:
                self._step.finish("done")
                self._step = None

        def on_substep_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            """End a pass whose gradients are accumulated."""
            self._end()

        def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            """End a pass with the optimizer's step."""
            self._end()

        def on_train_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            """End the log."""
            self._hook.remove()
            monitor.close()

    return MemoryCallback()
