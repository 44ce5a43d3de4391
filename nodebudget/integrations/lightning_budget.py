"""A calibrated budget for Lightning's training loop: one callback."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any
from unittest.mock import patch

from nodebudget.analysis.step_memory import memory_at_hand
from nodebudget.errors import InputError
from nodebudget.integrations.auto_loader import AutoOptions, auto_loader
from nodebudget.integrations.lightning import lightning_callback, lightning_module
from nodebudget.monitor.monitor import MemoryMonitor
from nodebudget.sampling.handover import sampler_of


class NodeBudget:
    """A Lightning callback: the training loader gets batches that fill the memory.

    ::

        trainer = Trainer(callbacks=[NodeBudget(graphs_per_step=64)])

    Before the first epoch it calibrates with the module's own `training_step` and optimizers, and puts back what that
    changes. Then it replaces the training loader by that of `nodebudget.auto_loader`, and sets
    `accumulate_grad_batches` where `graphs_per_step` needs several batches. Checkpoints hold the place in the epoch.
    A loader whose sampler is of nodebudget already is left as it is.
    """

    def __new__(
        cls,
        memory: int | str = "auto",
        graphs_per_step: int | None = None,
        *,
        restore: Iterable[Any] = (),
        cache: str | None = ".nodebudget",
        options: AutoOptions | None = None,
        monitor: MemoryMonitor | None = None,
    ) -> Any:
        """Return the callback.

        Args:
            memory: Bytes that a run may take, as `nodebudget.auto_loader` takes it; so are the next four.
            graphs_per_step: Effective batch size, over all ranks.
            restore: What else `training_step` changes, beside module, optimizers and schedulers.
            cache: Folder that keeps calibrations.
            options: Rarely needed arguments.
            monitor: Logs each training batch, as `lightning_callback` does.

        Raises:
            MissingError: Lightning is not installed.
        """
        how: dict[str, Any] = {"graphs_per_step": graphs_per_step, "cache": cache, "options": options}
        return _callback(memory, tuple(restore), monitor, how)


def _callback(memory: int | str, restored: tuple[Any, ...], monitor: MemoryMonitor | None, how: dict[str, Any]) -> Any:
    class BudgetCallback(lightning_module().Callback):  # type: ignore[misc]
        """Replaces the training loader."""

        def __init__(self) -> None:
            self.memory = memory

        def state_dict(self) -> dict[str, Any]:
            """Return the memory: a resumed run has the same, where free host memory was taken as well."""
            return {"memory": self.memory}

        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            """Take the memory of the run that is resumed."""
            self.memory = state_dict["memory"]

        def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
            """Add the monitor."""
            nonlocal monitor
            if monitor is not None and stage == "fit":
                trainer.callbacks.append(lightning_callback(monitor))
                monitor = None

        def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
            """Calibrate, once the module is on its device."""
            source = trainer.fit_loop._data_source
            loader = source.dataloader()
            if sampler_of(loader) is not None:
                return
            if not pl_module.automatic_optimization:
                raise InputError(
                    "NodeBudget and a module with manual optimization",
                    limit="it calibrates with training_step, backward and step of the optimizers",
                    hint="make the training loader with nodebudget.auto_loader and a step of your own",
                )
            if trainer.strategy.root_device.type != "cuda":
                self.memory = memory_at_hand(self.memory, trainer.strategy.root_device)
            schedulers = [config.scheduler for config in trainer.lr_scheduler_configs]
            loader = auto_loader(
                loader,
                _step_of(trainer, pl_module),
                model=pl_module,
                optimizer=list(trainer.optimizers),
                memory=self.memory,
                restore=[*schedulers, *restored],
                **how,
            )
            trainer.fit_loop._data_source = type(source)(loader, source.name)
            trainer.accumulate_grad_batches = max(trainer.accumulate_grad_batches, loader.batch_sampler.accumulate)

    return BudgetCallback()


def _step_of(trainer: Any, module: Any) -> Any:
    """Return the module's training step as a function of a batch, without its logging."""
    training_step, optimizers = module.training_step, list(trainer.optimizers)
    precision, strategy = trainer.precision_plugin, trainer.strategy
    takes_index = len(inspect.signature(training_step).parameters) > 1

    def step(batch: Any) -> None:
        module.train()
        batch = module._on_before_batch_transfer(precision.convert_input(batch), dataloader_idx=0)
        batch = strategy.batch_to_device(batch, dataloader_idx=0)
        for optimizer in optimizers:
            optimizer.zero_grad()
        with ExitStack() as stack:
            for name in ("log", "log_dict"):
                stack.enter_context(patch.object(module, name, _ignore))
            stack.enter_context(precision.train_step_context())
            outputs = training_step(batch, 0) if takes_index else training_step(batch)
        loss = outputs["loss"] if isinstance(outputs, dict) else outputs
        if loss is not None:
            loss.backward()
        for optimizer in optimizers:
            optimizer.step()

    return step


def _ignore(*_: Any, **__: Any) -> None:
    """Stand in for logging, for which Lightning's loop must run."""
