"""The sizes of graphs that are built already."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from nodebudget.datasets.sample_error import SampleError

Integers = npt.NDArray[np.int64]


def is_graph(sample: Any) -> bool:
    """Return whether a sample is a DGL graph, a PyG `Data` or alignn's `TorchGraph`, without importing any."""
    if isinstance(sample, Mapping):
        return False
    dgl = hasattr(sample, "in_degrees") and hasattr(sample, "num_edges")
    pure = all(hasattr(sample, name) for name in ("src", "dst", "num_edges"))  # alignn's TorchGraph: ends of the edges
    return dgl or (hasattr(sample, "num_nodes") and (hasattr(sample, "edge_index") or pure))


def count_graph(sample: Any) -> dict[str, int]:
    """Return `nodes`, `edges` and `line_edges` of a graph of DGL, PyG or alignn, or of a tuple or list with one.

    Where a second graph follows with a node for every edge of the first, it is the line graph. Without one,
    `line_edges` is what `g.line_graph()` would give: each pair of edges where one starts at the node where the other
    ends, except the pairs of an edge with itself. Raises a SampleError over no graph, or one with several types of
    edges.
    """
    graph, line_graph = _parts(sample)
    nodes, edges = read_size(graph, "num_nodes"), read_size(graph, "num_edges")
    if line_graph is not None and read_size(line_graph, "num_nodes") == edges:
        return {"nodes": nodes, "edges": edges, "line_edges": read_size(line_graph, "num_edges")}
    source, target = _ends(graph)
    return {"nodes": nodes, "edges": edges, "line_edges": line_edges(source, target, nodes)}


def line_edges(source: Integers, target: Integers, nodes: int) -> int:
    """Count the edges of the line graph of a directed multigraph with edges `source` → `target`."""
    into = np.bincount(target, minlength=nodes)
    out = np.bincount(source, minlength=nodes)
    return int((into * out).sum()) - int(np.count_nonzero(source == target))


def _parts(sample: Any) -> tuple[Any, Any]:
    if is_graph(sample):
        return sample, None
    if isinstance(sample, (tuple, list)) and sample and is_graph(sample[0]):
        second = sample[1] if len(sample) > 1 and is_graph(sample[1]) else None
        return sample[0], second
    raise SampleError(f"it is a {type(sample).__name__} without a graph")


def read_size(graph: Any, name: str) -> int:
    """Return "num_nodes" or "num_edges" of a graph, a method in DGL, a property in PyG, or raise a SampleError."""
    value = getattr(graph, name)
    number = value() if callable(value) else value
    if number is None:
        raise SampleError(f"its graph has no {name}")
    return int(number)


def _ends(graph: Any) -> tuple[Integers, Integers]:
    if hasattr(graph, "in_degrees"):
        if len(graph.canonical_etypes) != 1 or len(graph.ntypes) != 1:
            raise SampleError("its graph has several types of nodes or edges")
        source, target = graph.edges()
    elif hasattr(graph, "edge_index"):
        if graph.edge_index is None:
            raise SampleError("its graph has no edge_index")
        source, target = graph.edge_index
    else:
        source, target = graph.src, graph.dst
    return source.cpu().numpy().astype(np.int64), target.cpu().numpy().astype(np.int64)
