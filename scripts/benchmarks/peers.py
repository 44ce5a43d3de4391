"""Other ways to make batches under a cap on one size, each from its own package where that is installed.

A peer takes the size of each graph, the cap, the mean number of graphs that the cap stands for, and a seed, and returns
its batches. All get the same sizes, predicted bytes, also those that count nodes by themselves.
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
        name: What it is, and whether it is the real thing.
        pack: (sizes, cap, mean graphs, seed) → batches.
        most: Most element copies that it may take: graphs × batches. Beyond, it is not run.
    """

    name: str
    pack: Pack
    most: float = float("inf")


def fixed_size(values: np.ndarray, cap: int, mean_graphs: int, seed: int) -> Batches:
    """Cut a shuffled dataset into batches of as many graphs, as `DataLoader(batch_size=…, shuffle=True)` does."""
    order = np.random.default_rng(seed).permutation(len(values))
    return [order[start : start + mean_graphs] for start in range(0, len(order), mean_graphs)]


class _Sized:
    """What PyG's sampler reads of a graph."""

    __slots__ = ("num_nodes",)

    def __init__(self, size: int) -> None:
        self.num_nodes = size


def dynamic_batch_sampler(values: np.ndarray, cap: int, mean_graphs: int, seed: int) -> Batches:
    """PyTorch Geometric's DynamicBatchSampler, told to skip what is over the cap."""
    from torch_geometric.loader import DynamicBatchSampler

    torch.manual_seed(seed)
    dataset = [_Sized(size) for size in values.tolist()]
    # Its length raises, so that list() takes the iterator and not the sampler.
    return list(iter(DynamicBatchSampler(dataset, max_num=cap, shuffle=True, skip_too_big=True)))


def size_aware(values: np.ndarray, cap: int, mean_graphs: int, seed: int) -> Batches:
    """bionemo's SizeAwareBatchSampler on a random order."""
    from bionemo.size_aware_batching.sampler import SizeAwareBatchSampler

    sizes = values.tolist()
    order = np.random.default_rng(seed).permutation(len(sizes)).tolist()
    return list(SizeAwareBatchSampler(order, sizes.__getitem__, cap))


def size_aware_again(values: np.ndarray, cap: int, mean_graphs: int, seed: int) -> Batches:
    """The same rule: close a batch when the next graph does not fit, skip what never fits."""
    sizes = values.tolist()
    batches: Batches = []
    batch: list[int] = []
    room = cap
    for graph in np.random.default_rng(seed).permutation(len(sizes)).tolist():
        if sizes[graph] > cap:
            continue
        if sizes[graph] > room:
            batches.append(batch)
            batch, room = [], cap
        batch.append(graph)
        room -= sizes[graph]
    return [*batches, batch] if batch else batches


def next_fit(values: np.ndarray, cap: int, mean_graphs: int, seed: int) -> Batches:
    """Next fit on arrays, as metatrain's sampler packs: a running sum, cut where the next graph does not fit."""
    order = np.random.default_rng(seed).permutation(len(values))
    order = order[values[order] <= cap]
    sums = np.concatenate([[0], np.cumsum(values[order])])
    batches: Batches = []
    start = 0
    while start < len(order):
        end = int(np.searchsorted(sums, sums[start] + cap, side="right")) - 1
        batches.append(order[start:end])
        start = end
    return batches


def best_fit_decreasing(values: np.ndarray, cap: int, mean_graphs: int, seed: int) -> Batches:
    """Largest first, each into the fullest batch that still holds it: what torch-sim's binning does, too."""
    sizes = values.tolist()
    batches: list[list[int]] = []
    rooms: list[tuple[int, int]] = []  # (what is left, batch), ascending
    for graph in np.argsort(-values, kind="stable").tolist():
        size = sizes[graph]
        if size > cap:
            continue
        found = bisect_left(rooms, (size, -1))
        if found < len(rooms):
            room, batch = rooms.pop(found)
        else:
            room, batch = cap, len(batches)
            batches.append([])
        batches[batch].append(graph)
        insort(rooms, (room - size, batch))
    return list(batches)


def peers() -> list[Peer]:
    """Return the peers that can be run here."""
    found = [Peer("fixed size", fixed_size)]
    if _installed("torch_geometric.loader"):
        # It copies the list of all graphs that are left for every batch.
        found.append(Peer("PyG DynamicBatchSampler", dynamic_batch_sampler, most=2e9))
    if _installed("bionemo.size_aware_batching.sampler"):
        found.append(Peer("bionemo SizeAwareBatchSampler", size_aware))
    else:
        found.append(Peer("bionemo's rule (re-implemented)", size_aware_again))
    found.append(Peer("metatrain-like next fit (re-impl.)", next_fit))
    found.append(Peer("best fit decreasing (re-impl.)", best_fit_decreasing))
    return found


def _installed(module: str) -> bool:
    # Imported here and now, so that no peer pays for it where its time is taken.
    try:
        importlib.import_module(module)
    except ImportError:
        return False
    return True
