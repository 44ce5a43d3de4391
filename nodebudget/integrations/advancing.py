"""A sampler for training loops that never say which epoch it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from nodebudget.sampling.sampler import NodeBudgetSampler


class AdvancingSampler(NodeBudgetSampler):
    """A `NodeBudgetSampler` that goes to the next epoch whenever it is iterated again.

    The first iteration is epoch 0, or what `set_epoch` said; each further one is the next epoch. After
    `load_state_dict` the first iteration goes on with the rest of the epoch that was interrupted, or with
    the next epoch where that one was done. An iteration counts from its first batch on, also one that is left in
    the middle, and so does `list(sampler)`: to look at batches without that, use `sampler.plan`. Between two epochs
    call `state_dict()` without `consumed`: until the next epoch's first batch, the epoch is the one that was done.

    Under several ranks each must iterate equally often, as training loops do.
    """

    _fresh = True

    def __iter__(self) -> Iterator[list[int]]:
        # A generator runs from the first batch on: torchdata's loader makes iterators that it never uses.
        if not self._fresh:
            super().set_epoch(self.epoch + 1)
        self._fresh = False
        yield from super().__iter__()

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration.

        Raises:
            InputError: `epoch` is no whole number, 0 or more.
        """
        super().set_epoch(epoch)
        self._fresh = True

    def set_budget(self, *arguments: Any, **named: Any) -> None:
        """Change the budget as `NodeBudgetSampler.set_budget` does; the next iteration goes on with what is left."""
        super().set_budget(*arguments, **named)
        self._fresh = self._fresh or 0 < self.state_dict()["consumed"] < len(self)

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on where `state_dict` stood: in the middle of its epoch, or with the next one if that was done.

        Raises:
            RecordError: The state is of another version, dataset, budget, seed or number of ranks.
        """
        super().load_state_dict(state_dict)
        self._fresh = self.state_dict()["consumed"] < len(self)
