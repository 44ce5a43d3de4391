"""How many batches there are, and an epoch's deal into so many."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nodebudget.sampling.packing.balancing import level, mix
from nodebudget.sampling.packing.batch_grid import BatchGrid
from nodebudget.sampling.packing.items import SMALL, Items
from nodebudget.sampling.packing.ordered import best_fit, split

Ints = npt.NDArray[np.integer[Any]]

#: Best fit takes seconds a million graphs: beyond this it is not tried where dealing fails.
_BEST_FIT_GRAPHS = 2_000_000


@dataclass(frozen=True, eq=False)
class BatchCount:
    """A number of batches that is known to do.

    Attributes:
        batches: How many.
        known: A packing into so many that keeps all caps, as graphs and starts; None where a deal is one.
        seed: The deal that keeps all caps is that of the first epoch with this seed; None: of the dataset's order.
        first: That deal, where it is the first epoch's, to be had without dealing again.
    """

    batches: int
    known: tuple[Ints, npt.NDArray[np.int64]] | None = None
    seed: int | None = None
    first: BatchGrid | None = None


def settle(items: Items, multiple: int = 1, beside: int = 0, seed: int | None = None) -> BatchCount:
    """Find the fewest batches, nearly, into which the graphs can be dealt.

    Depends on the sizes, and in large sets on the seed, but on no epoch and no rank, so that all have as many.

    Args:
        items: None of them over a cap.
        multiple: The number of batches, with those `beside`, is a multiple of this.
        beside: Batches that are made elsewhere.
        seed: In large sets the first epoch's own deal shows that the number does, which saves another one.

    Returns:
        The number, which may be larger than the number of graphs where the multiple asks for it.
    """
    bound, graphs = items.lower_bound(), len(items)
    for wanted in _first_tries(bound, graphs):
        found = _settled_at(items, wanted + -(wanted + beside) % multiple, seed)
        if found is not None:
            return found
    best = _best(items, multiple, beside) if graphs <= _BEST_FIT_GRAPHS else None
    for wanted in _further_tries(int(bound * 1.005) + 1, best.batches if best else None, graphs):
        found = _settled_at(items, wanted + -(wanted + beside) % multiple, seed)
        if found is not None and (best is None or found.known is None):
            return found
    return best or _each_alone(graphs, graphs + -(graphs + beside) % multiple)


def _first_tries(bound: int, graphs: int) -> Iterator[int]:
    # Of many thousand batches a deal hardly ever fills each one to the last graph: a quarter of a percent is left.
    first = bound if graphs < 4 * SMALL else bound + bound // 400
    yield from range(first, int(max(bound * 1.005, bound + 1)) + 1, max(1, bound // 1000))


def _further_tries(done: int, best: int | None, graphs: int) -> Iterator[int]:
    """Numbers above those that did not do: some around one that does, else ever larger steps.

    Best fit leaves a few large graphs in one batch and hundreds of small ones in another: even batches are worth
    up to two percent more of them.
    """
    if best is not None:
        step = max(1, (best - done) // 3)
        yield from (*range(done + step, best, step), best + best // 100, best + best // 50)
        return
    step = max(1, done // 100)
    while done < graphs:
        done, step = done + step, 2 * step
        yield done


def _each_alone(graphs: int, batches: int) -> BatchCount:
    return BatchCount(batches, (np.arange(graphs), np.arange(graphs + 1)))


def _settled_at(items: Items, batches: int, seed: int | None) -> BatchCount | None:
    graphs = len(items)
    if batches >= graphs:
        return _each_alone(graphs, batches)
    deal = _proof(items, batches, seed if graphs >= SMALL else None)
    if deal is None:
        return None
    if graphs >= SMALL:
        return BatchCount(batches, seed=seed, first=None if seed is None else deal)
    return BatchCount(batches) if _holds_for_others(items, batches) else None


def _best(items: Items, multiple: int, beside: int) -> BatchCount:
    graphs, offsets = best_fit(items)
    found = len(offsets) - 1
    wanted = found + -(found + beside) % multiple
    return BatchCount(wanted, (graphs, split(offsets, wanted) if wanted <= len(items) else offsets))


def _proof(items: Items, batches: int, seed: int | None) -> BatchGrid | None:
    if seed is None:
        return deal_out(items, order_of(len(items)), batches)
    return deal_out(items, shuffled(len(items), epoch_rng(seed, 0)), batches)


def _holds_for_others(items: Items, batches: int) -> bool:
    # In small sets luck plays a part: the number must do for other shuffles as well.
    orders = (shuffled(len(items), np.random.default_rng(seed)) for seed in range(3))
    return sum(deal_out(items, order, batches) is not None for order in orders) >= 2


def epoch_rng(seed: int, epoch: int) -> np.random.Generator:
    """Return where an epoch's shuffle comes from."""
    return np.random.default_rng([seed, epoch])


def order_of(graphs: int) -> Ints:
    """Return 0, 1, … as the smallest type that holds them, since memory traffic is most of the time."""
    return np.arange(graphs, dtype=np.int32 if graphs < 2**31 else np.int64)


def shuffled(graphs: int, rng: np.random.Generator) -> Ints:
    """Return a random order of so many graphs.

    Sorts random keys that carry the graph in their low bits: several times as fast as a permutation, whose
    every step misses the cache.
    """
    if not graphs:
        return order_of(0)
    low = np.uint64((1 << (graphs - 1).bit_length()) - 1)
    keys = rng.integers(0, 2**64, graphs, dtype=np.uint64)
    keys &= ~low
    keys |= np.arange(graphs, dtype=np.uint64)
    keys.sort()
    keys &= low
    return keys.astype(order_of(0).dtype if graphs < 2**31 else np.int64)


def deal_out(items: Items, order: Ints, batches: int) -> BatchGrid | None:
    """Assign graphs in an order and level the batches.

    Args:
        items: What is dealt.
        order: All graphs, shape (graphs,).
        batches: Into how many batches.

    Returns:
        The deal, or None where it ends over a cap.
    """
    values, cap = items.lean
    deal = BatchGrid(order, [values], batches)
    limit = float("inf") if cap is None else cap
    level(deal, [limit], [1.0], items.most)
    if int(deal.counts.max()) <= (items.most or len(items)) and deal.loads[0].max() <= limit and len(items.values) == 1:
        return deal
    if len(items.values) > 1 and not fits(items, deal):
        deal.use(_as_parts(items, batches))
        level(deal, [float("inf") if c is None else 1.0 for c in items.caps], _weights(items), items.most)
    return deal if fits(items, deal) else None


def fits(items: Items, deal: BatchGrid) -> bool:
    """Tell, in whole numbers, whether every batch keeps every cap."""
    if items.most is not None and int(deal.counts.max()) > items.most:
        return False
    return all(deal.sums(values).max() <= cap for values, cap in items.capped)


def _as_parts(items: Items, batches: int) -> list[npt.NDArray[np.float64]]:
    """Return all columns as parts of their cap."""
    scales = [c or max(int(v.sum()) / batches, 1) for v, c in zip(items.values, items.caps, strict=True)]
    return [values / scale for values, scale in zip(items.values, scales, strict=True)]


def _weights(items: Items) -> list[float]:
    # A cap that is far from full needs no levelling, and what is spent on it is lost to the others.
    shares = items.shares()
    top = max(shares) or 1.0
    found = [(share / top) ** 2 for share in shares]
    found[0] = max(found[0], 0.1)
    return found


def mixed(items: Items, settled: BatchCount, rng: np.random.Generator | None, *, even: bool = True) -> BatchGrid | None:
    """Make a deal from the packing that is known to keep all caps, by random exchanges that keep them too.

    For where dealing at random ends over a cap: a few huge graphs a batch, or caps that leave no room.

    Args:
        items: As settled for.
        settled: What `settle` found.
        rng: Where randomness comes from; None for no exchanges.
        even: Level the batches afterwards.

    Returns:
        The deal, or None where the batches are too uneven for one: then `shuffle_equal_sizes` is what can be done.
    """
    if settled.known is None:
        proof = _proof(items, settled.batches, settled.seed)
        assert proof is not None, "a deal that kept its caps before does not now"
        deal = proof
    else:
        found = BatchGrid.of_batches(*settled.known)
        if found is None:
            return None
        deal = found
    deal.use(list(items.values))
    if rng is not None:
        mix(deal, [float("inf") if cap is None else cap for cap in items.caps], rng)
    return _levelled(items, deal) if even else deal


def _levelled(items: Items, deal: BatchGrid) -> BatchGrid:
    before = deal.copy()
    deal.values, deal.loads = deal.values[:1], deal.loads[:1]
    cap = items.caps[0]
    level(deal, [float("inf") if cap is None else cap], [1.0], items.most)
    # With several caps levelling one may break another; then the deal stays as it was.
    return deal if fits(items, deal) else before


def deal_epoch(items: Items, settled: BatchCount, rng: np.random.Generator | None) -> BatchGrid | None:
    """Assign an epoch into the settled number of batches.

    Args:
        items: As settled for.
        settled: What `settle` found.
        rng: Where randomness comes from; None for the one deal that never changes.

    Returns:
        The deal; None as in `mixed`.
    """
    if rng is None or settled.known is not None:
        return mixed(items, settled, rng)
    for _ in range(20 if len(items) < SMALL else 4):
        deal = deal_out(items, shuffled(len(items), rng), settled.batches)
        if deal is not None:
            return deal
    return mixed(items, settled, rng)


def shuffle_equal_sizes(items: Items, graphs: Ints, rng: np.random.Generator) -> Ints:
    """Exchange graphs of the very same sizes at random, which no cap can mind.

    Args:
        items: The sizes.
        graphs: The graphs batch by batch, shape (graphs,).
        rng: Where randomness comes from.

    Returns:
        Graphs in their places, shape (graphs,).
    """
    before = np.lexsort(items.values)
    after = np.lexsort((rng.random(len(items)), *items.values))
    stand_in = np.empty_like(before)
    stand_in[before] = after
    return np.asarray(stand_in[graphs])
