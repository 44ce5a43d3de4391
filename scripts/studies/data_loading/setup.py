"""One run of the experiment: what it trains with, and what was measured of it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Setup:
    """What a run trains with. Two runs of a pair differ in one field.

    Attributes:
        folder: Where the prepared crystals, graphs and texts are.
        device: "cpu" or "cuda:N".
        batch_size: Graphs a batch.
        pin_memory: Of the `DataLoader`.
        num_workers: Of the `DataLoader`.
        prefetch_factor: Of the `DataLoader`.
        graphs: "cached" (all of them by `dgl.load_graphs`, at the start) or "built" (each when it is asked for).
        text: "cached" (encodings in host memory), "encoded" (in the step, by an encoder on the device) or "on device"
            (the cache is copied to the device).
        threads: Threads of this process that make batches ahead, in place of worker processes.
        collate: Where the collate function puts a batch: "host" or "device".
        repeat: Number of this run among runs of the same settings.
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
        """Batches that are made ahead of the training loop."""
        return (self.num_workers or self.threads) * self.prefetch_factor


@dataclass(frozen=True)
class Outcome:
    """What a run took, bytes.

    Attributes:
        device: Highest live memory of its steps. On the CPU: what the step would ask of a device, traced.
        reserved: The most that PyTorch's allocator held of the device; None on the CPU.
        host: Memory of its processes between two steps, when all batches that may be made ahead are made; see
            `data_loading.host`. On the CPU without the model, which a device would hold.
        pss: Proportional set size, the sum over its processes, libraries included.
        uss: Unique set size, the sum over its processes.
        in_flight: Part of `host`: shared memory of batches on their way from workers, in no process's PSS.
        processes: How many processes it had.
        batch: Tensors of a mean batch, on the host.
        pinned: Pinned host memory that PyTorch holds, in blocks of powers of two.
        pinned_graph: What of it `pin_memory` adds for a batched DGL graph.
        graphs: Tensors of all graphs of the graph cache.
        graph_devices: Where these are.
        text: Encodings of all texts.
        warnings: What PyTorch warned of.
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
        """Read what `write` wrote."""
        values = json.loads(path.read_text(encoding="utf-8"))
        lists: dict[str, Any] = {name: tuple(values[name]) for name in ("graph_devices", "warnings")}
        return cls(**{**values, **lists})

    def write(self, path: Path) -> None:
        """Write it as JSON."""
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")
