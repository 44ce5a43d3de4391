"""The sizes of a batch, counted from the batch itself, and the bytes predicted for them."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from nodebudget.calibration.memory_model import Calibration
from nodebudget.datasets.counting.graph import count_graph, graphs_in, read_size
from nodebudget.datasets.size_table import SizeTable
from nodebudget.errors import InputError, first_line
from nodebudget.utils.size_labels import count_sizes

SizeOfBatch = Callable[[Any], Mapping[str, float]]  #: Batch → its sizes, `graphs` among them.
_DEPTH = 3  #: How many containers deep graphs are searched for in a batch.


def sizes_of(
    batch: Any,
    sizes: SizeTable | SizeOfBatch | None = None,
    *,
    indices: Any = None,
    line_edges: bool = False,
) -> dict[str, float]:
    """Count `graphs`, `nodes`, `edges`, `line_edges` and further sizes of a batch, as far as they are known.

    A batch is a batched DGL graph, a PyG `Batch`, alignn's `TorchGraph`; a tuple, list or dict that contains one (and
    its line graph), or an object with one among its attributes; a list of samples that are or start with graphs;
    indices of the dataset, where `sizes` is a table; a dict with `input_ids`, shape (graphs, tokens), whose padded
    tokens count too, or a tuple that contains one. A function `sizes` of the batch takes precedence over what is
    counted. `line_edges` counts them from the degrees where the batch has no line graph: on a GPU this waits for the
    device.

    Raises an InputError over indices without a table or outside it, and whatever the batch or the function raises: use
    `try_sizes_of` where that must not stop the training.
    """
    if indices is not None or (isinstance(sizes, SizeTable) and _are_indices(batch)):
        return _look_up(sizes, batch if indices is None else indices)
    counts, tokens = _count_graphs(graphs_in(batch, _DEPTH), line_edges), _tokens(batch)
    if tokens is not None:
        counts = {"graphs": len(tokens), **counts, "tokens": tokens.numel()}
    if callable(sizes):
        counts |= {str(name): _number(name, value) for name, value in sizes(batch).items()}
    return counts


def try_sizes_of(batch: Any, sizes: SizeTable | SizeOfBatch | None = None, **how: Any) -> tuple[dict[str, float], str]:
    """Return what `sizes_of` returns and "", or no sizes and the reason why the batch can't be counted."""
    try:
        counts = sizes_of(batch, sizes, **how)
        has_fields = hasattr(batch, "__dict__") or hasattr(type(batch), "__slots__")
        is_custom = has_fields and not isinstance(batch, torch.Tensor)
    except Exception as error:  # from any code of the user's: attributes of the batch, the function of sizes
        return {}, f"{type(error).__name__}: {first_line(error)}"
    return counts, "no graph was found in it" if is_custom and not counts else ""


def _number(name: object, value: Any) -> float:
    number: float = value.item() if hasattr(value, "item") else value
    if not (math.isfinite(number) and number >= 0):
        raise InputError(f"{name} of a batch is {number}", limit="a finite number, 0 or more", hint="check sizes=…")
    return number


def _look_up(sizes: SizeTable | SizeOfBatch | None, indices: Any) -> dict[str, float]:
    if not isinstance(sizes, SizeTable):
        raise InputError("indices of a batch without a table of sizes", hint="pass sizes=SizeTable… to the monitor")
    rows = np.asarray(indices, dtype=np.int64)
    outside = rows[(rows < 0) | (rows >= len(sizes))]
    if len(outside):
        raise InputError(
            f"index {outside[0]} of a batch is not in the table",
            limit=f"the table has {len(sizes)} graphs",
            hint="pass the sizes of the dataset that is trained on",
        )
    return sizes.totals(rows)


def _are_indices(batch: Any) -> bool:
    if isinstance(batch, torch.Tensor):
        return batch.ndim == 1 and not batch.is_floating_point()
    if isinstance(batch, np.ndarray):
        return batch.ndim == 1 and batch.dtype.kind in "iu"
    return isinstance(batch, (list, tuple)) and all(isinstance(entry, (int, np.integer)) for entry in batch)


def _tokens(batch: Any) -> torch.Tensor | None:
    """Find the tokens of a batch that is a dict with `input_ids`, or a tuple that contains one."""
    parts = batch if isinstance(batch, (list, tuple)) else [batch]
    tokens = next((part["input_ids"] for part in parts if isinstance(part, Mapping) and "input_ids" in part), None)
    return tokens if isinstance(tokens, torch.Tensor) and tokens.ndim == 2 else None


def _count_graphs(graphs: Iterable[Any], line_edges: bool) -> dict[str, float]:
    """Add up graphs, each followed by its line graph where there is one."""
    counts: list[dict[str, float]] = []
    waiting = deque(graphs)
    while waiting:
        graph = waiting.popleft()
        nodes, edges = read_size(graph, "num_nodes"), read_size(graph, "num_edges")
        counts.append({"graphs": _graph_count(graph), "nodes": nodes, "edges": edges})
        if waiting and read_size(waiting[0], "num_nodes") == edges > 0:
            counts[-1]["line_edges"] = read_size(waiting.popleft(), "num_edges")
        elif line_edges:
            counts[-1] |= {"line_edges": pairs} if (pairs := count_graph(graph).get("line_edges")) is not None else {}
    # A size that one graph lacks is not known of the batch.
    names = [name for name in counts[0] if all(name in entry for entry in counts)] if counts else []
    return {name: sum(entry[name] for entry in counts) for name in names}


def _graph_count(graph: Any) -> int:
    # A PyG `Data` of a neighbour sampler has a batch_size too: its number of seed nodes.
    name = "num_graphs" if hasattr(graph, "edge_index") else "batch_size"
    value = getattr(graph, name, 1)
    return value if isinstance(value, int) else 1


def needs_line_edges(calibration: Calibration | None) -> bool:
    """Say whether a calibration can't predict without line-graph edges."""
    if calibration is None:
        return False
    return predict(calibration, {name: 1.0 for name in calibration.columns if name != "line_edges"}) is None


def predict(calibration: Calibration | None, sizes: Mapping[str, float]) -> float | None:
    """Return the predicted bytes of a batch; None without a calibration, or without a size that it depends on."""
    if calibration is None:
        return None
    try:
        return float(calibration.predict_bytes(**sizes))
    except InputError:
        return None


def name_sample(samples: Sequence[Any], index: int) -> str:
    """Name a sample by its index, its id and its sizes."""
    sample = samples[index]
    name = ""
    if isinstance(sample, Mapping):
        name = next((str(sample[key]) for key in ("jid", "id") if key in sample), "")
    sizes, _ = try_sizes_of(sample)
    sizes.pop("graphs", None)
    details = ": ".join(part for part in (name, count_sizes(sizes)) if part)
    return f"sample {index}" + (f" ({details})" if details else "")
