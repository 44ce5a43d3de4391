"""Which batches to probe: chosen so that the sizes vary as independently as the data allows."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from nodebudget.datasets.size_table import SizeTable
from nodebudget.errors import InputError

Indices = npt.NDArray[np.intp]

#: Candidate batches among which the probes are chosen.
_CANDIDATES = 600

#: Candidates weigh at least this share of the heaviest one: small steps peak at another moment (in the optimizer, say)
#: and would bend the line that large steps follow, which are those that run out of memory.
_SMALLEST_SHARE = 1 / 8

#: Candidates weigh at most this many mean batches of the most graphs: the line reaches further than it was probed, and
#: probes of only the largest crystals would cost more time than they tell.
_LARGEST_SHARE = 1.5


def size_columns(sizes: SizeTable) -> tuple[str, ...]:
    """Return the columns that a fit can use: `graphs`, and those of the table that are not all zero."""
    return ("graphs", *(name for name in sizes.columns if sizes[name].any()))


def choose_fit_batches(sizes: SizeTable, count: int, largest: int, rng: np.random.Generator) -> list[Indices]:
    """Choose batches to fit to, by greedy D-optimality.

    Candidates have 1 to `largest` graphs, drawn from the whole dataset and from its ends by size and by the
    ratios of sizes. Each choice is the candidate whose direction the chosen ones determine least: the one of
    the greatest variance of prediction (V. V. Fedorov, Theory of Optimal Experiments, 1972, on sequential
    D-optimal designs).

    Args:
        sizes: The dataset.
        count: How many batches.
        largest: Most graphs in a batch.
        rng: Source of chance.

    Returns:
        Arrays of positions in the dataset.

    Raises:
        InputError: The dataset is empty.
    """
    if not len(sizes):
        raise InputError("the dataset has no crystals", hint="give one that has")
    candidates = _within_weight(sizes, _of_two_nodes(sizes, _candidates(sizes, largest, rng)), largest)
    rows = _rows(sizes, candidates)
    # Errors count relative to the bytes of a batch, so each row is scaled to the weight that the fit gives it.
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return [candidates[place] for place in _greedy(rows, count)]


def choose_holdout_batches(sizes: SizeTable, count: int, largest: int, rng: np.random.Generator) -> list[Indices]:
    """Draw batches to check on: shuffled ones, as training has them, from `largest` / 8 graphs up to `largest`."""
    # Not single graphs, which may be lighter than anything that is trained on.
    counts = np.geomspace(min(max(2, largest / 8), largest), largest, count).round().astype(int)
    return [_draw(np.arange(len(sizes)), int(graphs), rng) for graphs in counts]


def _draw(graphs: Indices, many: int, rng: np.random.Generator) -> Indices:
    # From few crystals a batch takes some of them several times: only then is it known what a larger batch needs.
    return rng.choice(graphs, size=many, replace=many > len(graphs))


def _candidates(sizes: SizeTable, largest: int, rng: np.random.Generator) -> list[Indices]:
    orders = _orders(sizes)
    drawn = []
    for _ in range(_CANDIDATES):
        graphs = int(np.exp(rng.uniform(0, np.log(largest + 0.5))))
        pool = orders[int(rng.integers(len(orders)))]
        # A window at one end of the order: from just the batch's own size to the whole dataset.
        window = int(np.exp(rng.uniform(*np.sort([np.log(graphs), np.log(len(sizes) + 0.5)]))))
        drawn.append(_draw(pool[: max(window, graphs)], graphs, rng))
    return drawn


def _of_two_nodes(sizes: SizeTable, batches: list[Indices]) -> list[Indices]:
    # Batch normalisation refuses to train on a single node.
    nodes = sizes["nodes"]
    return [indices for indices in batches if nodes[indices].sum() > 1] or batches


def weights(sizes: SizeTable) -> npt.NDArray[np.float64]:
    """Return a number a graph, shape (graphs,), that grows with what it needs: all its sizes together."""
    total = np.zeros(len(sizes))
    for values in sizes.columns.values():
        total += values
    return total


def lightest_batch(sizes: SizeTable) -> Indices:
    """Return the two graphs that weigh least: what a step takes however small the batch.

    Two, since batch normalisation refuses to train on a single node, which the lightest graph may be.
    """
    return np.resize(np.argsort(weights(sizes), kind="stable")[:2], 2)


def _within_weight(sizes: SizeTable, batches: Sequence[Indices], largest: int) -> list[Indices]:
    graph = weights(sizes)
    batch = np.array([graph[indices].sum() for indices in batches])
    # A single graph may weigh more than all of that; the lightest candidate is always there.
    most = max(_LARGEST_SHARE * graph.mean() * largest, batch.min())
    top = batch[batch <= most].max()
    within = (batch >= _SMALLEST_SHARE * top) & (batch <= most)
    return [indices for indices, fits in zip(batches, within, strict=True) if fits]


def _orders(sizes: SizeTable) -> list[Indices]:
    """Orders of the dataset by each column and each ratio of neighbouring columns, both ways."""
    names = list(sizes.columns)
    keys = [sizes[name].astype(float) for name in names]
    keys += [sizes[later] / np.maximum(sizes[earlier], 1) for earlier, later in pairwise(names)]
    ascending = [np.argsort(key, kind="stable") for key in keys]
    return [*ascending, *(order[::-1] for order in ascending)]


def _rows(sizes: SizeTable, batches: Sequence[Indices]) -> npt.NDArray[np.float64]:
    names = size_columns(sizes)
    totals = [sizes.totals(batch) for batch in batches]
    rows = np.array([[1.0, *(total[name] for name in names)] for total in totals])
    return np.asarray(rows / rows.mean(axis=0), dtype=np.float64)


def _greedy(rows: npt.NDArray[np.float64], count: int) -> list[int]:
    inverse = np.eye(rows.shape[1]) * 1e6
    chosen: list[int] = []
    for _ in range(min(count, len(rows))):
        variance = np.einsum("ij,jk,ik->i", rows, inverse, rows)
        variance[chosen] = -1
        place = int(np.argmax(variance))
        chosen.append(place)
        # Sherman and Morrison's update of the inverse by one row.
        column = inverse @ rows[place]
        inverse -= np.outer(column, column) / (1 + rows[place] @ column)
    return chosen
