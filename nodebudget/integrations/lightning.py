"""The monitor in Lightning's training loop."""

from __future__ import annotations

import math
import sys
from typing import Any

from nodebudget.monitor.monitor import MemoryMonitor
from nodebudget.utils.optional_imports import require


def lightning_module() -> Any:
    """Return `lightning.pytorch` or `pytorch_lightning`, whichever was imported, or raise a MissingError."""
    older = "pytorch_lightning" in sys.modules and "lightning.pytorch" not in sys.modules
    return require("pytorch_lightning" if older else "lightning.pytorch")


def lightning_callback(monitor: MemoryMonitor) -> Any:
    """Return a Lightning callback that monitors each training batch.

    Give it to the Trainer::

        trainer = Trainer(callbacks=[lightning_callback(MemoryMonitor("run.jsonl"))])

    A step lasts from `on_train_batch_start` to `on_train_batch_end`: forward, backward and optimizer. Batches are
    counted as the loader returns them. It works with `lightning` and `pytorch_lightning`, whichever was imported.

    Args:
        monitor: Closed at the end of the training.

    Raises:
        MissingError: Lightning is not installed.
    """

    class MemoryCallback(lightning_module().Callback):  # type: ignore[misc]
        """Monitors each training batch."""

        def __init__(self) -> None:
            self._step: Any = None

        def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            """Log the epoch."""
            count = trainer.num_training_batches
            monitor.begin_epoch(int(count) if math.isfinite(count) else None)

        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            """Begin a step."""
            self._step = monitor.step(batch).__enter__()

        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            """End it."""
            if self._step is not None:
                self._step.finish("done")

        def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
            """End the step and the log with the exception."""
            if self._step is not None:
                self._step.__exit__(type(exception), exception, None)
            monitor.__exit__(type(exception), exception, None)

        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            """End the log."""
            monitor.close()

    return MemoryCallback()
