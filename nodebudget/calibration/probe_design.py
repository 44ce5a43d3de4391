"""Which batches to probe: chosen so that the sizes vary as independently as the dataset allows."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from nodebudget.datasets.size_table import SizeTable
from nodebudget.errors import InputError

Indices = npt.NDArray[np.intp]

_CANDIDATES = 600  #: Candidate batches among which the probes are chosen.

#: Minimum weight of a candidate, as a share of the heaviest: small steps peak in another phase (the optimizer, for
#: example) and would bend the line of the large steps, which are those that run out of memory.
_MIN_SHARE = 1 / 8

#: Maximum weight of a candidate, in mean batches of `max_graphs`: the line holds beyond the probes, and probes of only
#: the largest crystals would take more time than they add information.
_MAX_SHARE = 1.5


def size_columns(sizes: SizeTable) -> tuple[str, ...]:
    """Return the columns that a fit can use: `graphs`, and those of the table that are not all zero."""
    return ("graphs", *(name for name in sizes.columns if sizes[name].any()))


def choose_fit_batches(sizes: SizeTable, count: int, max_graphs: int, rng: np.random.Generator) -> list[Indices]:
    """Choose `count` batches to fit to, as positions in the dataset, by greedy D-optimality.

    Candidates have 1 to `max_graphs` graphs, drawn from the whole dataset and from its ends by size and by the ratios
    of sizes. Each choice is the candidate with the largest variance of prediction, given those already chosen (V. V.
    Fedorov, Theory of Optimal Experiments, 1972, on sequential D-optimal designs).
    """
    if not len(sizes):
        raise InputError("the dataset has no crystals", hint="give one that has")
    candidates = _within_weight(sizes, _of_two_nodes(sizes, _candidates(sizes, max_graphs, rng)), max_graphs)
    names = size_columns(sizes)
    totals = [sizes.totals(batch) for batch in candidates]
    rows = np.array([[1.0, *(total[name] for name in names)] for total in totals])
    rows = rows / rows.mean(axis=0)
    # Errors count relative to the bytes of a batch, so each row is scaled to the weight that the fit gives it.
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return [candidates[place] for place in _greedy(rows, count)]


def choose_holdout_batches(sizes: SizeTable, count: int, max_graphs: int, rng: np.random.Generator) -> list[Indices]:
    """Draw batches to check on: shuffled ones, as in training, of `max_graphs` / 8 to `max_graphs` graphs."""
    # Not single graphs, which may be lighter than any batch of the training.
    counts = np.geomspace(min(max(2, max_graphs / 8), max_graphs), max_graphs, count).round().astype(int)
    return [_draw(np.arange(len(sizes)), int(graphs), rng) for graphs in counts]


def weights(sizes: SizeTable) -> npt.NDArray[np.float64]:
    """Return the sum of all sizes of each graph, shape (graphs,): it grows with the bytes of the graph."""
    total = np.zeros(len(sizes))
    for values in sizes.columns.values():
        total += values
    return total


def lightest_batch(sizes: SizeTable) -> Indices:
    """Return the two graphs of the lowest weight, whose step takes what every step takes.

    Two, since batch normalization can't train on a single node, which the lightest graph may be.
    """
    return np.resize(np.argsort(weights(sizes), kind="stable")[:2], 2)


def _draw(graphs: Indices, count: int, rng: np.random.Generator) -> Indices:
    # A small dataset is drawn from with repetition, so that larger batches are measured too.
    return rng.choice(graphs, size=count, replace=count > len(graphs))


def _candidates(sizes: SizeTable, max_graphs: int, rng: np.random.Generator) -> list[Indices]:
    orders = _orders(sizes)
    drawn = []
    for _ in range(_CANDIDATES):
        graphs = int(np.exp(rng.uniform(0, np.log(max_graphs + 0.5))))
        order = orders[int(rng.integers(len(orders)))]
        # The first graphs of the order: from as many as the batch has to the whole dataset.
        window = int(np.exp(rng.uniform(*np.sort([np.log(graphs), np.log(len(sizes) + 0.5)]))))
        drawn.append(_draw(order[: max(window, graphs)], graphs, rng))
    return drawn


def _of_two_nodes(sizes: SizeTable, batches: list[Indices]) -> list[Indices]:
    # Batch normalization can't train on a single node.
    nodes = sizes["nodes"]
    return [batch for batch in batches if nodes[batch].sum() > 1] or batches


def _within_weight(sizes: SizeTable, batches: Sequence[Indices], max_graphs: int) -> list[Indices]:
    graph = weights(sizes)
    batch = np.array([graph[indices].sum() for indices in batches])
    # A single graph may weigh more than all of that; the lightest candidate always remains.
    maximum = max(_MAX_SHARE * graph.mean() * max_graphs, batch.min())
    within = (batch >= _MIN_SHARE * batch[batch <= maximum].max()) & (batch <= maximum)
    return [indices for indices, is_within in zip(batches, within, strict=True) if is_within]


def _orders(sizes: SizeTable) -> list[Indices]:
    """Orders of the dataset by each column and each ratio of neighboring columns, ascending and descending."""
    names = list(sizes.columns)
    keys = [sizes[name].astype(float) for name in names]
    keys += [sizes[later] / np.maximum(sizes[earlier], 1) for earlier, later in pairwise(names)]
    ascending = [np.argsort(key, kind="stable") for key in keys]
    return [*ascending, *(order[::-1] for order in ascending)]


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
