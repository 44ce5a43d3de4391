"""One run of the study, in its own process: python -m data_loading.train SETUP OUTCOME."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data._utils.pin_memory import pin_memory

from data_loading.host import HostMemory, stable_memory
from data_loading.loading import Batch, Collate, Samples, batches_of, nbytes, open_loader
from data_loading.network import Trainer
from data_loading.setup import Outcome, Setup
from nodebudget.profiling.open import open_probe
from nodebudget.profiling.probe import Peak, Probe
from nodebudget.utils.optional_imports import load_dgl
from nodebudget.workloads.protocol import resident_bytes

#: Steps before the measured ones, and measured ones.
_WARM_UP, _MEASURED = 2, 3


def run(setup: Setup) -> Outcome:
    """Train some steps and measure their memory."""
    probe = open_probe(setup.device)
    samples = Samples(setup)
    trainer = Trainer(setup, samples)
    batches = _WARM_UP + _MEASURED + setup.ahead + 1
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        loader = iter(open_loader(samples, setup, batches))
        peaks, last = _steps(loader, trainer, probe)
        # Between two steps, with the last batch still in memory: the state at the start of the next step.
        host = stable_memory()
        del last
    return _outcome(setup, samples, trainer, peaks, host, [str(entry.message) for entry in caught])


def _steps(loader: Iterator[Batch], trainer: Trainer, probe: Probe) -> tuple[list[Peak], Batch]:
    for batch in islice(loader, _WARM_UP):
        _step(trainer, probe, batch)
    peaks = []
    for batch in islice(loader, _MEASURED):
        peaks.append(_step(trainer, probe, batch))
    return peaks, batch


def _step(trainer: Trainer, probe: Probe, batch: Batch) -> Peak:
    return probe.measure(lambda: trainer.step(trainer.batch(batch)))


def _outcome(
    setup: Setup,
    samples: Samples,
    trainer: Trainer,
    peaks: list[Peak],
    host: HostMemory,
    messages: list[str],
) -> Outcome:
    # On the CPU, host memory includes the model, which a GPU would hold.
    model = resident_bytes(trainer)
    of_model = model if setup.device == "cpu" else 0
    reserved = [peak.reserved for peak in peaks if peak.reserved is not None]
    return Outcome(
        device=max((model if peak.resident is None else peak.resident) + peak.requested for peak in peaks),
        reserved=max(reserved, default=None),
        host=host.total - of_model,
        pss=host.pss,
        uss=host.uss,
        in_flight=host.in_flight,
        processes=host.processes,
        batch=_mean_batch(samples, setup),
        pinned=pinned_bytes(),
        pinned_graph=_pinned_graph(samples) if setup.pin_memory else 0,
        graphs=sum(_graph_bytes(graph) for graph in samples.graphs),
        graph_devices=tuple(sorted({str(graph.device) for graph in samples.graphs})),
        text=sum(encoding.nbytes for encoding in samples.encodings),
        warnings=tuple(dict.fromkeys(messages)),
    )


def _mean_batch(samples: Samples, setup: Setup) -> int:
    sizes = [
        nbytes(Collate(None, samples.encodings)([samples[index] for index in chosen]))
        for chosen in batches_of(len(samples), setup.batch_size)
    ]
    return sum(sizes) // len(sizes)


def _features(graph: Any) -> list[Tensor]:
    # By name: iterating over the values of a DGL frame yields column objects, not tensors.
    return [frame[name] for frame in (graph.ndata, graph.edata) for name in frame]


def _graph_bytes(graph: Any) -> int:
    return sum(tensor.nbytes for tensor in (*graph.edges(), *_features(graph)))


def pinned_bytes() -> int:
    """Return the pinned host memory that PyTorch holds, from its allocator's counter; 0 without CUDA."""
    if not torch.cuda.is_available():
        return 0
    return int(torch.cuda.host_memory_stats()["allocated_bytes.current"])


def _pinned_graph(samples: Samples) -> int:
    """Return the pinned memory that `pin_memory` allocates for a batched DGL graph, bytes."""
    graph, before = load_dgl().batch(samples.graphs[::2]), pinned_bytes()
    pinned = pin_memory(graph)  # type: ignore[no-untyped-call]
    added = pinned_bytes() - before
    del pinned
    return added


def main(setup: str, outcome: str) -> None:
    """Run the setup in one file and write its outcome to another."""
    run(Setup(**json.loads(Path(setup).read_text(encoding="utf-8")))).write(Path(outcome))


if __name__ == "__main__":
    main(*sys.argv[1:])
