"""A sampler for training loops that do not call `set_epoch`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from nodebudget.sampling.sampler import NodeBudgetSampler


class AdvancingSampler(NodeBudgetSampler):
    """A `NodeBudgetSampler` that goes to the next epoch whenever it is iterated again.

    The first iteration is epoch 0, or the epoch given to `set_epoch`; each further one is the next epoch. After
    `load_state_dict` the first iteration is the rest of the interrupted epoch, or the next epoch where that one was
    complete. An iteration counts from its first batch on, even if it is not finished, and so does `list(sampler)`: to
    look at the batches use `sampler.plan`. Between two epochs call `state_dict()` without `consumed`: until the first
    batch of the next epoch, the epoch is the one that was completed.

    With several ranks each must iterate equally often, as training loops do.
    """

    _fresh = True

    def __iter__(self) -> Iterator[list[int]]:
        # A generator starts with the first batch: torchdata's loader makes iterators that it never uses.
        if not self._fresh:
            super().set_epoch(self.epoch + 1)
        self._fresh = False
        yield from super().__iter__()

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration.

        Raises:
            InputError: `epoch` is not an integer of 0 or more.
        """
        super().set_epoch(epoch)
        self._fresh = True

    def set_budget(self, *arguments: Any, **named: Any) -> None:
        """Change the budget as `NodeBudgetSampler.set_budget` does; the next iteration is the rest of the epoch."""
        super().set_budget(*arguments, **named)
        self._fresh = self._fresh or 0 < self.state_dict()["consumed"] < len(self)

    def _load(self, state_dict: Mapping[str, Any]) -> None:
        super()._load(state_dict)
        self._fresh = self.state_dict()["consumed"] < len(self)
