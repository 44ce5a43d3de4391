"""torchdata's `StatefulDataLoader`: its state is loaded into the sampler at once, not at the next iteration.

torchdata loads a state when the loader is iterated: until then the sampler's epoch is not the state's, and `set_epoch`
of the loop would be undone. Where the state was taken after an epoch it iterates twice.
"""

from __future__ import annotations

from functools import wraps
from typing import Any

from nodebudget.sampling.handover import load_loader_state, sampler_of

_SAMPLER, _YIELDED = "_index_sampler_state", "_sampler_iter_yielded"


def load_at_once(module: Any) -> None:
    """Make the loaders of torchdata place a `NodeBudgetSampler` when they are given a state."""
    loader_class = module.StatefulDataLoader
    load, iterate = loader_class.load_state_dict, loader_class.__iter__

    @wraps(load)
    def load_state_dict(self: Any, state_dict: dict[str, Any]) -> None:
        load(self, state_dict)
        sampler = sampler_of(self)
        if sampler is not None and state_dict:
            self.next_iter_state = _placed(self, sampler, state_dict)

    @wraps(iterate)
    def iterate_placed(self: Any) -> Any:
        sampler = sampler_of(self)
        if sampler is not None and self._initial_iter_for_state_dict and self.num_workers and sampler._placed:
            # state_dict() made an iterator, whose workers took batches of the epoch before set_epoch.
            self._iterator, self._initial_iter_for_state_dict = None, False
        return iterate(self)

    loader_class.load_state_dict, loader_class.__iter__ = load_state_dict, iterate_placed


def _placed(loader: Any, sampler: Any, state: dict[str, Any]) -> dict[str, Any] | None:
    """Place the sampler; return what is left for torchdata to restore."""
    snapshot = state.get("_snapshot")
    main = state if snapshot is None else snapshot["_main_snapshot"]
    since = state.get("_steps_since_snapshot", 0)
    finished, yielded = state.get("_iterator_finished", False), main[_YIELDED] + since
    load_loader_state(sampler, main[_SAMPLER], begun=yielded > 0, since=since, finished=finished)
    if finished:
        if state.get("dataset_state") is not None and hasattr(loader.dataset, "load_state_dict"):
            loader.dataset.load_state_dict(state["dataset_state"])
        return None
    # torchdata hands this to the sampler once more.
    position = sampler._expected = {**sampler.state_dict(), "consumed": sampler._resume}
    main = {**main, _SAMPLER: position, _YIELDED: yielded}
    if snapshot is None:
        return main
    snapshot = {**snapshot, "_main_snapshot": main, "_snapshot_step": snapshot["_snapshot_step"] + since}
    return {**state, "_snapshot": snapshot, "_steps_since_snapshot": 0}
