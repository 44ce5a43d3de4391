"""Plans whose unit is the optimizer step: the same graphs in each step on any number of ranks, under any budget."""

from __future__ import annotations

import logging
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from nodebudget.datasets.size_table import STANDARD
from nodebudget.errors import DoesNotFitError
from nodebudget.sampling.budget import whole_column
from nodebudget.sampling.epoch_content import EpochContent
from nodebudget.sampling.oversized import oversized_error
from nodebudget.sampling.packing.batch_grid import Batches, BatchGrid, Ints
from nodebudget.sampling.packing.items import Items
from nodebudget.sampling.packing.ordered import next_fit, split
from nodebudget.sampling.packing.reproducible import RandomStream, shuffled_rows
from nodebudget.sampling.packing.step_assignment import MicroBatchAssignment, assign_steps, largest_first
from nodebudget.sampling.plan import Plan
from nodebudget.sampling.plan_config import PlanConfig
from nodebudget.sampling.rank_budgets import rank_maxima
from nodebudget.utils.checks import check_count

_log = logging.getLogger("nodebudget")

#: Graphs that are assigned to show how many micro-batches suffice: several epochs of small sets, one of large ones.
_TRIED_GRAPHS, _TRIED_EPOCHS = 100_000, 8

#: How often an epoch is drawn again whose steps do not fit; then it is the first one's.
_ATTEMPTS = 10


class StepPlanner:
    """Plans of epochs of S optimizer steps, each of m micro-batches.

    Args:
        config: What the plans depend on, with `steps`.

    Attributes:
        oversized: Graphs over the budget, ascending, shape (oversized graphs,).
        names: The columns that micro-batches are balanced in or limited by; the first is balanced.
        steps: Optimizer steps of every epoch.

    Raises:
        OversizedError, DoesNotFitError, InputError: See `nodebudget.make_plan`.
    """

    def __init__(self, config: PlanConfig) -> None:
        self.config = config
        self.names, self._everything = config.budget.columns(config.sizes, config.balance)
        over = self._everything.oversized()
        self.oversized = np.flatnonzero(over)
        if len(self.oversized) and config.oversized == "raise":
            raise oversized_error(self.oversized, config.sizes, config.budget)
        graphs = np.flatnonzero(~over) if config.oversized == "skip" else np.arange(len(over))
        if config.oversized == "alone" and len(self.oversized):
            self._everything = _alone(self._everything, over)
        self.content = EpochContent(config, graphs)
        self.steps = self.content.steps
        #: What showed how many micro-batches suffice: the first epoch's graphs, micro-batches and random numbers.
        self._first: tuple[Ints, BatchGrid, RandomStream] | None = None

    def __len__(self) -> int:
        """Batches of every epoch, over all ranks."""
        return self.steps * self.micro_batches

    @cached_property
    def lower_bound(self) -> int:
        """No plan within the budget has fewer batches, were it not for steps."""
        return self._items(self.content.all).lower_bound()

    def forget_first(self) -> None:
        """Free the assignment that showed how many micro-batches suffice."""
        self._first = None

    @cached_property
    def micro_batches(self) -> int:
        """Micro-batches of a step, over all ranks; the same in every epoch."""
        if self.content.one_each:
            return self.content.count + self.content.extra
        tried = min(_TRIED_EPOCHS, max(2 if self.config.draw else 1, _TRIED_GRAPHS // self.content.count))
        tried = tried if self.config.shuffle else 1
        if self.config.pack == "sequential":
            return self._sequential(self.content.graphs(0))
        epochs = [self._assign_steps(epoch) for epoch in range(tried)]
        ranks = self.config.num_replicas
        assignments = [self._assignment(graphs) for graphs, _, _ in epochs]
        by_size = self._by_size.values
        # Sums are exact where sizes were compacted by what they are multiples of.
        exact = len(by_size) == 1 and int(by_size[0].max(initial=0)) < 2**29
        balanced = by_size[0] if exact else by_size[0][:0]
        fewest = [made.fewest(steps, balanced) for made, (_, steps, _) in zip(assignments, epochs, strict=True)]
        micro_batches = self._with_margin(max(fewest), [assignment.items for assignment in assignments])
        while micro_batches <= int(epochs[0][1].counts.min()):
            grids = (self._assignment(graphs).assign(steps, micro_batches) for graphs, steps, _ in epochs)
            first = next(grids)
            if first is not None and all(grid is not None for grid in grids):
                self._first = epochs[0][0], first, epochs[0][2]
                return micro_batches
            micro_batches += ranks
        raise self._too_few(int(epochs[0][1].counts.min()), micro_batches)

    def _with_margin(self, micro_batches: int, epochs: list[Items]) -> int:
        """Return how many micro-batches suffice for further epochs, whose graphs are others where they are drawn."""
        if self.config.draw is None or len(epochs) == 1:
            return micro_batches
        largest = micro_batches
        for place, maximum in enumerate(epochs[0].maxima):
            if maximum is not None:
                # Eight epochs are within about three standard deviations: as much again is hardly ever exceeded.
                totals = [int(items.values[place].sum(dtype=np.int64)) for items in epochs]
                wide = micro_batches * (2 * max(totals) - min(totals))
                largest = max(largest, -(-wide // max(max(totals), 1)))
        return largest + -largest % self.config.num_replicas

    def _too_few(self, graphs: int, micro_batches: int) -> DoesNotFitError:
        return DoesNotFitError(
            f"a step of {graphs:,} graphs can't be assigned to {self.config.num_replicas} ranks",
            limit=f"it makes at least {micro_batches:,} micro-batches, the same number for every rank",
            hint="give more graphs_per_step or a larger budget, or use fewer ranks",
        )

    @cached_property
    def _order(self) -> Ints:
        return largest_first(self._by_size.values[0])

    @cached_property
    def _by_size(self) -> Items:
        """Sizes that steps are balanced by: they hang on no budget and no device."""
        sizes = self.config.sizes
        names = [name for name in reversed(STANDARD) if name in sizes]
        names += [name for name in sizes.columns if name not in names and not name == "seconds" == self.config.balance]
        columns = tuple(whole_column(sizes[name], None)[0] for name in names)
        return Items(columns, (None,) * len(columns))

    def _items(self, graphs: Ints) -> Items:
        return self._everything if self._is_everything(graphs) else self._everything.take(graphs)

    def _is_everything(self, graphs: Ints) -> bool:
        return graphs is self.content.all and len(graphs) == len(self._everything)

    def _assignment(self, graphs: Ints) -> MicroBatchAssignment:
        ranks, steps = self.config.num_replicas, self.config.steps
        items = self._items(graphs)
        budgets = () if steps is None else steps.budgets
        return MicroBatchAssignment(items, ranks, rank_maxima(items, self.config.budget, self.names, budgets))

    def _assign_steps(self, epoch: int, attempt: int = 0) -> tuple[Ints, BatchGrid, RandomStream]:
        """Assign an epoch's graphs to steps: return the graphs, the grid of places in them, and random numbers."""
        epoch = self.content.epoch_of(epoch)
        graphs = self.content.graphs(epoch, attempt)
        stream = RandomStream(self.config.seed, epoch, 2 + attempt)
        if self._is_everything(graphs):
            return graphs, assign_steps(self._by_size, self._order, self.steps, stream), stream
        items = self._by_size.take(graphs)
        return graphs, assign_steps(items, largest_first(items.values[0]), self.steps, stream), stream

    def plan(self, epoch: int = 0, first: int = 0, partial: Ints | None = None) -> Plan:
        """Plan an epoch, or what is left of it.

        Args:
            epoch: Its number.
            first: The first step that is planned.
            partial: Graphs that are left of that step, which stand for all of it; None: all of them are.
        """
        epoch = check_count("epoch", epoch, 0)
        graphs, (places, offsets) = self._sequence(epoch)
        whole = first if partial is None else first + 1
        begin = whole * self.micro_batches
        places, offsets = places[offsets[begin] :], offsets[begin:] - offsets[begin]
        repeats = places >= self.content.count if self.content.extra > 0 else np.zeros(len(places), dtype=bool)
        indices = places if self._is_everything(graphs) else graphs[places]
        ends = np.arange(0, len(offsets), self.micro_batches)
        if partial is not None:
            order, starts = self.pack_partial(partial)
            indices = np.concatenate([partial[order], indices])
            offsets = np.concatenate([starts[:-1], offsets + starts[-1]])
            repeats = np.concatenate([np.zeros(len(order), dtype=bool), repeats])
            ends = np.concatenate([[0], ends + len(starts) - 1])
        return Plan(
            *(indices, offsets, self.oversized, self.lower_bound, self.names[0], epoch, self.config),
            step_offsets=None if self.config.steps is None else ends,
            first_step=first,
            repeats=repeats if self.content.extra > 0 else None,
        )

    def _sequence(self, epoch: int) -> tuple[Ints, Batches]:
        """Return the epoch's graphs, and its micro-batches in order, as places in them."""
        epoch = self.content.epoch_of(epoch)
        if self.config.pack == "sequential":
            graphs = self.content.graphs(epoch)
            return graphs, self._cut(graphs)
        micro_batches, first = self.micro_batches, self._first
        self.forget_first()
        if first is not None and epoch == 0:
            return first[0], first[1].batches_in_order(self._order_of(*first[1:]))
        for attempt in range(_ATTEMPTS):
            graphs, steps, stream = self._assign_steps(epoch, attempt)
            grid = self._assignment(graphs).assign(steps, micro_batches)
            if grid is not None:
                break
        else:
            graphs, steps, stream = self._assign_steps(0)
            grid = self._assignment(graphs).assign(steps, micro_batches)
            assert grid is not None, "an assignment that kept its maxima before does not now"
        if attempt:
            _log.warning(
                "epoch %d: its steps were drawn %d times until all fit the budget: under another budget or with other "
                "ranks they may have other graphs",
                *(epoch, attempt + 1),
            )
        return graphs, grid.batches_in_order(self._order_of(grid, stream))

    def _order_of(self, grid: BatchGrid, stream: RandomStream) -> Ints:
        """Return the order of micro-batches: steps at random, ranks of like loads beside each other."""
        ranks, shuffle = self.config.num_replicas, self.config.shuffle
        places: Ints = np.arange(grid.batches).reshape(-1, self.steps).T
        steps = self.config.steps
        if ranks > 1 and not (steps is not None and steps.budgets):
            by_load = np.argsort(grid.loads[0].reshape(-1, self.steps).T, axis=1, kind="stable")
            places = np.take_along_axis(places, by_load, axis=1)
        if shuffle:
            places = places[stream.permutation(self.steps)]
            if ranks > 1 and not (steps is not None and steps.budgets):
                places = shuffled_rows(places.reshape(-1, ranks), stream)
        return places.ravel()

    def pack_partial(self, graphs: Ints) -> Batches:
        """Pack what is left of a step into the fewest micro-batches for all ranks."""
        if self.config.pack == "sequential":
            micro_batches = self._sequential(graphs, 1)
            return self._cut(graphs, 1, micro_batches)
        assignment = self._assignment(graphs)
        step = BatchGrid.of_order(np.arange(len(graphs)), 1)
        micro_batches = assignment.fewest(step, graphs[:0])
        while micro_batches <= len(graphs):
            grid = assignment.assign(step, micro_batches)
            if grid is not None:
                return grid.batches_in_order(np.arange(grid.batches))
            micro_batches += self.config.num_replicas
        error = self._too_few(len(graphs), micro_batches)
        error.hint = f"{error.hint}, or go on from the begin of the step"
        raise error

    def _ordered(self, graphs: Ints, steps: int) -> tuple[Ints, Batches]:
        """Cut graphs, in their order, into steps and these into as few batches as the budget allows."""
        bounds = np.arange(steps + 1) * len(graphs) // steps
        items = self._assignment(graphs).smallest()
        return bounds, next_fit(items, bounds)

    def _sequential(self, graphs: Ints, steps: int | None = None) -> int:
        bounds, (_, offsets) = self._ordered(graphs, steps or self.steps)
        needed = int(np.diff(np.searchsorted(offsets, bounds)).max())
        needed += -needed % self.config.num_replicas
        if needed > (fewest := int(np.diff(bounds).min())):
            raise self._too_few(fewest, needed)
        return needed

    def _cut(self, graphs: Ints, steps: int | None = None, micro_batches: int | None = None) -> Batches:
        micro_batches = micro_batches or self.micro_batches
        bounds, (order, offsets) = self._ordered(graphs, steps or self.steps)
        firsts = np.searchsorted(offsets, bounds)
        parts = [
            split(offsets[begin : end + 1], micro_batches)[:-1]
            for begin, end in zip(firsts[:-1].tolist(), firsts[1:].tolist(), strict=True)
        ]
        return order, np.concatenate([*parts, [len(graphs)]])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_first": None}


class RestOfSteps:
    """Plans what is left of an epoch of steps.

    Args:
        planner: Plans whole epochs.
        first: The step that comes next, or in whose middle the epoch stands.
        partial: What is left of it, None where nothing of it was trained on.
    """

    def __init__(self, planner: StepPlanner, first: int, partial: Ints | None) -> None:
        self._planner, self._first, self._partial = planner, first, partial
        self.names, self.oversized = planner.names, planner.oversized

    def __len__(self) -> int:
        whole = self._planner.steps - self._first
        if self._partial is None:
            return whole * self._planner.micro_batches
        batches = len(self._planner.pack_partial(self._partial)[1]) - 1
        return batches + (whole - 1) * self._planner.micro_batches

    def plan(self, epoch: int) -> Plan:
        """Plan what is left."""
        return self._planner.plan(epoch, self._first, self._partial)


def _alone(items: Items, over: npt.NDArray[np.bool_]) -> Items:
    """Return items of which those over a maximum fill a batch, so that nothing stands beside them."""
    values = tuple(
        column if maximum is None else np.minimum(column, maximum)
        for column, maximum in zip(items.values, items.maxima, strict=True)
    )
    # A column of its own, since a graph may be of size zero in all others.
    return Items((*values, np.where(over, len(over), 1)), (*items.maxima, len(over)), items.max_graphs)
