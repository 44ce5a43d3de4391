"""What a batch holds, counted from the batch itself."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import torch

from nodebudget.calibration.memory_model import Calibration
from nodebudget.datasets.counting.graph import count_graph, is_graph
from nodebudget.datasets.size_table import SizeTable
from nodebudget.errors import InputError
from nodebudget.utils.size_labels import count_sizes

#: Batch → its sizes, `graphs` among them.
SizeOfBatch = Callable[[Any], Mapping[str, float]]

#: How deep a batch is searched for its graphs.
_DEPTH = 3


def sizes_of(
    batch: Any,
    sizes: SizeTable | SizeOfBatch | None = None,
    *,
    indices: Any = None,
    line_edges: bool = False,
) -> dict[str, float]:
    """Count a batch of any usual kind.

    Args:
        batch: A batched DGL graph, a PyG `Batch`, alignn's `TorchGraph`; a tuple, list or dict that holds one
            (and its line graph), or an object with one among its attributes; a list of samples that are or start
            with graphs; indices of the dataset, where `sizes` is a table; a dict with `input_ids`, shape
            (graphs, tokens), whose padded tokens count too, or a tuple that holds one.
        sizes: A table that `indices`, or a batch of indices, are looked up in; or a function of the batch, whose
            sizes stand over those that are counted.
        indices: Places of the batch's graphs in the table.
        line_edges: Count line-graph edges from the degrees where the batch has no line graph. On a GPU this waits
            for the device.

    Returns:
        `graphs`, `nodes`, `edges`, `line_edges` and further ones, as far as they are known; empty where
        nothing is.

    Raises:
        InputError: Indices without a table, or outside it.
    """
    if indices is not None or (isinstance(sizes, SizeTable) and _are_indices(batch)):
        return _look_up(sizes, batch if indices is None else indices)
    found = _count(batch, line_edges)
    if callable(sizes):
        found |= {str(name): _number(value) for name, value in sizes(batch).items()}
    return found


def _number(value: Any) -> float:
    return value.item() if hasattr(value, "item") else value  # type: ignore[no-any-return]


def _look_up(sizes: SizeTable | SizeOfBatch | None, indices: Any) -> dict[str, float]:
    if not isinstance(sizes, SizeTable):
        raise InputError("indices of a batch without a table of sizes", hint="pass sizes=SizeTable… to the monitor")
    places = np.asarray(indices, dtype=np.int64)
    outside = places[(places < 0) | (places >= len(sizes))]
    if len(outside):
        raise InputError(
            f"index {outside[0]} of a batch is not in the table",
            limit=f"it has {len(sizes)} graphs",
            hint="give the sizes of the dataset that is trained on",
        )
    return sizes.totals(places)


def _are_indices(batch: Any) -> bool:
    if isinstance(batch, torch.Tensor):
        return batch.ndim == 1 and not batch.is_floating_point()
    if isinstance(batch, np.ndarray):
        return batch.ndim == 1 and batch.dtype.kind in "iu"
    return isinstance(batch, (list, tuple)) and all(isinstance(entry, (int, np.integer)) for entry in batch)


def _count(batch: Any, line_edges: bool) -> dict[str, float]:
    found = _of_graphs(_graphs(batch, _DEPTH), line_edges)
    tokens = _tokens(batch)
    return found if tokens is None else {"graphs": len(tokens), **found, "tokens": tokens.numel()}


def _tokens(batch: Any) -> torch.Tensor | None:
    """Find the tokens of a batch that is a dict with `input_ids`, or a tuple that holds one."""
    parts = batch if isinstance(batch, (list, tuple)) else [batch]
    found = next((part["input_ids"] for part in parts if isinstance(part, Mapping) and "input_ids" in part), None)
    return found if isinstance(found, torch.Tensor) and found.ndim == 2 else None


def _graphs(batch: Any, depth: int) -> Iterator[Any]:
    """Find the graphs in a batch, in order."""
    if is_graph(batch):
        yield batch
    elif depth:
        for part in _parts(batch):
            yield from _graphs(part, depth - 1)


def _parts(batch: Any) -> Iterable[Any]:
    """Return what a batch holds: entries, values or attributes, in order."""
    if isinstance(batch, Mapping):
        return batch.values()
    if isinstance(batch, (list, tuple)):
        return batch
    if is_dataclass(batch):
        return [getattr(batch, field.name) for field in fields(batch)]
    return () if isinstance(batch, torch.nn.Module) else getattr(batch, "__dict__", {}).values()


def _of_graphs(graphs: Iterator[Any], line_edges: bool) -> dict[str, float]:
    """Add up graphs, each followed by its line graph where there is one."""
    found: list[dict[str, float]] = []
    waiting = deque(graphs)
    while waiting:
        graph = waiting.popleft()
        is_line = bool(waiting) and _read(waiting[0], "num_nodes") == _read(graph, "num_edges") > 0
        found.append(_of_one(graph, waiting.popleft() if is_line else None, line_edges))
    # What is not known of one graph is not known of the batch.
    names = [name for name in found[0] if all(name in entry for entry in found)] if found else []
    return {name: sum(entry[name] for entry in found) for name in names}


def _of_one(graph: Any, line_graph: Any, line_edges: bool) -> dict[str, float]:
    found: dict[str, float] = {
        "graphs": _graph_count(graph),
        "nodes": _read(graph, "num_nodes"),
        "edges": _read(graph, "num_edges"),
    }
    if line_graph is not None:
        found["line_edges"] = _read(line_graph, "num_edges")
    elif line_edges:
        found["line_edges"] = count_graph(graph)["line_edges"]
    return found


def _read(graph: Any, name: str) -> int:
    # A method in DGL, a property in PyG.
    value = getattr(graph, name)
    return int(value() if callable(value) else value)


def _graph_count(graph: Any) -> int:
    # A PyG `Data` of a neighbour sampler has a batch_size too, of seeds.
    name = "num_graphs" if hasattr(graph, "edge_index") else "batch_size"
    value = getattr(graph, name, 1)
    return value if isinstance(value, int) else 1


def needs_line_edges(calibration: Calibration | None) -> bool:
    """Say whether a calibration can't do without line-graph edges."""
    if calibration is None:
        return False
    known = dict.fromkeys(calibration.columns, 1.0)
    known.pop("line_edges", None)
    return predict(calibration, known) is None


def predict(calibration: Calibration | None, sizes: Mapping[str, float]) -> float | None:
    """Return the predicted bytes of a batch; None without a calibration, or without a size that it depends on."""
    if calibration is None:
        return None
    try:
        return float(calibration.predict_bytes(**sizes))
    except InputError:
        return None


def name_sample(samples: Sequence[Any], place: int) -> str:
    """Name a sample by its place, its id and its sizes."""
    sample = samples[place]
    named = (
        next((str(sample[key]) for key in ("jid", "id") if key in sample), "") if isinstance(sample, Mapping) else ""
    )
    sizes = _count(sample, line_edges=False)
    sizes.pop("graphs", None)
    known = [part for part in (named, count_sizes(sizes)) if part]
    return f"sample {place}" + (f" ({': '.join(known)})" if known else "")
