"""Samples, batches, and the loader that prefetches them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from data_loading.prepare import CRYSTALS, ENCODINGS, GRAPHS, TOKENS, graphs_of
from data_loading.setup import Setup
from data_loading.text import pad
from nodebudget.utils.optional_imports import load_dgl

#: A batch: tensors by name, and the indices of its texts in the cache.
Batch = dict[str, Any]


class Samples(Dataset[Any]):
    """A dataset of (graph, line graph, text, label), with the caches of the setup.

    Attributes:
        graphs: The graph cache, graphs and line graphs alternating; empty without a cache.
        encodings: The cache of encodings, shape (tokens, 768) per text; empty without a cache.
        vocabulary: Number of distinct tokens.
    """

    def __init__(self, setup: Setup) -> None:
        folder = Path(setup.folder)
        read = json.loads((folder / TOKENS).read_text(encoding="utf-8"))
        self._tokens, self.vocabulary = read["tokens"], int(read["vocabulary"])
        self._crystals = json.loads((folder / CRYSTALS).read_text(encoding="utf-8"))
        self.graphs: list[Any] = []
        self.encodings: list[Tensor] = []
        self._text = setup.text
        # Load the code that builds graphs in every run, so that the runs of a pair do not differ in it.
        graphs_of(self._crystals[0])
        if setup.graphs == "cached":
            self.graphs = load_dgl().load_graphs(str(folder / GRAPHS))[0]
        if setup.text != "encoded":
            self.encodings = torch.load(folder / ENCODINGS, weights_only=True)
        if setup.text == "on device":
            self.encodings = [encoding.to(setup.device) for encoding in self.encodings]

    def __len__(self) -> int:
        return len(self._tokens)

    def __getitem__(self, index: int) -> tuple[Any, Any, Any, float]:
        crystal = self._crystals[index]
        graph, line_graph = self.graphs[2 * index : 2 * index + 2] if self.graphs else graphs_of(crystal)
        text = {"encoded": self._tokens[index], "on device": index}.get(self._text)
        label = crystal.get("target", 0.0)
        label = float(label) if isinstance(label, (int, float)) else 0.0
        return graph, line_graph, self.encodings[index] if text is None else text, label


class Collate:
    """A collate function that returns plain tensors.

    Not DGL's batched graphs: `pin_memory` pins only tensors, and every device supports them.

    Args:
        device: Where the collate function moves the batch; None leaves it on the host.
        encodings: The cache on the device, if there is one.
    """

    def __init__(self, device: str | None, encodings: Sequence[Tensor] = ()) -> None:
        self._device, self._encodings = device, encodings

    def __call__(self, samples: Sequence[tuple[Any, Any, Any, float]]) -> Batch:
        """Join samples."""
        dgl = load_dgl()
        graphs, line_graphs, texts, labels = zip(*samples, strict=True)
        graph, line_graph = dgl.batch(graphs), dgl.batch(line_graphs)
        batch: Batch = {
            "atoms": graph.ndata["atom_features"],
            "bonds": graph.edata["r"],
            "angles": line_graph.edata["h"],
            "target": graph.edges()[1],
            "line_source": line_graph.edges()[0],
            "line_target": line_graph.edges()[1],
            "graph_of": torch.repeat_interleave(graph.batch_num_nodes()),
            "labels": torch.tensor(labels),
            **_texts(texts, self._encodings),
        }
        if self._device is None:
            return batch
        return {name: value.to(self._device) if isinstance(value, Tensor) else value for name, value in batch.items()}


def _texts(texts: Sequence[Any], encodings: Sequence[Tensor]) -> Batch:
    """Pad the texts of a batch: tokens, encodings, or (for a cache on the device) the indices of encodings."""
    if isinstance(texts[0], int):
        lengths = [len(encodings[place]) for place in texts]
        return {"places": list(texts), "present": _present(lengths)}
    name, rows = ("encodings", texts) if isinstance(texts[0], Tensor) else ("tokens", [torch.tensor(t) for t in texts])
    return {name: pad(rows), "present": _present([len(row) for row in rows])}


def _present(lengths: Sequence[int]) -> Tensor:
    return pad(torch.ones(length) for length in lengths)


def nbytes(batch: Batch) -> int:
    """Return the bytes of a batch's tensors."""
    return sum(value.nbytes for value in batch.values() if isinstance(value, Tensor))


def batches_of(samples: int, batch_size: int) -> list[list[int]]:
    """Cut a dataset into batches, in its order."""
    return [list(range(first, min(first + batch_size, samples))) for first in range(0, samples, batch_size)]


def open_loader(samples: Samples, setup: Setup, batches: int) -> Iterable[Batch]:
    """Return a loader of this many batches: the dataset repeated, always in the same order."""
    once = batches_of(len(samples), setup.batch_size)
    order = [once[place % len(once)] for place in range(batches)]
    collate = Collate(setup.device if setup.collate == "device" else None, samples.encodings)
    if setup.threads:
        return _ahead(samples, order, collate, setup)
    return DataLoader(
        samples,
        batch_sampler=order,
        collate_fn=collate,
        pin_memory=setup.pin_memory,
        num_workers=setup.num_workers,
        prefetch_factor=setup.prefetch_factor if setup.num_workers else None,
    )


def _ahead(samples: Samples, order: Sequence[list[int]], collate: Collate, setup: Setup) -> Iterator[Batch]:
    """Prefetch batches in threads, so that tensors that a collate function puts on the device stay in this process."""

    def make(chosen: list[int]) -> Batch:
        return collate([samples[index] for index in chosen])

    todo = iter(order)
    with ThreadPoolExecutor(setup.threads) as pool:
        waiting: list[Future[Batch]] = [pool.submit(make, chosen) for chosen in islice(todo, setup.ahead)]
        while waiting:
            batch = waiting.pop(0).result()
            waiting.extend(pool.submit(make, chosen) for chosen in islice(todo, 1))
            wait(waiting)  # each step is measured with all prefetched batches in memory
            yield batch
