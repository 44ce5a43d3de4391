"""Lightning's loops: epochs, ranks and checkpoints of the samplers of the training loaders.

Lightning calls `set_epoch` of no batch sampler, puts samplers of its own into loaders under DDP, and saves only the
state of loaders that have one.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import wraps
from typing import Any

from nodebudget.sampling.handover import follow_process_group, is_resumed, sampler_of, upcoming_epoch
from nodebudget.sampling.sampler import NodeBudgetSampler

_KEY = "nodebudget"
_WARNING = "You're resuming from a checkpoint that ended before the epoch ended"


def keep_samplers(module: Any) -> None:
    """Make Lightning's fit loop keep the place of each `NodeBudgetSampler`, in its epochs and in its checkpoints."""
    loop = module._FitLoop
    loop.on_save_checkpoint = _saving(loop.on_save_checkpoint)
    loop.on_load_checkpoint = _loading(loop.on_load_checkpoint)
    loop.on_advance_start = _advancing(loop.on_advance_start)
    # Called by setup_data right before the loaders are iterated: workers take batches then.
    loop._load_combined_loader_states = _setting_up(loop._load_combined_loader_states)
    module._TrainingEpochLoop.reset = _resuming(module._TrainingEpochLoop.reset)


def keep_loaders(module: Any) -> None:
    """Make Lightning take loaders with a `NodeBudgetSampler` as they are, with the ranks of its process group."""
    connector = module._DataConnector
    prepare = connector._prepare_dataloader

    @wraps(prepare)
    def prepare_dataloader(self: Any, dataloader: Any, shuffle: bool, mode: Any) -> Any:
        sampler = sampler_of(dataloader)
        if sampler is None:
            return prepare(self, dataloader, shuffle, mode)
        follow_process_group(sampler)
        return prepare(self, dataloader, shuffle, mode) if mode.value == "predict" else dataloader

    connector._prepare_dataloader = prepare_dataloader


def _samplers(loop: Any) -> list[NodeBudgetSampler]:
    loaders = [] if loop._combined_loader is None else loop._combined_loader.flattened
    return [sampler for sampler in map(sampler_of, loaders) if sampler is not None]


def _saving(save: Callable[[Any], Any]) -> Callable[[Any], Any]:
    @wraps(save)
    def on_save_checkpoint(self: Any) -> Any:
        state = save(self)
        if samplers := _samplers(self):
            state[_KEY] = [_saved(self, sampler, place) for place, sampler in enumerate(samplers)]
        return state

    return on_save_checkpoint


def _saved(loop: Any, sampler: NodeBudgetSampler, place: int) -> dict[str, Any]:
    """Return the state of a sampler: in the middle of Lightning's epoch, or at the start of the next."""
    offset = _offsets(loop).get(place, 0)
    epoch, batches = loop.epoch_progress.current, loop.epoch_loop.batch_progress.current
    if epoch.started > epoch.processed and batches.processed < loop.max_batches:
        # Workers have taken more batches than were trained on.
        return {"sampler": sampler.state_dict(consumed=batches.processed), "offset": offset}
    begin = {"epoch": epoch.started + offset, "consumed": 0, "stretches": []}
    return {"sampler": {**sampler.state_dict(), **begin}, "offset": offset}


def _loading(load: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
    @wraps(load)
    def on_load_checkpoint(self: Any, state_dict: dict[str, Any]) -> None:
        load(self, state_dict)
        self._nodebudget_saved = state_dict.get(_KEY)

    return on_load_checkpoint


def _setting_up(load: Callable[[Any], None]) -> Callable[[Any], None]:
    @wraps(load)
    def load_combined_loader_states(self: Any) -> None:
        load(self)
        saved = self.__dict__.pop("_nodebudget_saved", None) or []
        for place, sampler in enumerate(_samplers(self)):
            if place < len(saved):
                sampler.load_state_dict(saved[place]["sampler"])
                _offsets(self)[place] = saved[place]["offset"]
            else:
                _begin(self, sampler, place)

    return load_combined_loader_states


def _begin(loop: Any, sampler: NodeBudgetSampler, place: int) -> None:
    """Place the sampler of a new loader, or of one that was loaded again, at the start of Lightning's epoch."""
    epoch, chosen = loop.epoch_progress.current.processed, upcoming_epoch(sampler)
    # A sampler that the user placed goes on from there, also where Lightning counts from 0.
    offset = _offsets(loop).setdefault(place, 0 if chosen is None else chosen - epoch)
    if not (is_resumed(sampler) and sampler.epoch == epoch + offset):
        sampler.set_epoch(epoch + offset)


def _advancing(advance: Callable[[Any], None]) -> Callable[[Any], None]:
    @wraps(advance)
    def on_advance_start(self: Any) -> None:
        loader = self._combined_loader
        for sampler, epoch in _epochs(self):
            if sampler.epoch != epoch:
                sampler.set_epoch(epoch)
        advance(self)
        if self._combined_loader is not loader:
            # It was loaded again, and iterated by setup_data; the loop iterates once more.
            for sampler, epoch in _epochs(self):
                sampler.set_epoch(epoch)

    return on_advance_start


def _epochs(loop: Any) -> list[tuple[NodeBudgetSampler, int]]:
    """Return the samplers and their epochs in Lightning's epoch."""
    epoch = loop.epoch_progress.current.processed
    return [(sampler, epoch + _offsets(loop).get(place, 0)) for place, sampler in enumerate(_samplers(loop))]


def _resuming(reset: Callable[[Any], None]) -> Callable[[Any], None]:
    @wraps(reset)
    def reset_resumed(self: Any) -> None:
        loop = self.trainer.fit_loop
        loaders = [] if loop._combined_loader is None else loop._combined_loader.flattened
        with warnings.catch_warnings():
            if loaders and len(_samplers(loop)) == len(loaders):
                warnings.filterwarnings("ignore", message=_WARNING)
            reset(self)
        if _samplers(loop) and loop.restarted_on_epoch_start:
            # Lightning would count the batches of the epoch before.
            for progress in (self.batch_progress, self.scheduler_progress, self.automatic_optimization.optim_progress):
                progress.reset_on_run()

    return reset_resumed


def _offsets(loop: Any) -> dict[int, int]:
    """Return the epochs of the samplers less Lightning's, by the place of the loader."""
    offsets: dict[int, int] = loop.__dict__.setdefault("_nodebudget_offsets", {})
    return offsets
