"""From sizes and limits to plans: what is worked out once, and what every epoch."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from nodebudget.datasets.size_table import SizeTable
from nodebudget.errors import DoesNotFitError, InputError
from nodebudget.sampling.budget import Budget
from nodebudget.sampling.oversized import too_large
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
from nodebudget.sampling.plan import Plan as Plan
from nodebudget.utils.checks import check_choice, check_count

PACKS = ("balanced", "dense", "sequential")
POLICIES = ("raise", "skip", "alone")


def make_plan(
    sizes: SizeTable,
    limits: Budget,
    *,
    pack: str = "balanced",
    shuffle: bool = True,
    seed: int = 0,
    epoch: int = 0,
    oversized: str = "raise",
    num_replicas: int = 1,
    balance: str | None = None,
) -> Plan:
    """Plan the batches of an epoch: the same arguments give the same plan, on any machine and with any numpy.

    Random numbers are raw words of numpy's PCG64, seeded by SeedSequence, which numpy keeps the same in all versions.
    Sorts are stable, and decisions are made on whole numbers, so that no plan depends on the order in which a processor
    adds.

    Args:
        sizes: One row a graph.
        limits: What a batch may hold.
        pack: "balanced": as few batches as the caps allow, all with nearly the same load and the same number
            of graphs; costs about two sorts, and leaves the effective batch size and so the learning rate
            what they are. "dense": best fit, largest first, for inference: large graphs sit together with few others,
            so graph counts differ by a factor and gradients with them; costs seconds a million graphs.
            "sequential": dataset order, each batch ends where the next graph would not fit, for validation
            and test loops that pair predictions with ids; never shuffles, fills less and costs least.
        shuffle: Mix anew every epoch; otherwise every epoch is the same.
        seed: Where randomness comes from, 0 or more; with `epoch`.
        epoch: See `seed`.
        oversized: Graphs over a cap on their own: "raise", "skip" (left out and counted) or "alone" (a batch
            of its own each, over the cap).
        num_replicas: The number of batches is a multiple of this.
        balance: Column to balance; by default predicted bytes, or the cap that asks for the most batches.

    Raises:
        OversizedError: A graph is over a cap, and `oversized` is "raise".
        DoesNotFitError: No graph is left, or there are fewer graphs than ranks need.
        InputError: No graphs, a column that the sizes lack, or an argument with another value.
    """
    return Planner(sizes, limits, pack, shuffle, seed, oversized, num_replicas, balance).plan(epoch)


class Planner:
    """What all epochs share. See `make_plan` for the arguments; `among` are the graphs to deal, ascending, else all.

    Attributes:
        oversized: Graphs over a cap, ascending, shape (oversized graphs,).
        items: The other graphs, as they are packed.
    """

    def __init__(
        self,
        sizes: SizeTable,
        limits: Budget,
        pack: str = "balanced",
        shuffle: bool = True,
        seed: int = 0,
        oversized: str = "raise",
        num_replicas: int = 1,
        balance: str | None = None,
        among: Ints | None = None,
    ) -> None:
        check_choice("pack", pack, PACKS)
        check_choice("oversized", oversized, POLICIES)
        self.sizes, self.limits, self.pack, self.shuffle, self.policy = sizes, limits, pack, shuffle, oversized
        self.seed = check_count("seed", seed, 0)
        self.num_replicas = check_count("num_replicas", num_replicas, 1)
        if not len(sizes):
            raise InputError("the dataset has no graphs", hint="check how it was read or filtered")
        self.names, everything = limits.columns(sizes, balance)
        over = everything.oversized()
        self.oversized = np.flatnonzero(over) if among is None else among[over[among]]
        if len(self.oversized) and oversized == "raise":
            raise too_large(self.oversized, sizes, limits)
        # Without oversized graphs, which is the rule, nothing is copied.
        self._inside = among
        if len(self.oversized):
            self._inside = np.flatnonzero(~over) if among is None else among[~over[among]]
        self.items = everything if self._inside is None else everything.take(self._inside)
        self._alone = len(self.oversized) if oversized == "alone" else 0
        self._check_enough()

    def __len__(self) -> int:
        """Batches of every epoch, over all ranks."""
        return self._alone + self._count.batches

    @property
    def lower_bound(self) -> int:
        """No plan within the limits has fewer batches."""
        return self._alone + self.items.lower_bound()

    @cached_property
    def _count(self) -> BatchCount:
        """The number of batches, the same for every epoch and rank, so that ranks need not exchange it."""
        if not len(self.items):
            count = BatchCount(-self._alone % self.num_replicas)
        elif self.pack == "balanced":
            count = count_batches(self.items, self.num_replicas, self._alone, self.seed if self.shuffle else None)
        else:
            graphs, offsets = (best_fit if self.pack == "dense" else next_fit)(self.items)
            fewest = len(offsets) - 1
            batches = fewest + -(fewest + self._alone) % self.num_replicas
            count = BatchCount(batches, (graphs, split(offsets, min(batches, len(graphs)))))
        if count.batches > len(self.items):
            raise self._too_few(count.batches)
        return count

    def plan(self, epoch: int = 0) -> Plan:
        """Plan an epoch."""
        epoch = check_count("epoch", epoch, 0)
        graphs, offsets = self._batches(epoch)
        return Plan(
            graphs,
            offsets,
            self.oversized,
            self.lower_bound,
            self.names[0],
            self.pack,
            self.seed,
            epoch,
            self.num_replicas,
            self.policy,
            self.limits,
            self.sizes,
        )

    def _batches(self, epoch: int) -> Batches:
        count = self._count
        # Apart from the stream that assigns graphs, so that the assignment may be one that was made before.
        stream = RandomStream(self.seed, epoch, 1) if self.shuffle and self.pack != "sequential" else None
        if not len(self.items):
            return self.oversized, np.arange(self._alone + 1)
        if self.pack == "sequential" and count.packing is not None:
            return self._with_alone(*count.packing, stream)
        grid = self._assignment(epoch, stream)
        if grid is None:
            assert count.packing is not None
            return self._with_alone(*self._equal_sizes_shuffled(*count.packing, stream), stream)
        if stream is None and self.num_replicas == 1:
            order: Ints = np.arange(grid.batches)
        else:
            order = steps(grid.loads[0], 1 if self._alone else self.num_replicas, stream)
        return self._with_alone(*grid.batches_in_order(order), stream)

    def _assignment(self, epoch: int, stream: RandomStream | None) -> BatchGrid | None:
        count = self._count
        if self.pack == "dense":
            return exchange_packing(self.items, count, stream, balanced=False)
        # Kept beyond the first plan, it would double the memory.
        self.forget_first()
        if count.first is not None and epoch == 0:
            return count.first
        return assign_epoch(self.items, count, None if stream is None else RandomStream(self.seed, epoch))

    def _equal_sizes_shuffled(
        self, graphs: Ints, offsets: npt.NDArray[np.int64], stream: RandomStream | None
    ) -> Batches:
        if stream is not None:
            graphs = shuffle_equal_sizes(self.items, graphs, stream)
        loads = np.add.reduceat(self.items.values[0][graphs], offsets[:-1])
        return _reordered(graphs, offsets, steps(loads, 1 if self._alone else self.num_replicas, stream))

    def forget_first(self) -> None:
        """Free the assignment that showed how many batches suffice: it takes as much memory as all else."""
        if "_count" in self.__dict__:
            self._count = replace(self._count, first=None)

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        if "_count" in state:
            state["_count"] = replace(state["_count"], first=None)
        return state

    def _with_alone(self, graphs: Ints, offsets: npt.NDArray[np.int64], stream: RandomStream | None) -> Batches:
        if self._inside is not None:
            graphs = self._inside[graphs]
        if not self._alone:
            return graphs, offsets
        graphs = np.concatenate([graphs, self.oversized])
        offsets = np.concatenate([offsets, offsets[-1] + 1 + np.arange(self._alone)])
        if self.pack == "sequential":
            order: Ints = np.argsort(graphs[offsets[:-1]], kind="stable")
        else:
            values = self.limits.columns(self.sizes, self.names[0])[1].values[0]
            order = steps(np.add.reduceat(values[graphs], offsets[:-1]), self.num_replicas, stream)
        return _reordered(graphs, offsets, order)

    def _check_enough(self) -> None:
        if not len(self.items) and not self._alone:
            raise DoesNotFitError(
                f"all {len(self.oversized):,} graphs are over a cap", limit=self.limits.describe(), hint="raise the cap"
            )
        if len(self.items) + self._alone < self.num_replicas:
            raise self._too_few(self.num_replicas)

    def _too_few(self, batches: int) -> DoesNotFitError:
        return DoesNotFitError(
            f"{len(self.items) + self._alone:,} graphs can't be dealt to {self.num_replicas} ranks",
            limit=f"they make at least {batches + self._alone:,} batches, the same number for every rank",
            hint="use fewer ranks or more graphs",
        )


def steps(loads: npt.NDArray[Any], num_replicas: int, stream: RandomStream | None) -> Ints:
    """Order batches so that the ranks of a step have like loads, and steps and ranks come at random.

    Args:
        loads: Load of each batch, shape (batches,), a multiple of `num_replicas`.
        num_replicas: Batches per step.
        stream: Random numbers; None keeps steps ascending.

    Returns:
        Batches in order, shape (batches,).
    """
    if num_replicas == 1:
        return np.arange(len(loads)) if stream is None else stream.permutation(len(loads))
    groups: Ints = np.argsort(loads, kind="stable").reshape(-1, num_replicas)
    if stream is not None:
        groups = shuffled_rows(groups[stream.permutation(len(groups))], stream)
    return groups.ravel()


def _reordered(graphs: Ints, offsets: npt.NDArray[np.int64], order: Ints) -> Batches:
    counts = np.diff(offsets)[order]
    starts = np.concatenate([[0], np.cumsum(counts)])
    # Every graph's place: where its batch began before, and how far into the batch it stands.
    places = np.repeat(offsets[:-1][order] - starts[:-1], counts) + np.arange(starts[-1])
    return graphs[places], starts
