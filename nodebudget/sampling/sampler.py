"""A batch sampler over plans: what `DataLoader(batch_sampler=…)` takes."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from torch.utils.data import Sampler

from nodebudget.calibration.compatibility import graph_settings_of
from nodebudget.datasets.measure import measure
from nodebudget.datasets.size_table import SizeTable
from nodebudget.errors import InputError, RecordError
from nodebudget.sampling.budget import Budget
from nodebudget.sampling.epoch import EpochProgress, PlanConfig, PlanProvider, replay
from nodebudget.sampling.oversized import name_oversized
from nodebudget.sampling.plan import Plan
from nodebudget.sampling.state import STATE_VERSION, checked_state, fingerprints
from nodebudget.utils.checks import check_count
from nodebudget.utils.distributed import are_the_ranks, differing_ranks
from nodebudget.utils.distributed import world_and_rank as world_and_rank
from nodebudget.utils.version import __version__

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
    look at batches on one rank only, use `plan`. Samplers whose `num_replicas` and `rank` are not those of the default
    process group are not compared.

    Goes into `batch_sampler=` of torch's `DataLoader`, of PyTorch Geometric's, and of DGL's `GraphDataLoader`, where
    `use_ddp` stays False: this sampler shares out the ranks' batches itself.

    Resuming: `state_dict` after a batch, `load_state_dict` in the new process, and the next iteration goes on
    with the batch after. A loader with worker processes takes batches ahead of the training loop, so that
    the sampler has given out more than were trained on: either use torchdata's `StatefulDataLoader`, which
    keeps count, or count the batches that you trained on in this epoch and pass them:
    `sampler.state_dict(consumed=step)`. With another number of ranks than before, what is left of the epoch is dealt
    anew to them.

    When memory ran out, `set_budget` deals what is left of the epoch under another budget.

    Attributes:
        epoch: As set by `set_epoch`.
        rank: Which share of each step this sampler yields.
        num_replicas: Into how many shares a step is cut.
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
        pack: str = "balanced",
        max_columns: Mapping[str, int | float] | None = None,
        balance: str | None = None,
        time_model: TimeModel | None = None,
        share: str | os.PathLike[str] | None = None,
    ) -> None:
        """Plan for a dataset.

        Args:
            sizes_or_dataset: A `SizeTable`, or a dataset that `nodebudget.measure` counts; crystals as the
                graphs that the calibration was made on, where there is one.
            max_nodes: Most nodes in a batch; likewise the other caps. At least one budget must be given.
            max_edges: Most edges.
            max_line_edges: Most line-graph edges.
            max_graphs: Most graphs.
            calibration: Predicts the bytes of a training step; goes with `memory`.
            memory: Bytes, or a text such as "40GiB", that a step may take at its peak, all included.
            shuffle: Mix anew every epoch; otherwise every epoch is the same.
            seed: Where randomness comes from; the same on every rank.
            oversized: What happens to a graph over a cap: "raise", "skip" (left out, counted in `plan` and
                logged once), or "alone" (a batch of its own, logged once).
            num_replicas: Number of ranks; by default torch.distributed's where it is initialised, else 1.
            rank: This process's rank; by default torch.distributed's, else 0.
            pack: "balanced" (default), "dense" or "sequential"; see `nodebudget.sampling.planner.make_plan` for what
                each costs and what it does to training.
            max_columns: Caps on further columns of the sizes, by name.
            balance: Column that is balanced between batches and ranks; by default predicted bytes, or the cap that
                asks for the most batches. "time" balances what `time_model` predicts, so that ranks wait less for
                each other; the caps are kept all the same.
            time_model: Seconds of a step, as `nodebudget tune` fits them.
            share: A folder in which the ranks of a machine share plans: one rank works a plan out, the others map it.
                For many millions of graphs; by default each rank works it out.

        Raises:
            OversizedError: A graph is over a cap, and `oversized` is "raise".
            DoesNotFitError: No graph is left, or there are fewer graphs than ranks need.
            InputError: An empty dataset, no budget, an argument that can't be, or a folder where nothing can be shared.
        """
        limits = Budget.make(
            max_nodes, max_edges, max_line_edges, max_graphs, calibration, memory, max_columns=max_columns
        )
        self.num_replicas, self.rank = world_and_rank(num_replicas, rank)
        known = isinstance(sizes_or_dataset, SizeTable)
        # The crystals of a calibration become the graphs that it was made on.
        graphs = None if calibration is None else graph_settings_of(calibration)
        sizes = sizes_or_dataset if known else measure(sizes_or_dataset, graphs=graphs)
        if (balance == "time") != (time_model is not None):
            raise InputError("balance='time' and a time_model go together", hint="make one with 'nodebudget tune'")
        if time_model is not None:
            sizes, balance = sizes.with_column("seconds", time_model.graph_seconds(sizes)), "seconds"
        seed = check_count("seed", seed, 0)
        recipe = PlanConfig(sizes, limits, pack, shuffle, seed, oversized, self.num_replicas, balance)
        self._source = PlanProvider(recipe, None if share is None else os.fspath(share))
        self._made_for, self.epoch = limits, 0
        self._course = EpochProgress(self._source, 0)
        self._consumed = self._resume = self._changes = 0
        len(self)
        self._balanced = self._course.balanced
        self._report_oversized()

    def _report_oversized(self) -> None:
        graphs, policy = self._course.oversized, self._source.recipe.oversized
        if len(graphs) and self.rank == 0:
            named = name_oversized(graphs, self.sizes, self.limits)
            done = "left out" if policy == "skip" else f"in a batch of their own ({named})"
            caps, many = self.limits.describe(), len(graphs)
            _log.warning("oversized graphs: %d of %d, over a cap (%s), %s", many, len(self.sizes), caps, done)

    def __len__(self) -> int:
        """Batches of this rank in the epoch, the same in every epoch under the same budget."""
        return len(self._course)

    @property
    def sizes(self) -> SizeTable:
        """Sizes of the dataset."""
        return self._source.recipe.sizes

    @property
    def limits(self) -> Budget:
        """What a batch may hold."""
        return self._source.recipe.limits

    @property
    def plan(self) -> Plan:
        """The batches of the current epoch, of all ranks; after a change in its middle, of what was left then."""
        return self._course.plan

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose batches come next, on every rank alike.

        Raises:
            InputError: `epoch` is no whole number, 0 or more.
        """
        epoch = check_count("epoch", epoch, 0)
        if epoch != self.epoch:
            # A resumed loop sets the epoch that it was in, and goes on in its middle.
            self._resume = self._consumed = 0
            self._course = EpochProgress(self._source, epoch)
        self.epoch = epoch

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
        """Change the budget, on every rank alike: what is left of the epoch, and all further ones, are dealt anew.

        What is given changes, all else stays as it is. In the middle of an epoch, after an out-of-memory error say,
        start a new loop over the loader then: it goes on with the graphs that are left, each of which comes once.
        `len` is then the number of batches of the whole epoch: those consumed and those that are left.

        Args:
            max_nodes: Most nodes in a batch; all budgets are as in the constructor.
            max_edges: Most edges.
            max_line_edges: Most line-graph edges.
            max_graphs: Most graphs.
            calibration: Predicts the bytes of a training step.
            memory: Bytes, or a text such as "36GiB", that a step may take.
            max_columns: Caps on further columns of the sizes, by name.
            consumed: Batches of this epoch that were trained on. Needed once batches were given out, for only the
                training loop knows it; not before the first one after `load_state_dict`.

        Raises:
            InputError: No budget, an argument that can't be, or `consumed` is missing or no number of batches of this
                epoch since the last change.
            OversizedError: A graph that is left is over a cap, and `oversized` is "raise". Nothing has changed then.
            DoesNotFitError: What is left can't be dealt to the ranks. Nothing has changed then.
        """
        caps = (max_nodes, max_edges, max_line_edges, max_graphs)
        limits = self.limits.changed(*caps, calibration, memory, max_columns)
        if consumed is None and self._in_the_middle(self._consumed) and not self._resume:
            raise InputError(
                f"a budget is set in the middle of an epoch, {self._consumed} of {len(self)} batches given out",
                limit="how many of them were trained on is not known here",
                hint="count them in the training loop and pass consumed=…",
            )
        done = self._count(consumed)
        course, done = self._course.changed(self._source.changed(limits=limits), done)
        pending = self._resume > 0 or self._in_the_middle(done)
        self._course, self._source, self._changes = course, course.source, self._changes + 1
        self._consumed, self._resume = done, done if pending else 0
        self._report_oversized()

    def _in_the_middle(self, consumed: int) -> bool:
        return 0 < consumed < len(self)

    def __iter__(self) -> Iterator[list[int]]:
        start = self._consumed = self._resume
        if not start and self._course.began:
            # What was dealt anew came to its end: the whole epoch once more.
            self._course = EpochProgress(self._source, self.epoch)
        return self._batches(self._course, start, self._changes)

    def _batches(self, course: EpochProgress, start: int, changes: int) -> Iterator[list[int]]:
        # Only now, at the first batch: loaders with workers make iterators that they never use.
        self._resume = 0
        self._check_ranks(course, start)
        # Where crystals were left out of the sizes, the dataset still has them: its indices are others.
        kept = self.sizes.settings.get("indices")
        for place, batch in enumerate(course.plan.rank_batches(self.rank, start - course.began), start):
            if self._changes != changes:
                raise InputError(
                    "the budget was changed in the middle of this loop",
                    limit="its further batches would hold graphs that were dealt anew",
                    hint="start a new loop over the loader after set_budget",
                )
            self._consumed = place + 1
            yield batch if kept is None else [kept[row] for row in batch]

    def _check_ranks(self, course: EpochProgress, start: int) -> None:
        """Raise, on every rank, where their plans differ: crystals would come twice, and ranks would wait for ever."""
        if course.checked or not are_the_ranks(self.num_replicas, self.rank):
            return
        settings = [self._fingerprints["settings"], self.limits.to_dict()]
        values = {
            "the dataset, or its order": self._fingerprints["data"],
            "the budget, pack, shuffle, oversized or balance": json.dumps(settings),
            "the seed": str(self._source.recipe.seed),
            "the epoch (set_epoch)": str(course.epoch),
            "the batches consumed": f"{start} {course.stretches()}",
            "the version of nodebudget": __version__,
            "the batches": course.plan.fingerprint(),
        }
        differing = differing_ranks(values)
        if differing:
            if len(differing) > 1:
                # A consequence of the others.
                differing.pop("the batches", None)
            raise InputError(
                f"the ranks have planned different batches: {_named(differing)}",
                limit="every rank must plan the same",
                hint="make the sampler alike on every rank, from the same dataset in the same order",
            )
        course.checked = True

    @cached_property
    def _fingerprints(self) -> dict[str, str]:
        # Loaders ask for the state at every step.
        return fingerprints(self._source.recipe, self._made_for, self._balanced)

    def state_dict(self, consumed: int | None = None) -> dict[str, Any]:
        """Return where the iteration stands: a few plain values, alike on every rank.

        Args:
            consumed: Batches of this epoch that were trained on; by default those that were given out, which is
                more where a loader's workers take them ahead (see the class).

        Raises:
            InputError: `consumed` is no whole number from 0 to the number of batches.
        """
        limits = self.limits
        return {
            "version": STATE_VERSION,
            "epoch": self.epoch,
            "consumed": self._count(consumed),
            "seed": self._source.recipe.seed,
            "num_replicas": self.num_replicas,
            "budget": None if limits is self._made_for else limits.to_state(),
            "stretches": self._course.stretches(),
            **self._fingerprints,
        }

    def _count(self, consumed: int | None) -> int:
        """Return how many batches of the epoch were consumed, as given or as given out."""
        done = self._consumed if consumed is None else check_count("consumed", consumed, 0)
        if not self._course.began <= done <= len(self):
            since = f", {self._course.began} of them before the last change of the budget" if self._course.began else ""
            raise InputError(
                f"consumed is {done}",
                limit=f"an epoch has {len(self)} batches{since}",
                hint="go on with the next epoch instead" if done > len(self) else "count on from the last change",
            )
        return done

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on where `state_dict` stood: the next iteration starts after the batches consumed.

        With another number of ranks than the state's, what is left of its epoch is dealt anew to them. A budget that
        was set with `set_budget` comes with the state.

        Raises:
            RecordError: The state is of another version, dataset, budget or seed.
            DoesNotFitError: What is left of the epoch can't be dealt to so many ranks. Nothing has changed then.
        """
        state = checked_state(state_dict, self.state_dict())
        unchanged = self.limits is self._made_for
        course = replay(self._source if unchanged else self._source.changed(limits=self._made_for), state)
        done = check_count("consumed", state["consumed"], 0)
        if not course.began <= done <= len(course):
            raise RecordError(
                f"the state has {done} batches consumed",
                limit=f"an epoch has {len(course)}",
                hint="load the state into the sampler that it was taken from",
            )
        if state["num_replicas"] != self.num_replicas:
            course, done = course.changed(course.source.changed(num_replicas=self.num_replicas), done)
        self._course, self._source, self.epoch = course, course.source, course.epoch
        self._consumed = self._resume = done

    def __repr__(self) -> str:
        return (
            f"NodeBudgetSampler({len(self.sizes)} graphs, {len(self)} batches, {self.limits.describe()}, "
            f"rank {self.rank} of {self.num_replicas})"
        )


def _named(differing: Mapping[str, list[int]]) -> str:
    """Name what differs between ranks, and where."""
    parts = []
    for name, ranks in differing.items():
        parts.append(f"{name} of rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}")
    return ", ".join(parts)
