"""One run of the study: its settings and its measurements."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Setup:
    """Settings of a run. The two runs of a pair differ in one field.

    Attributes:
        folder: Folder with the prepared crystals, graphs and texts.
        device: "cpu" or "cuda:N".
        batch_size: Graphs per batch.
        pin_memory: Of the `DataLoader`.
        num_workers: Of the `DataLoader`.
        prefetch_factor: Of the `DataLoader`.
        graphs: "cached" (all of them by `dgl.load_graphs`, at the start) or "built" (each on access).
        text: "cached" (encodings in host memory), "encoded" (in the step, by an encoder on the device) or "on device"
            (the cache is copied to the device).
        threads: Threads of this process that prefetch batches, instead of worker processes.
        collate: Where the collate function puts a batch: "host" or "device".
        repeat: Number of this run among runs with the same settings.
    """

    folder: str
    device: str
    batch_size: int
    pin_memory: bool = False
    num_workers: int = 0
    prefetch_factor: int = 2
    graphs: str = "cached"
    text: str = "cached"
    threads: int = 0
    collate: str = "host"
    repeat: int = 0

    @property
    def ahead(self) -> int:
        """Number of prefetched batches."""
        return (self.num_workers or self.threads) * self.prefetch_factor


@dataclass(frozen=True)
class Outcome:
    """Memory of a run, bytes.

    Attributes:
        device: Peak of live memory over its steps; on the CPU the traced tensors of a step.
        reserved: Peak of memory that PyTorch's allocator reserved on the device; None on the CPU.
        host: Memory of its processes between two steps, when all prefetched batches are ready; see
            `data_loading.host`. On the CPU without the model, which a GPU would hold.
        pss: Proportional set size, the sum over its processes, libraries included.
        uss: Unique set size, the sum over its processes.
        in_flight: Part of `host`: shared memory of batches in transit from workers, missing in PSS.
        processes: Number of processes.
        batch: Tensors of a mean batch, on the host.
        pinned: Pinned host memory that PyTorch holds, in blocks of powers of two.
        pinned_graph: Pinned memory that `pin_memory` adds for a batched DGL graph.
        graphs: Tensors of all graphs of the graph cache.
        graph_devices: Devices of these tensors.
        text: Encodings of all texts.
        warnings: Warnings of PyTorch.
    """

    device: int
    reserved: int | None
    host: int
    pss: int
    uss: int
    in_flight: int
    processes: int
    batch: int
    pinned: int
    pinned_graph: int
    graphs: int
    graph_devices: tuple[str, ...]
    text: int
    warnings: tuple[str, ...] = field(default=())

    @classmethod
    def read(cls, path: Path) -> Outcome:
        """Read an outcome from a JSON file."""
        values = json.loads(path.read_text(encoding="utf-8"))
        lists: dict[str, Any] = {name: tuple(values[name]) for name in ("graph_devices", "warnings")}
        return cls(**{**values, **lists})

    def write(self, path: Path) -> None:
        """Write the outcome to a JSON file."""
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")
