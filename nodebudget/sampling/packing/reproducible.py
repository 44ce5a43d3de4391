"""Random numbers and orders that are the same with every version of numpy and on every processor.

numpy keeps the raw words of `PCG64` and `SeedSequence` the same in all versions (NEP 19), but neither what `Generator`
makes of them nor the order in which an unstable sort leaves equal values, which changes with the processor.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.integer[Any]]
Words = npt.NDArray[np.uint64]

_LOW_HALF = np.uint64(2**32 - 1)


class RandomStream:
    """Random numbers made of the raw words of PCG64.

    The methods give what the like methods of `numpy.random.default_rng(key)` give in numpy 1.17 to 2.5, by which
    nodebudget planned before: plans stay what they were, and states of samplers can be loaded.

    Args:
        key: Whole numbers, 0 or more: the seed.
    """

    def __init__(self, *key: int) -> None:
        self._bits = np.random.PCG64(np.random.SeedSequence(key))
        #: Words that were drawn but not used, and the upper half of one whose lower half was.
        self._ahead: Words = np.empty(0, dtype=np.uint64)
        self._half: Ints = np.empty(0, dtype=np.int64)

    def words(self, count: int) -> Words:
        """Return random 64-bit words, shape (count,)."""
        taken, self._ahead = self._ahead[:count], self._ahead[count:]
        drawn = np.asarray(self._bits.random_raw(count - len(taken)), dtype=np.uint64)
        return np.concatenate([taken, drawn]) if len(taken) else drawn

    def coins(self, count: int) -> npt.NDArray[np.bool_]:
        """Return True or False, with equal probability, shape (count,)."""
        return self.words(count) < np.uint64(2**63)

    def below(self, bound: int) -> int:
        """Return a whole number from 0 to `bound` - 1, below 2^32 (Lemire, ACM TOMACS 29, 2019)."""
        while bound > 1:
            halves = self._half if len(self._half) else _halves(self.words(1))
            self._half = halves[1:]
            product = int(halves[0]) * bound
            if product % 2**32 >= 2**32 % bound:
                return product >> 32
        return 0

    def permutation(self, count: int) -> npt.NDArray[np.int64]:
        """Return 0, 1, … in random order, shape (count,): Fisher and Yates' shuffle, from the end."""
        order, top = list(range(count)), count - 1
        halves, words = self._half, self._ahead[:0]
        while top > 0:
            # Draw from 0 to i for i = top, top - 1, …: the lowest bits of 32 random ones, rejected where over i.
            mask = (1 << top.bit_length()) - 1
            needed = top - mask // 2
            if len(halves) < 2 * needed + 64:
                drawn = self.words(top + 64)
                halves, words = np.concatenate([halves, _halves(drawn)]), np.concatenate([words, drawn])
            candidates = halves[: 2 * needed + 64] & mask
            accepted = candidates <= top
            # i falls with each number that is accepted. What is right up to a place is right after it the next time.
            while not np.array_equal(accepted, again := candidates <= top - np.cumsum(accepted) + accepted):
                accepted = again
            chosen = np.flatnonzero(accepted)[:needed]
            for i, j in zip(range(top, 0, -1), candidates[chosen].tolist(), strict=False):
                order[i], order[j] = order[j], order[i]
            top -= len(chosen)
            halves = halves[chosen[-1] + 1 if len(chosen) == needed else len(candidates) :]
        unused = len(halves) // 2
        self._half, self._ahead = halves[: len(halves) % 2], np.concatenate([words[len(words) - unused :], self._ahead])
        return np.array(order, dtype=np.int64)


def _halves(words: Words) -> Ints:
    """Return the lower and the upper 32 bits of each word, shape (2 × words,)."""
    return np.stack([words & _LOW_HALF, words >> np.uint64(32)], axis=1).astype(np.int64).ravel()


def shuffled(graphs: int, stream: RandomStream) -> Ints:
    """Return a random order of so many graphs.

    Sorts random keys that carry the graph in their low bits: several times as fast as a permutation, whose
    every step misses the cache.
    """
    if not graphs:
        return np.arange(0, dtype=np.int32)
    low = np.uint64((1 << (graphs - 1).bit_length()) - 1)
    keys = stream.words(graphs)
    keys &= ~low
    keys |= np.arange(graphs, dtype=np.uint64)
    keys.sort()
    keys &= low
    return keys.astype(index_type(graphs))


def rotating(graphs: int, count: int, seed: int, epoch: int) -> Ints:
    """Choose some of so many graphs, others in every epoch until each has had its turn; shape (count,)."""
    # The key differs from those of epochs, which have two or three numbers.
    order = shuffled(graphs, RandomStream(seed, 0, 0, 1))
    return order[(epoch * count + np.arange(count)) % graphs]


def shuffled_rows(rows: Ints, stream: RandomStream) -> Ints:
    """Return each row in a random order of its own, shape (rows, columns)."""
    order = np.argsort(stream.words(rows.size).reshape(rows.shape), axis=1, kind="stable")
    return np.take_along_axis(rows, order, axis=1)


def index_type(graphs: int) -> type[np.int32] | type[np.int64]:
    """Return the smallest type that holds the graphs' numbers, since memory traffic is most of the time."""
    return np.int32 if graphs < 2**31 else np.int64


def stable_argsort(values: Ints) -> Ints:
    """Return the order that sorts whole numbers, equal ones as they stand, shape (values,).

    Sorts numbers that carry their place in their low bits, which is several times as fast as a stable sort.
    """
    bits, least = max(len(values) - 1, 0).bit_length(), int(values.min(initial=0))
    if (int(values.max(initial=0)) - least).bit_length() + bits > 63:
        return np.argsort(values, kind="stable")
    keys = (values.astype(np.int64) - least << bits) | np.arange(len(values))
    keys.sort()
    return keys & ((1 << bits) - 1)
