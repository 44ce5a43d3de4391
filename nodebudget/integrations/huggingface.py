"""The monitor in the training loop of Hugging Face's Trainer."""

from __future__ import annotations

from typing import Any

from nodebudget.monitor.monitor import MemoryMonitor, length_of
from nodebudget.utils.optional_imports import require


def trainer_callback(monitor: MemoryMonitor) -> Any:
    """Return a callback for `transformers.Trainer` that monitors each forward and backward pass.

    Give it to the Trainer::

        Trainer(model, args, ..., callbacks=[trainer_callback(MemoryMonitor("run.jsonl"))])

    The Trainer does not pass batches to callbacks: they are counted as inputs of the model. With gradient accumulation
    each pass is a step, the last one with the optimizer's; a step begins with the forward pass of its batch.

    Args:
        monitor: Closed at the end of the training.

    Raises:
        MissingError: transformers is not installed.
    """
    module = require("transformers")

    class MemoryCallback(module.TrainerCallback):  # type: ignore[misc, name-defined]
        """Monitors each pass."""

        def __init__(self) -> None:
            self._step: Any = None
            self._hook: Any = None

        def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            """Add a hook that sees the inputs of the model."""
            self._hook = given["model"].register_forward_pre_hook(self._begin, with_kwargs=True)

        def on_epoch_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            """Log the epoch."""
            monitor.begin_epoch(length_of(given.get("train_dataloader")))

        def _begin(self, model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            # Evaluation calls the model too, and checkpointing may call parts of it again.
            if model.training and self._step is None:
                self._step = monitor.step(kwargs or args).__enter__()

        def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            """End a pass, with the optimizer's step or with gradients that are accumulated."""
            if self._step is not None:
                self._step.finish("done")
                self._step = None

        on_substep_end = on_step_end

        def on_train_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            """End the log."""
            self._hook.remove()
            monitor.close()

    return MemoryCallback()
