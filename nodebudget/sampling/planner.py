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
    deal_epoch,
    epoch_rng,
    mixed,
    settle,
    shuffle_equal_sizes,
)
from nodebudget.sampling.packing.batch_grid import BatchGrid
from nodebudget.sampling.packing.ordered import best_fit, next_fit, split
from nodebudget.sampling.plan import Plan as Plan
from nodebudget.utils.checks import check_choice, check_count

Ints = npt.NDArray[np.integer[Any]]
Batches = tuple[Ints, npt.NDArray[np.int64]]

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
    """Plan the batches of an epoch: the same arguments give the same plan, on any machine.

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
        return self._alone + self._settled.batches

    @property
    def lower_bound(self) -> int:
        """No plan within the limits has fewer batches."""
        return self._alone + self.items.lower_bound()

    @cached_property
    def _settled(self) -> BatchCount:
        """The number of batches, of no epoch and no rank, so that all agree without a word."""
        if not len(self.items):
            found = BatchCount(-self._alone % self.num_replicas)
        elif self.pack == "balanced":
            found = settle(self.items, self.num_replicas, self._alone, self.seed if self.shuffle else None)
        else:
            graphs, offsets = (best_fit if self.pack == "dense" else next_fit)(self.items)
            batches = len(offsets) - 1
            wanted = batches + -(batches + self._alone) % self.num_replicas
            found = BatchCount(wanted, (graphs, split(offsets, min(wanted, len(graphs)))))
        if found.batches > len(self.items):
            raise self._too_few(found.batches)
        return found

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
        settled, shuffle = self._settled, self.shuffle and self.pack != "sequential"
        # Apart from what deals the graphs, so that the deal may be one that was made before.
        rng = np.random.default_rng([self.seed, epoch, 1]) if shuffle else None
        if not len(self.items):
            return self.oversized, np.arange(self._alone + 1)
        if self.pack == "sequential" and settled.known is not None:
            return self._with_alone(*settled.known, rng)
        deal = self._deal(epoch, rng)
        if deal is None:
            assert settled.known is not None
            return self._with_alone(*self._ragged(*settled.known, rng), rng)
        order = np.arange(deal.batches) if rng is None and self.num_replicas == 1 else None
        if order is None:
            order = steps(deal.loads[0], 1 if self._alone else self.num_replicas, rng)
        return self._with_alone(*deal.batches_in_order(order), rng)

    def _deal(self, epoch: int, rng: np.random.Generator | None) -> BatchGrid | None:
        settled = self._settled
        if self.pack == "dense":
            return mixed(self.items, settled, rng, even=False)
        # Kept beyond the first plan, it would double the memory.
        self.forget_first()
        if settled.first is not None and epoch == 0:
            return settled.first
        return deal_epoch(self.items, settled, None if rng is None else epoch_rng(self.seed, epoch))

    def _ragged(self, graphs: Ints, offsets: npt.NDArray[np.int64], rng: np.random.Generator | None) -> Batches:
        if rng is not None:
            graphs = shuffle_equal_sizes(self.items, graphs, rng)
        loads = np.add.reduceat(self.items.values[0][graphs], offsets[:-1])
        return _reordered(graphs, offsets, steps(loads, 1 if self._alone else self.num_replicas, rng))

    def forget_first(self) -> None:
        """Let go the deal that showed how many batches do: it takes as much memory as all else."""
        if "_settled" in self.__dict__:
            self._settled = replace(self._settled, first=None)

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        if "_settled" in state:
            state["_settled"] = replace(state["_settled"], first=None)
        return state

    def _with_alone(self, graphs: Ints, offsets: npt.NDArray[np.int64], rng: np.random.Generator | None) -> Batches:
        if self._inside is not None:
            graphs = self._inside[graphs]
        if not self._alone:
            return graphs, offsets
        graphs = np.concatenate([graphs, self.oversized])
        offsets = np.concatenate([offsets, offsets[-1] + 1 + np.arange(self._alone)])
        if self.pack == "sequential":
            order = np.argsort(graphs[offsets[:-1]], kind="stable")
        else:
            values = self.limits.columns(self.sizes, self.names[0])[1].values[0]
            order = steps(np.add.reduceat(values[graphs], offsets[:-1]), self.num_replicas, rng)
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


def steps(loads: npt.NDArray[Any], num_replicas: int, rng: np.random.Generator | None) -> npt.NDArray[np.intp]:
    """Order batches so that the ranks of a step have like loads, and steps and ranks come at random.

    Args:
        loads: Load of each batch, shape (batches,), a multiple of `num_replicas`.
        num_replicas: Batches of a step.
        rng: Where randomness comes from; None keeps steps ascending.

    Returns:
        Batches in order, shape (batches,).
    """
    if num_replicas == 1:
        return np.arange(len(loads)) if rng is None else rng.permutation(len(loads))
    groups = np.argsort(loads, kind="stable").reshape(-1, num_replicas)
    if rng is not None:
        groups = rng.permuted(rng.permutation(groups), axis=1)
    return groups.ravel()


def _reordered(graphs: Ints, offsets: npt.NDArray[np.int64], order: npt.NDArray[np.intp]) -> Batches:
    counts = np.diff(offsets)[order]
    starts = np.concatenate([[0], np.cumsum(counts)])
    # Every graph's place: where its batch began before, and how far into the batch it stands.
    places = np.repeat(offsets[:-1][order] - starts[:-1], counts) + np.arange(starts[-1])
    return graphs[places], starts
