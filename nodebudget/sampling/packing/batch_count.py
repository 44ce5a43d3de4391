"""How many batches there are, and an epoch's assignment to so many."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from nodebudget.sampling.packing.balancing import Target, balance
from nodebudget.sampling.packing.batch_grid import Batches, BatchGrid, Ints
from nodebudget.sampling.packing.items import SMALL, Items
from nodebudget.sampling.packing.ordered import best_fit, split
from nodebudget.sampling.packing.random_exchanges import exchange_at_random
from nodebudget.sampling.packing.reproducible import RandomStream, index_type, shuffled

#: Best fit takes seconds per million graphs: beyond this many it is not tried where assigning at random fails.
_BEST_FIT_GRAPHS = 2_000_000


@dataclass(frozen=True, eq=False)
class BatchCount:
    """A number of batches for which an assignment within all maxima exists.

    Attributes:
        batches: How many.
        packing: A packing into so many that keeps all maxima; None where an assignment at random does.
        seed: The seed whose first epoch is such an assignment; None: that of the dataset's order is.
        first: The first epoch's assignment, so that it need not be made again.
    """

    batches: int
    packing: Batches | None = None
    seed: int | None = None
    first: BatchGrid | None = None


def count_batches(items: Items, multiple: int = 1, alone: int = 0, seed: int | None = None) -> BatchCount:
    """Find the fewest batches, nearly, to which the graphs can be assigned.

    Depends on the sizes, and in large sets on the seed, but on no epoch and no rank, so that all have as many.

    Args:
        items: None of them over a maximum.
        multiple: The number of batches, with those of `alone`, is a multiple of this. May ask for more than graphs.
        alone: Batches that are made elsewhere.
        seed: In large sets the first epoch's own assignment shows that the number suffices, which saves another one.
    """
    bound, graphs = items.lower_bound(), len(items)
    # The largest number that leaves no batch empty.
    top = graphs - (graphs + alone) % multiple

    def rounded(batches: int) -> int:
        up = batches + -(batches + alone) % multiple
        return min(up, top) if bound <= top else up

    for batches in _first_tries(bound, graphs):
        count = _try(items, rounded(batches), seed)
        if count is not None:
            return count
    fitted = _best_fit(items, multiple, alone) if graphs <= _BEST_FIT_GRAPHS else None
    for batches in _further_tries(int(bound * 1.005) + 1, fitted.batches if fitted else None, graphs):
        count = _try(items, rounded(batches), seed)
        if count is not None and (fitted is None or count.packing is None):
            return count
    return fitted or _one_each(graphs, graphs + -(graphs + alone) % multiple)


def _first_tries(bound: int, graphs: int) -> Iterator[int]:
    # Hardly ever can each of many thousand batches be filled to the last graph: a quarter of a percent is left.
    first = bound if graphs < 4 * SMALL else bound + bound // 400
    yield from range(first, int(max(bound * 1.005, bound + 1)) + 1, max(1, bound // 1000))


def _further_tries(tried: int, fitted: int | None, graphs: int) -> Iterator[int]:
    """Yield numbers above those that failed: some around one that suffices, else in ever larger steps.

    Best fit leaves a few large graphs in one batch and hundreds of small ones in another: balanced batches are worth
    up to two percent more of them.
    """
    if fitted is not None:
        step = max(1, (fitted - tried) // 3)
        yield from (*range(tried + step, fitted, step), fitted + fitted // 100, fitted + fitted // 50)
        return
    step = max(1, tried // 100)
    while tried < graphs:
        tried, step = tried + step, 2 * step
        yield tried


def _one_each(graphs: int, batches: int) -> BatchCount:
    return BatchCount(batches, (np.arange(graphs), np.arange(graphs + 1)))


def _try(items: Items, batches: int, seed: int | None) -> BatchCount | None:
    graphs = len(items)
    if batches >= graphs:
        return _one_each(graphs, batches)
    grid = _first_assignment(items, batches, seed if graphs >= SMALL else None)
    if grid is None:
        return None
    if graphs >= SMALL:
        return BatchCount(batches, seed=seed, first=None if seed is None else grid)
    # In small sets luck plays a part: the number must suffice for other shuffles as well.
    others = (assign(items, shuffled(graphs, RandomStream(other)), batches) for other in range(3))
    return BatchCount(batches) if sum(grid is not None for grid in others) >= 2 else None


def _first_assignment(items: Items, batches: int, seed: int | None) -> BatchGrid | None:
    graphs = len(items)
    if seed is None:
        return assign(items, np.arange(graphs, dtype=index_type(graphs)), batches)
    return assign(items, shuffled(graphs, RandomStream(seed, 0)), batches)


def _best_fit(items: Items, multiple: int, alone: int) -> BatchCount:
    graphs, offsets = best_fit(items)
    fewest = len(offsets) - 1
    batches = fewest + -(fewest + alone) % multiple
    return BatchCount(batches, (graphs, split(offsets, batches) if batches <= len(items) else offsets))


def assign(items: Items, order: Ints, batches: int) -> BatchGrid | None:
    """Assign all graphs, in an order, to batches and balance these; None where one stays over a maximum."""
    values, maximum = items.compact_columns[0]
    grid = BatchGrid.of_order(order, batches)
    grid.use([values])
    balance(grid, [Target(maximum)], items.max_graphs)
    if len(items.values) == 1:
        # Half the time of summing again; what fits in compact units fits in full.
        fitting = maximum is None or int(grid.loads[0].max()) <= maximum
        if fitting and int(grid.counts.max()) <= (items.max_graphs or len(items)):
            return grid
    elif not fits(items, grid):
        grid.use([values for values, _ in items.compact_columns])
        balance(grid, _targets(items, batches), items.max_graphs)
    return grid if fits(items, grid) else None


def _targets(items: Items, batches: int) -> list[Target]:
    # A column that is far from its maximum needs no balancing: what is spent on it is lost to the others.
    shares = items.shares()
    largest = max(shares) or 1.0
    weights = [(share / largest) * (share / largest) for share in shares]
    weights[0] = max(weights[0], 0.1)
    return [
        Target(maximum, float(maximum or max(int(values.sum(dtype=np.int64)) / batches, 1)), weight)
        for (values, maximum), weight in zip(items.compact_columns, weights, strict=True)
    ]


def fits(items: Items, grid: BatchGrid) -> bool:
    """Return whether every batch keeps every maximum."""
    if items.max_graphs is not None and int(grid.counts.max()) > items.max_graphs:
        return False
    return all(grid.sums(values).max() <= maximum for values, maximum in items.limited)


def assign_epoch(items: Items, count: BatchCount, stream: RandomStream | None) -> BatchGrid | None:
    """Assign an epoch's graphs; None as in `exchange_packing`. Without a stream it is the one that never changes."""
    if stream is not None and count.packing is None:
        for _ in range(20 if len(items) < SMALL else 4):
            grid = assign(items, shuffled(len(items), stream), count.batches)
            if grid is not None:
                return grid
    return exchange_packing(items, count, stream)


def exchange_packing(
    items: Items, count: BatchCount, stream: RandomStream | None, *, balanced: bool = True
) -> BatchGrid | None:
    """Make an assignment of the packing that keeps all maxima, by random exchanges that keep them too.

    For where an assignment at random ends over a maximum: a few huge graphs per batch, or maxima without slack.
    Without a stream nothing is exchanged. Returns None where the batches are too uneven for a grid: use
    `shuffle_equal_sizes` then.
    """
    if count.packing is None:
        grid = _first_assignment(items, count.batches, count.seed)
        assert grid is not None, "an assignment that kept its maxima before does not now"
    else:
        grid = BatchGrid.of_batches(*count.packing)
        if grid is None:
            return None
    grid.use(items.values)
    if stream is not None:
        exchange_at_random(grid, items.maxima, stream)
    if not balanced:
        return grid
    before = BatchGrid(grid.slots.copy(), grid.counts.copy())
    values, maximum = items.compact_columns[0]
    grid.use([values])
    balance(grid, [Target(maximum)], items.max_graphs)
    if not fits(items, grid):
        # With several maxima balancing one column may break another; then the assignment stays as it was.
        grid = before
        grid.use([values])
    return grid


def shuffle_equal_sizes(items: Items, graphs: Ints, stream: RandomStream) -> Ints:
    """Exchange graphs of equal sizes at random, which no maximum forbids; `graphs` are those of all batches."""
    before = np.lexsort(items.values)
    # As many bits as a float64 has, by which earlier versions sorted.
    after = np.lexsort((stream.words(len(items)) >> np.uint64(11), *items.values))
    substitutes = np.empty_like(before)
    substitutes[before] = after
    return np.asarray(substitutes[graphs])
