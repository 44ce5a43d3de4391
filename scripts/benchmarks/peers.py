"""Other ways to make batches under a maximum of one size, each from its own package where that is installed.

A peer takes the size of each graph, the maximum per batch, the mean number of graphs of such a batch, and a seed, and
returns its batches. All get the same sizes, predicted bytes, also those that count nodes otherwise.
"""

from __future__ import annotations

import importlib
from bisect import bisect_left, insort
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

Batches = list[Sequence[int]]
Pack = Callable[[np.ndarray, int, int, int], Batches]


@dataclass(frozen=True)
class Peer:
    """A way to make batches.

    Attributes:
        name: Its name, and whether it is re-implemented.
        pack: (sizes, maximum, mean graphs, seed) → batches.
        max_copies: Maximum graphs × batches for which it is run: it copies a list for each batch.
    """

    name: str
    pack: Pack
    max_copies: float = float("inf")


def fixed_size(values: np.ndarray, maximum: int, mean_graphs: int, seed: int) -> Batches:
    """Cut a shuffled dataset into batches of as many graphs, as `DataLoader(batch_size=…, shuffle=True)` does."""
    order = np.random.default_rng(seed).permutation(len(values))
    return [order[start : start + mean_graphs] for start in range(0, len(order), mean_graphs)]


class _Sized:
    """What PyG's sampler reads of a graph."""

    __slots__ = ("num_nodes",)

    def __init__(self, size: int) -> None:
        self.num_nodes = size


def dynamic_batch_sampler(values: np.ndarray, maximum: int, mean_graphs: int, seed: int) -> Batches:
    """PyTorch Geometric's DynamicBatchSampler, with skip_too_big."""
    from torch_geometric.loader import DynamicBatchSampler

    torch.manual_seed(seed)
    dataset = [_Sized(size) for size in values.tolist()]
    # Its length raises, so that list() takes the iterator and not the sampler.
    return list(iter(DynamicBatchSampler(dataset, max_num=maximum, shuffle=True, skip_too_big=True)))


def size_aware(values: np.ndarray, maximum: int, mean_graphs: int, seed: int) -> Batches:
    """bionemo's SizeAwareBatchSampler on a random order."""
    from bionemo.size_aware_batching.sampler import SizeAwareBatchSampler

    sizes = values.tolist()
    order = np.random.default_rng(seed).permutation(len(sizes)).tolist()
    return list(SizeAwareBatchSampler(order, sizes.__getitem__, maximum))


def size_aware_again(values: np.ndarray, maximum: int, mean_graphs: int, seed: int) -> Batches:
    """The same rule: close a batch when the next graph does not fit, skip what never fits."""
    sizes = values.tolist()
    batches: Batches = []
    batch: list[int] = []
    left = maximum
    for graph in np.random.default_rng(seed).permutation(len(sizes)).tolist():
        if sizes[graph] > maximum:
            continue
        if sizes[graph] > left:
            batches.append(batch)
            batch, left = [], maximum
        batch.append(graph)
        left -= sizes[graph]
    return [*batches, batch] if batch else batches


def next_fit(values: np.ndarray, maximum: int, mean_graphs: int, seed: int) -> Batches:
    """Next fit on arrays, as metatrain's sampler packs: a running sum, cut where the next graph does not fit."""
    order = np.random.default_rng(seed).permutation(len(values))
    order = order[values[order] <= maximum]
    sums = np.concatenate([[0], np.cumsum(values[order])])
    batches: Batches = []
    start = 0
    while start < len(order):
        end = int(np.searchsorted(sums, sums[start] + maximum, side="right")) - 1
        batches.append(order[start:end])
        start = end
    return batches


def best_fit_decreasing(values: np.ndarray, maximum: int, mean_graphs: int, seed: int) -> Batches:
    """Largest first, each into the fullest batch that still holds it: what torch-sim's binning does, too."""
    sizes = values.tolist()
    batches: list[list[int]] = []
    opened: list[tuple[int, int]] = []  # (what is left, batch), ascending
    for graph in np.argsort(-values, kind="stable").tolist():
        size = sizes[graph]
        if size > maximum:
            continue
        place = bisect_left(opened, (size, -1))
        if place < len(opened):
            left, batch = opened.pop(place)
        else:
            left, batch = maximum, len(batches)
            batches.append([])
        batches[batch].append(graph)
        insort(opened, (left - size, batch))
    return list(batches)


def peers() -> list[Peer]:
    """Return the peers that can be run here."""
    ways = [Peer("fixed size", fixed_size)]
    if _installed("torch_geometric.loader"):
        # It copies the list of all graphs that are left for every batch.
        ways.append(Peer("PyG DynamicBatchSampler", dynamic_batch_sampler, max_copies=2e9))
    if _installed("bionemo.size_aware_batching.sampler"):
        ways.append(Peer("bionemo SizeAwareBatchSampler", size_aware))
    else:
        ways.append(Peer("bionemo's rule (re-implemented)", size_aware_again))
    ways.append(Peer("metatrain-like next fit (re-impl.)", next_fit))
    ways.append(Peer("best fit decreasing (re-impl.)", best_fit_decreasing))
    return ways


def _installed(module: str) -> bool:
    # Imported before it is timed, so that no peer pays for it where its time is taken.
    try:
        importlib.import_module(module)
    except ImportError:
        return False
    return True
