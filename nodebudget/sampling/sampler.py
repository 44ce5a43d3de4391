"""A batch sampler over plans, for `DataLoader(batch_sampler=…)`."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from torch.utils.data import Sampler

from nodebudget.calibration.compatibility import measure_as_calibrated
from nodebudget.datasets.size_table import SizeTable
from nodebudget.errors import InputError, RecordError
from nodebudget.sampling.budget import Budget
from nodebudget.sampling.dataset_length import DatasetLength
from nodebudget.sampling.epoch import EpochProgress, PlanProvider, restore_progress
from nodebudget.sampling.oversized import describe_policy
from nodebudget.sampling.plan import Plan
from nodebudget.sampling.plan_config import PlanConfig
from nodebudget.sampling.rank_check import check_ranks
from nodebudget.sampling.state import STATE_VERSION, check_consumed, check_state, fingerprints
from nodebudget.sampling.static_plan import graphs_per_batch
from nodebudget.utils.checks import check_count
from nodebudget.utils.distributed import are_the_ranks, world_and_rank

if TYPE_CHECKING:
    from nodebudget.calibration.memory_model import Calibration
    from nodebudget.calibration.time_model import TimeModel

_log = logging.getLogger("nodebudget")


class NodeBudgetSampler(Sampler[list[int]]):
    """Batches within a budget, each with nearly the same load and the same number of graphs.

    Every epoch holds every graph once, in as many batches as every other epoch. Iterating twice gives the
    same batches; call `set_epoch` before each epoch for new ones, on every rank alike. Each rank computes the same plan
    and takes its share, so that all have equally many batches, and in each step nearly the same load.

    Under torch.distributed the ranks compare hashes of their plans when the first batch of a plan is taken, and all of
    them raise an `InputError` where these differ. This is a collective: iterate on every rank, as training loops do. To
    look at batches on one rank only, use `plan`. A sampler with other ranks than the process group raises as well,
    unless it was given the `num_replicas` of groups of processes that train on the same batches (1: all of them).

    Pass it as `batch_sampler=` to torch's `DataLoader`, to PyTorch Geometric's, or to DGL's `GraphDataLoader`, where
    `use_ddp` stays False: this sampler assigns batches to ranks itself.

    To resume, save `state_dict` after a batch and call `load_state_dict` in the new process: the next iteration
    continues with the batch after it. A loader's workers take batches ahead of the training loop: use torchdata's
    `StatefulDataLoader`, which counts them, or pass the number of batches trained on:
    `sampler.state_dict(consumed=step)`. With another number of ranks, the rest of the epoch is re-planned; after an
    out-of-memory error `set_budget` re-plans it under another budget.

    Attributes:
        epoch: As set by `set_epoch`.
        rank: This process's rank: which batch of each step this sampler yields.
        num_replicas: Number of ranks, and of batches per step.
    """

    def __init__(
        self,
        sizes_or_dataset: Any,
        max_nodes: int | None = None,
        max_edges: int | None = None,
        max_line_edges: int | None = None,
        max_graphs: int | None = None,
        calibration: Calibration | None = None,
        memory: int | str | None = None,
        shuffle: bool = True,
        seed: int = 0,
        oversized: str = "raise",
        num_replicas: int | None = None,
        rank: int | None = None,
        pack: str | None = None,
        max_columns: Mapping[str, int | float] | None = None,
        balance: str | None = None,
        time_model: TimeModel | None = None,
        share: str | os.PathLike[str] | None = None,
        graphs_per_step: int | None = None,
    ) -> None:
        """Plan for a dataset.

        Args:
            sizes_or_dataset: A `SizeTable`, or a dataset that `nodebudget.measure` counts; crystals as the
                graphs that the calibration was made on, if there is one.
            max_nodes: Maximum number of nodes per batch; likewise the other maxima. At least one budget must be given.
            max_edges: Maximum number of edges.
            max_line_edges: Maximum number of line-graph edges.
            max_graphs: Maximum number of graphs.
            calibration: Predicts the bytes of a training step; goes with `memory`.
            memory: Maximum bytes of a step at its peak, all included, or a text such as "40GiB".
            shuffle: Reshuffle every epoch; otherwise every epoch is the same, in the order of `pack`.
            seed: Random seed; the same on every rank.
            oversized: What happens to a graph over the budget: "raise", "skip" (left out, counted in `plan` and
                logged once), or "alone" (a batch of its own, logged once).
            num_replicas: Number of ranks; by default torch.distributed's where it is initialised, else 1.
            rank: This process's rank; by default torch.distributed's, else 0.
            pack: "balanced" (default), "dense", "sequential" (default without shuffling) or "static": see `make_plan`.
            max_columns: Maximum per batch of further columns of the sizes, by name.
            balance: Column that is balanced between batches and ranks; by default predicted bytes, or the column that
                needs the most batches. "time": what `time_model` predicts, so that ranks wait less for each other.
            time_model: Predicts the seconds of a step, as `nodebudget tune` fits it.
            share: A folder in which one rank of a machine computes plans that the others map; by default each does.
            graphs_per_step: With `pack="static"`, the number of graphs of a step, of all ranks together.

        Raises:
            OversizedError: A graph is over the budget, and `oversized` is "raise".
            DoesNotFitError: No graph is left, or there are fewer graphs than ranks.
            InputError: An empty dataset, no budget, an invalid argument, or a folder where nothing can be shared.
        """
        self.num_replicas, self.rank = world_and_rank(num_replicas, rank)
        if graphs_per_step is not None:
            max_graphs = graphs_per_batch(graphs_per_step, self.num_replicas, pack, max_graphs)
        budget = Budget.make(max_nodes, max_edges, max_line_edges, max_graphs, calibration, memory, max_columns)
        self._ranks_given = num_replicas is not None and rank is not None
        sizes = measure_as_calibrated(sizes_or_dataset, calibration)
        self._length = DatasetLength(sizes_or_dataset)
        if (balance == "time") != (time_model is not None):
            raise InputError("balance='time' and a time_model go together", hint="make one with 'nodebudget tune'")
        if time_model is not None:
            sizes, balance = sizes.with_column("seconds", time_model.graph_seconds(sizes)), "seconds"
        seed = check_count("seed", seed, 0)
        config = PlanConfig(sizes, budget, pack, shuffle, seed, oversized, self.num_replicas, balance)
        self._provider = PlanProvider(config, None if share is None else os.fspath(share))
        self._original_budget, self.epoch = budget, 0
        self._progress = EpochProgress(self._provider, 0)
        self._consumed = self._resume = self._changes = 0
        self._placed = self._completed = False
        self._expected: dict[str, Any] | None = None
        len(self)
        self._balanced = self._progress.balanced
        self._report_oversized()

    def _report_oversized(self) -> None:
        if len(graphs := self._progress.oversized) and self.rank == 0:
            _log.warning("oversized graphs: %s", describe_policy(graphs, self._provider.config))

    def __len__(self) -> int:
        """Batches of this rank in the epoch, the same in every epoch under the same budget."""
        return len(self._progress)

    @property
    def sizes(self) -> SizeTable:
        """Sizes of the dataset."""
        return self._provider.config.sizes

    @property
    def budget(self) -> Budget:
        """What a batch may hold."""
        return self._provider.config.budget

    @property
    def plan(self) -> Plan:
        """The batches of the current epoch, of all ranks; after a change in its middle, of what was left then."""
        return self._progress.plan

    @property
    def shapes(self) -> tuple[dict[str, int], ...]:
        """With `pack="static"`: the shapes (column → size of a padded batch) of all epochs; see `plan.shapes`."""
        return tuple(map(dict, self._provider.config.static.shapes))

    @property
    def shape(self) -> dict[str, int]:
        """With `pack="static"`: the shape that holds every batch, the last of `shapes`."""
        return self.shapes[-1]

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

        The budgets are as in the constructor; what is not given stays as it is. In the middle of an epoch, start a new
        loop over the loader then: it continues with the graphs that are left, each of which comes once. `len` counts
        the batches consumed and those that are left.

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
        if consumed is None and 0 < self._consumed < len(self) and not self._resume:
            raise InputError(
                f"a budget is set in the middle of an epoch, {self._consumed} of {len(self)} batches given out",
                limit="the sampler does not know how many of them were trained on",
                hint="count them in the training loop and pass consumed=…",
            )
        done = self._count(consumed)
        progress, done = self._progress.changed(self._provider.changed(budget=budget), done)
        pending = self._resume > 0 or 0 < done < len(self)
        self._progress, self._provider, self._changes = progress, progress.provider, self._changes + 1
        self._consumed, self._resume = done, done if pending else 0
        self._report_oversized()

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
        # Where crystals were left out of the sizes, the dataset still has them: its indices are others.
        indices = self.sizes.settings.get("indices")
        for place, batch in enumerate(progress.plan.rank_batches(self.rank, start - progress.began), start):
            if self._changes != changes:
                why = "its further batches would hold graphs that were re-planned"
                hint = "start a new loop over the loader after set_budget"
                raise InputError("the budget was changed in the middle of this loop", limit=why, hint=hint)
            self._consumed = place + 1
            yield batch if indices is None else [indices[row] for row in batch]

    @cached_property
    def _fingerprints(self) -> dict[str, str]:
        # Loaders ask for the state at every step.
        return fingerprints(self._provider.config, self._original_budget, self._balanced)

    def state_dict(self, consumed: int | None = None) -> dict[str, Any]:
        """Return where the iteration is: a few plain values, the same on every rank.

        Args:
            consumed: Batches of this epoch that were trained on; by default those that were given out, which is
                more where a loader's workers take them ahead (see the class).

        Raises:
            InputError: `consumed` is not a whole number from 0 to the number of batches.
        """
        budget = self.budget
        return {
            "version": STATE_VERSION,
            "epoch": self.epoch,
            "consumed": self._count(consumed),
            "seed": self._provider.config.seed,
            "num_replicas": self.num_replicas,
            "budget": None if budget is self._original_budget else budget.to_state(),
            "stretches": self._progress.history(),
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
        unchanged = self.budget is self._original_budget
        original = self._provider if unchanged else self._provider.changed(budget=self._original_budget)
        progress = restore_progress(original, state)
        done = check_count("consumed", state["consumed"], 0)
        if not progress.began <= done <= len(progress):
            hint = "load the state into the sampler that it was taken from"
            raise RecordError(
                f"the state has {done} batches consumed", limit=f"an epoch has {len(progress)}", hint=hint
            )
        if state["num_replicas"] != self.num_replicas:
            progress, done = progress.changed(progress.provider.changed(num_replicas=self.num_replicas), done)
        self._progress, self._provider, self.epoch = progress, progress.provider, progress.epoch
        self._consumed = self._resume = done
        self._placed, self._completed = True, False

    def __repr__(self) -> str:
        what, of = f"{len(self.sizes)} graphs, {len(self)} batches, {self.budget.describe()}", self.num_replicas
        return f"NodeBudgetSampler({what}, rank {self.rank} of {of})"
