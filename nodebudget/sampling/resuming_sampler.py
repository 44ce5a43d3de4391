"""A batch sampler that can be resumed and re-planned in the middle of an epoch."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from torch.utils.data import Sampler

from nodebudget.errors import InputError, RecordError
from nodebudget.sampling.budget import Budget
from nodebudget.sampling.dataset_length import DatasetLength
from nodebudget.sampling.epoch import EpochProgress, PlanProvider, restore_progress
from nodebudget.sampling.oversized import describe_changed, describe_policy
from nodebudget.sampling.plan import Plan
from nodebudget.sampling.plan_config import RankBudget
from nodebudget.sampling.rank_budgets import gather_budgets
from nodebudget.sampling.rank_check import check_ranks
from nodebudget.sampling.state import STATE_VERSION, check_consumed, check_state, fingerprints, hash_of
from nodebudget.utils.checks import check_count
from nodebudget.utils.distributed import are_the_ranks

if TYPE_CHECKING:
    from nodebudget.calibration.memory_model import Calibration
    from nodebudget.datasets.size_table import SizeTable

_log = logging.getLogger("nodebudget")


class ResumingSampler(Sampler[list[int]]):
    """What `NodeBudgetSampler` does once it is made: epochs, their batches, changes of the budget, states.

    Attributes:
        epoch: As set by `set_epoch`.
        rank: This process's rank: which batch of each step this sampler yields.
        num_replicas: Number of ranks, and of batches per step.
    """

    epoch: int
    rank: int
    num_replicas: int
    _seconds: float | None = None
    _announced: tuple[int, int] | None = None

    def _start(self, provider: PlanProvider, dataset: Any, *, ranks_given: bool) -> None:
        """Begin with epoch 0.

        Args:
            provider: The plans.
            dataset: What the sizes were measured of.
            ranks_given: See `nodebudget.utils.distributed.are_the_ranks`.
        """
        self._made = self._provider = provider
        self._original, self.epoch = provider.config.budget, 0
        self._ranks_given, self._length = ranks_given, DatasetLength(dataset)
        self._progress = EpochProgress(self._provider, 0)
        self._consumed = self._resume = self._changes = 0
        self._placed = self._completed = False
        self._expected: dict[str, Any] | None = None
        len(self)
        self._balanced = self._progress.balanced
        self._report_oversized()

    @property
    def sizes(self) -> SizeTable:
        """Sizes of the dataset."""
        return self._provider.config.sizes

    @property
    def budget(self) -> Budget:
        """What a batch of this rank may hold."""
        config = self._provider.config
        budgets = () if config.steps is None else config.steps.budgets
        return budgets[self.rank].budget if budgets else config.budget

    @property
    def calibration(self) -> Calibration | None:
        """The memory model of the budget, or None."""
        return self.budget.calibration

    @property
    def plan(self) -> Plan:
        """The batches of the current epoch, of all ranks; after a change in its middle, of what was left then."""
        return self._progress.plan

    def _report_oversized(self) -> None:
        graphs = self._progress.oversized
        if len(graphs) and self.rank == 0:
            _log.warning("oversized graphs: %s", describe_policy(graphs, self._provider.config))

    def __len__(self) -> int:
        """Batches of this rank in the epoch, the same in every epoch under the same budget."""
        return len(self._progress)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose batches come next, on every rank alike.

        Raises:
            InputError: `epoch` is not a whole number, 0 or more.
        """
        epoch = check_count("epoch", epoch, 0)
        if epoch != self.epoch:
            # A resumed loop sets the epoch that it was in, and continues in its middle.
            self._resume = self._consumed = 0
            self._progress = EpochProgress(self._provider, epoch)
        elif self._completed:
            self._resume = len(self)
        self.epoch, self._placed, self._completed = epoch, True, False

    def set_budget(
        self,
        max_nodes: int | None = None,
        max_edges: int | None = None,
        max_line_edges: int | None = None,
        max_graphs: int | None = None,
        calibration: Calibration | None = None,
        memory: int | str | None = None,
        max_columns: Mapping[str, int | float] | None = None,
        consumed: int | None = None,
    ) -> None:
        """Change the budget, on every rank alike: the rest of the epoch and all further epochs are re-planned.

        The budgets are as in the constructor; what is not given stays as it is. In the middle of an epoch, after an
        out-of-memory error for example, start a new loop over the loader then: it continues with the graphs that are
        left, each of which comes once. `len` is then the number of batches of the whole epoch: those consumed and those
        that are left.

        `consumed` is how many batches of this epoch were trained on. Give it once batches were given out, since only
        the training loop knows it; not before the first one after `load_state_dict`.

        Raises:
            InputError: No budget, an invalid argument, or `consumed` is missing or not a number of batches of this
                epoch since the last change.
            OversizedError: A graph that is left is over the budget, and `oversized` is "raise"; nothing has changed.
            DoesNotFitError: What is left can't be assigned to the ranks; nothing has changed.
        """
        sizes = {"max_nodes": max_nodes, "max_edges": max_edges, "max_line_edges": max_line_edges}
        budget = self.budget.changed(
            **sizes, max_graphs=max_graphs, calibration=calibration, memory=memory, max_columns=max_columns
        )
        if consumed is None and self._in_the_middle(self._consumed) and not self._resume:
            raise InputError(
                f"a budget is set in the middle of an epoch, {self._consumed} of {len(self)} batches given out",
                limit="the sampler does not know how many of them were trained on",
                hint="count them in the training loop and pass consumed=…",
            )
        done = self._count(consumed)
        budgets: tuple[RankBudget, ...] = ()
        if self._provider.config.steps is not None:
            ranks = self.num_replicas, self.rank, self._ranks_given
            budget, budgets = gather_budgets(budget, ranks, self._seconds)
        progress, done = self._progress.changed(self._provider.changed(budget=budget, of_ranks=budgets), done)
        pending = self._resume > 0 or self._in_the_middle(done)
        self._progress, self._provider, self._changes = progress, progress.provider, self._changes + 1
        self._consumed, self._resume = done, done if pending else 0
        self._report_oversized()

    def _in_the_middle(self, consumed: int) -> bool:
        return 0 < consumed < len(self)

    def __iter__(self) -> Iterator[list[int]]:
        self._length.check()
        self._consumed = self._resume
        return self._batches()

    def _batches(self) -> Iterator[list[int]]:
        # Only now, at the first batch: loaders with workers make iterators that they never use.
        start, changes = self._resume, self._changes
        if not start and self._progress.began:
            # What was re-planned came to its end: the whole epoch once more.
            self._progress = EpochProgress(self._provider, self.epoch)
        self._consumed, self._resume, self._placed, self._completed = start, 0, False, False
        progress = self._progress
        if are_the_ranks(self.num_replicas, self.rank, self._ranks_given) and not progress.checked:
            check_ranks(progress, start, self._fingerprints)
            progress.checked = True
        if self.rank == 0 and self._announced != (self.epoch, changes):
            severity = logging.INFO if self._announced else logging.WARNING
            self._announced = self.epoch, changes
            what, graphs = progress.changed_graphs()
            if len(graphs):
                _log.log(severity, "epoch %d: %s", self.epoch, describe_changed(what, graphs, self._provider.config))
        # Where crystals were left out of the sizes, the dataset still has them: its indices are others.
        indices = self.sizes.settings.get("indices")
        for place, batch in enumerate(progress.plan.rank_batches(self.rank, start - progress.began), start):
            if self._changes != changes:
                raise InputError(
                    "the budget was changed in the middle of this loop",
                    limit="its further batches would hold graphs that were re-planned",
                    hint="start a new loop over the loader after set_budget",
                )
            self._consumed = place + 1
            yield batch if indices is None else [indices[row] for row in batch]

    @cached_property
    def _fingerprints(self) -> dict[str, str]:
        # Loaders ask for the state at every step.
        return fingerprints(self._provider.config, self._original, self._balanced)

    def state_dict(self, consumed: int | None = None) -> dict[str, Any]:
        """Return where the iteration is: a few plain values, the same on every rank.

        Args:
            consumed: Batches of this epoch that were trained on; by default those that were given out, which is
                more where a loader's workers take them ahead (see the class).

        Raises:
            InputError: `consumed` is not a whole number from 0 to the number of batches.
        """
        budget, steps = self._provider.config.budget, self._provider.config.steps
        of_ranks = {} if steps is None else {"ranks": steps.to_state(), "original": hash_of(self._original.to_dict())}
        unchanged = steps is None and budget is self._original
        return {
            "version": STATE_VERSION,
            "epoch": self.epoch,
            "consumed": self._count(consumed),
            "seed": self._provider.config.seed,
            "num_replicas": self.num_replicas,
            "budget": None if unchanged else budget.to_state(),
            "stretches": self._progress.history(),
            **of_ranks,
            **self._fingerprints,
        }

    def _count(self, consumed: int | None) -> int:
        """Return how many batches of the epoch were consumed, as given or as given out."""
        return check_consumed(self._consumed if consumed is None else consumed, self._progress.began, len(self))

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue where `state_dict` was taken: the next iteration starts after the batches consumed.

        With another number of ranks than the state's, the rest of its epoch is re-planned for them. A budget that
        was set with `set_budget` comes with the state.

        Raises:
            RecordError: The state is of another version, dataset, budget or seed.
            DoesNotFitError: What is left of the epoch can't be assigned to so many ranks. Nothing has changed then.
        """
        if state_dict is not self._expected:
            self._load(state_dict)
        elif self._expected is not None:
            # Loaded before; the loader takes it for its own, so it follows a set_epoch that came since.
            self._expected.update(self.state_dict(), consumed=self._resume)

    def _load(self, state_dict: Mapping[str, Any]) -> None:
        state = check_state(state_dict, self.state_dict())
        config = self._provider.config
        unchanged = config.budget is self._original
        original = self._provider if unchanged else self._provider.changed(budget=self._original)
        progress = restore_progress(original, state)
        done = check_count("consumed", state["consumed"], 0)
        if not progress.began <= done <= len(progress):
            raise RecordError(
                f"the state has {done} batches consumed",
                limit=f"an epoch has {len(progress)}",
                hint="load the state into the sampler that it was taken from",
            )
        provider = progress.provider.changed(num_replicas=self.num_replicas)
        if config.steps is not None and state["original"] != self.state_dict()["original"]:
            # Made with another budget than the run before: this one counts.
            provider = self._made
        if provider.config.digest() != progress.provider.config.digest():
            progress, done = progress.changed(provider, done)
        self._progress, self._provider, self.epoch = progress, progress.provider, progress.epoch
        self._consumed = self._resume = done
        self._placed, self._completed = True, False
