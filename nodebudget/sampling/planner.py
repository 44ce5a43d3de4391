"""From sizes and a budget to plans: what all epochs share, and the plan of each."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np

from nodebudget.datasets.size_table import SizeTable
from nodebudget.errors import DoesNotFitError
from nodebudget.sampling.budget import Budget
from nodebudget.sampling.oversized import oversized_error
from nodebudget.sampling.packing.batch_count import (
    BatchCount,
    assign_epoch,
    count_batches,
    exchange_packing,
    shuffle_equal_sizes,
)
from nodebudget.sampling.packing.batch_grid import Batches, BatchGrid, Ints
from nodebudget.sampling.packing.ordered import best_fit, next_fit, split
from nodebudget.sampling.packing.reproducible import RandomStream, shuffled_rows
from nodebudget.sampling.plan import Plan
from nodebudget.sampling.plan_config import PlanConfig, StepConfig
from nodebudget.sampling.step_planner import StepPlanner
from nodebudget.utils.checks import check_count


def make_plan(
    sizes: SizeTable,
    budget: Budget,
    *,
    pack: str | None = None,
    shuffle: bool = True,
    seed: int = 0,
    epoch: int = 0,
    oversized: str = "raise",
    num_replicas: int = 1,
    balance: str | None = None,
    graphs_per_step: int | None = None,
) -> Plan:
    """Plan the batches of an epoch: the same arguments give the same plan, on any machine and with any numpy.

    Random numbers are raw words of numpy's PCG64, seeded by SeedSequence, which numpy keeps the same in all versions.
    Sorts are stable, and decisions are made on whole numbers, so that no plan depends on the order in which a processor
    adds.

    Args:
        sizes: One row per graph.
        budget: What a batch may hold.
        pack: "balanced": as few batches as the budget allows, all with nearly the same load and the same number
            of graphs, so that the effective batch size and with it the learning rate stay what they are; takes about as
            long as two sorts. "dense": best fit, largest first, for inference: large graphs share batches with few
            others, so that graph counts differ by a factor, and gradients with them; takes seconds per million graphs.
            "sequential": dataset order, each batch ends where the next graph would not fit, for validation
            and test loops that pair predictions with ids; is never shuffled, fills less and is the fastest. "static":
            all sizes of all batches are within one shape (or three, where a few graphs are huge), which is the same
            in every epoch and with every seed: see `Plan.shapes`. By default "balanced", and "sequential" without
            shuffling.
        shuffle: Reshuffle every epoch; otherwise every epoch is the same, in the dataset's order unless another `pack`
            is given.
        seed: Random seed, 0 or more; used with `epoch`.
        epoch: Number of the epoch, 0 or more.
        oversized: Graphs over the budget on their own: "raise", "skip" (left out and counted) or "alone" (a batch
            of its own each, over the budget).
        num_replicas: The number of batches is a multiple of this.
        balance: Column to balance; by default predicted bytes, or the column that needs the most batches.
        graphs_per_step: Graphs per optimizer step, over all ranks: see `NodeBudgetSampler`.

    Raises:
        OversizedError: A graph is over the budget, and `oversized` is "raise".
        DoesNotFitError: No graph is left, or there are fewer graphs than ranks.
        InputError: No graphs, a column that the sizes lack, or an invalid argument.
    """
    steps = None if graphs_per_step is None else StepConfig(graphs_per_step)
    config = PlanConfig(sizes, budget, pack, shuffle, seed, oversized, num_replicas, balance, steps)
    return (Planner(config) if steps is None else StepPlanner(config)).plan(epoch)


class Planner:
    """Plans of epochs that share their number of batches.

    Args:
        config: What the plans depend on.
        among: The graphs to plan, ascending; None for all.
        seed: Random seed; by default that of `config`.

    Attributes:
        oversized: Graphs over the budget, ascending, shape (oversized graphs,).
        items: The other graphs, as they are packed.
        names: The columns of `items`; the first is balanced.

    Raises:
        OversizedError, DoesNotFitError, InputError: See `make_plan`.
    """

    def __init__(self, config: PlanConfig, among: Ints | None = None, seed: int | None = None) -> None:
        self.config, self._seed = config, config.seed if seed is None else seed
        self.names, everything = config.budget.columns(config.sizes, config.balance)
        over = everything.oversized()
        self.oversized = np.flatnonzero(over) if among is None else among[over[among]]
        if len(self.oversized) and config.oversized == "raise":
            raise oversized_error(self.oversized, config.sizes, config.budget)
        # In the dataset's order an oversized graph ends the batch before it: all are packed together.
        self._in_order = config.pack == "sequential" and config.oversized == "alone"
        # Without oversized graphs, which is the rule, nothing is copied.
        self._inside = among
        if len(self.oversized) and not self._in_order:
            self._inside = np.flatnonzero(~over) if among is None else among[~over[among]]
        self._static = among is None and config.pack == "static"
        self.items = everything if self._inside is None else everything.take(self._inside)
        self._alone = len(self.oversized) if config.oversized == "alone" and not self._in_order else 0
        if not len(self.items) and not self._alone:
            raise DoesNotFitError(
                f"all {len(self.oversized):,} graphs are over the budget",
                limit=config.budget.describe(),
                hint="raise the budget",
            )
        if len(self.items) + self._alone < config.num_replicas:
            raise self._too_few(config.num_replicas)
        if config.pack == "static":
            self.items = config.static.items(config.sizes, self._inside)

    def __len__(self) -> int:
        """Batches of every epoch, over all ranks."""
        return self._alone + self._count.batches

    @property
    def lower_bound(self) -> int:
        """No plan within the budget has fewer batches."""
        if not self._in_order:
            return self._alone + self.items.lower_bound()
        over = self.items.oversized()
        return int(np.count_nonzero(over)) + self.items.take(np.flatnonzero(~over)).lower_bound()

    @cached_property
    def _count(self) -> BatchCount:
        """The number of batches, the same for every epoch and rank, so that ranks need not exchange it."""
        config, ranks = self.config, self.config.num_replicas
        if not len(self.items):
            count = BatchCount(-self._alone % ranks)
        elif self._static and config.static.equal is not None:
            count = BatchCount(config.static.equal.batches)
        elif config.pack in ("balanced", "static"):
            count = count_batches(self.items, ranks, self._alone, self._seed if config.shuffle else None)
        else:
            graphs, offsets = (best_fit if config.pack == "dense" else next_fit)(self.items)
            fewest = len(offsets) - 1
            batches = fewest + -(fewest + self._alone) % ranks
            count = BatchCount(batches, (graphs, split(offsets, min(batches, len(graphs)))))
        if count.batches > len(self.items):
            raise self._too_few(count.batches)
        return count

    def _too_few(self, batches: int) -> DoesNotFitError:
        return DoesNotFitError(
            f"{len(self.items) + self._alone:,} graphs can't be assigned to {self.config.num_replicas} ranks",
            limit=f"they make at least {batches + self._alone:,} batches, the same number for every rank",
            hint="use fewer ranks or more graphs",
        )

    def plan(self, epoch: int = 0) -> Plan:
        """Plan an epoch."""
        epoch = check_count("epoch", epoch, 0)
        return Plan(*self._batches(epoch), self.oversized, self.lower_bound, self.names[0], epoch, self.config)

    def _batches(self, epoch: int) -> Batches:
        config = self.config
        # Apart from the stream that assigns graphs, so that the assignment may be one that was made before.
        stream = RandomStream(self._seed, epoch, 1) if config.shuffle and config.pack != "sequential" else None
        if not len(self.items):
            return self.oversized, np.arange(self._alone + 1)
        packing = self._count.packing
        if config.pack == "sequential" and packing is not None:
            return self._with_alone(packing, stream)
        grid = self._assignment(epoch, stream)
        ranks = 1 if self._alone else config.num_replicas
        if grid is None:
            assert packing is not None
            graphs, offsets = packing
            if stream is not None:
                graphs = shuffle_equal_sizes(self.items, graphs, stream)
            loads = np.add.reduceat(self.items.values[0][graphs], offsets[:-1])
            return self._with_alone(_reordered((graphs, offsets), _steps(loads, ranks, stream)), stream)
        if stream is None and config.num_replicas == 1:
            return self._with_alone(grid.batches_in_order(np.arange(grid.batches)), stream)
        return self._with_alone(grid.batches_in_order(_steps(grid.loads[0], ranks, stream)), stream)

    def _assignment(self, epoch: int, stream: RandomStream | None) -> BatchGrid | None:
        count = self._count
        if self.config.pack == "dense":
            return exchange_packing(self.items, count, stream, balanced=False)
        if self._static and self.config.static.equal is not None:
            return self.config.static.equal.assign(None if stream is None else RandomStream(self._seed, epoch))
        # Kept beyond the first plan, it would double the memory.
        self.forget_first()
        if count.first is not None and epoch == 0:
            return count.first
        return assign_epoch(self.items, count, None if stream is None else RandomStream(self._seed, epoch))

    def forget_first(self) -> None:
        """Free the assignment that showed how many batches suffice: it takes as much memory as all else."""
        if "_count" in self.__dict__:
            self._count = replace(self._count, first=None)

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        if "_count" in state:
            state["_count"] = replace(state["_count"], first=None)
        return state

    def _with_alone(self, batches: Batches, stream: RandomStream | None) -> Batches:
        """Add the batches of single oversized graphs, and number graphs as the dataset does."""
        graphs, offsets = batches
        if self._inside is not None:
            graphs = self._inside[graphs]
        if not self._alone:
            return graphs, offsets
        graphs = np.concatenate([graphs, self.oversized])
        offsets = np.concatenate([offsets, offsets[-1] + 1 + np.arange(self._alone)])
        values = self.config.budget.columns(self.config.sizes, self.names[0])[1].values[0]
        loads = np.add.reduceat(values[graphs], offsets[:-1])
        return _reordered((graphs, offsets), _steps(loads, self.config.num_replicas, stream))


def _steps(loads: Ints, num_replicas: int, stream: RandomStream | None) -> Ints:
    """Order batches so that the ranks of a step have like loads, and steps and ranks come at random.

    Args:
        loads: Load of each batch, shape (batches,), a multiple of `num_replicas`.
        num_replicas: Batches per step.
        stream: Random numbers; None keeps steps ascending.
    """
    if num_replicas == 1:
        return np.arange(len(loads)) if stream is None else stream.permutation(len(loads))
    groups: Ints = np.argsort(loads, kind="stable").reshape(-1, num_replicas)
    if stream is not None:
        groups = shuffled_rows(groups[stream.permutation(len(groups))], stream)
    return groups.ravel()


def _reordered(batches: Batches, order: Ints) -> Batches:
    graphs, offsets = batches
    counts = np.diff(offsets)[order]
    starts = np.concatenate([[0], np.cumsum(counts)])
    # Every graph's place: where its batch began before, and how far into the batch it stands.
    places = np.repeat(offsets[:-1][order] - starts[:-1], counts) + np.arange(starts[-1])
    return graphs[places], starts
