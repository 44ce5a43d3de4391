"""The sizes of graphs that are built already."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nodebudget.datasets.sample_error import SampleError

Integers = npt.NDArray[np.int64]

#: Attributes by which graphs are known: of CHGNet, jraph, and PyG with several types of nodes.
_CHGNET = ("atom_graph", "bond_graph", "atomic_number")
_JRAPH = ("n_node", "n_edge", "senders", "receivers")
_HETERO = ("node_types", "edge_types", "num_nodes")
#: Tensors with one entry per atom.
_ATOMS = ("z", "atomic_numbers", "Z", "numbers", "pos", "positions")


def is_graph(sample: Any) -> bool:
    """Return whether a sample is a graph, without importing any library.

    A DGL graph, a PyG `Data` or `HeteroData`, alignn's `TorchGraph`, CHGNet's `CrystalGraph`, or jraph's `GraphsTuple`.
    """
    if isinstance(sample, Mapping):
        return False
    dgl = hasattr(sample, "in_degrees") and hasattr(sample, "num_edges")
    pure = all(hasattr(sample, name) for name in ("src", "dst", "num_edges"))  # alignn's TorchGraph: ends of the edges
    other = any(all(hasattr(sample, name) for name in names) for names in (_CHGNET, _JRAPH, _HETERO))
    return dgl or other or (hasattr(sample, "num_nodes") and (hasattr(sample, "edge_index") or pure))


def holds_graph(sample: Any) -> bool:
    """Return whether a sample is or contains a graph, rather than a crystal; tuples and lists always count as such."""
    if isinstance(sample, (tuple, list)) or is_graph(sample):
        return True
    if isinstance(sample, Mapping):
        return not any(key in sample for key in ("atoms", "structure", "lattice_mat")) and bool(graphs_in(sample, 1))
    return is_dataclass(sample) and bool(graphs_in(sample, 2))


def graphs_in(sample: Any, depth: int) -> list[Any]:
    """Return the graphs in a sample or batch, in order, from up to `depth` containers or objects deep."""
    if is_graph(sample):
        return [sample]
    return [graph for _, part in parts_of(sample) for graph in graphs_in(part, depth - 1)] if depth else []


def parts_of(sample: Any) -> Iterable[tuple[str, Any]]:
    """Return the entries, values or attributes of a sample or batch, in order, each with its name."""
    if isinstance(sample, Mapping):
        return [(str(name), value) for name, value in sample.items()]
    if hasattr(sample, "_fields"):
        return [(name, getattr(sample, name)) for name in sample._fields]
    if isinstance(sample, (list, tuple)):
        return [(str(place), value) for place, value in enumerate(sample)]
    if is_dataclass(sample):
        # A field may be set later, or never.
        return [(field.name, getattr(sample, field.name, None)) for field in fields(sample)]
    is_module = hasattr(sample, "named_parameters")
    return () if is_module else list(getattr(sample, "__dict__", {}).items())


def count_graph(sample: Any) -> dict[str, int]:
    """Return `nodes`, `edges` and `line_edges` of a graph, or of a sample with one, as far as they are known.

    Where the sample has a second graph, with a node for each edge of the first or for a part of them (those within a
    three-body cutoff), it is the line graph. Without one, `line_edges` is what `g.line_graph()` would give: each pair
    of edges where one starts at the node where the other ends, except the pairs of an edge with itself. The edges of a
    graph that the model makes itself are not known, nor are the pairs of edges of several types.

    Raises:
        SampleError: The sample holds no graph.
    """
    graph, *others = graphs_in(sample, 2) or [None]
    if graph is None:
        raise SampleError(
            f"it is a {type(sample).__name__} without a graph of DGL, PyTorch Geometric, alignn, CHGNet or jraph in it"
        )
    nodes, edges = read_size(graph, "num_nodes"), _edge_count(graph)
    if edges is None:
        return {"nodes": nodes}
    sizes = {"nodes": nodes, "edges": edges}
    if hasattr(graph, "bond_graph"):
        return {**sizes, "line_edges": len(graph.bond_graph)}
    lines = [other for other in others if read_size(other, "num_nodes") == edges]
    lines += [other for other in others if read_size(other, "num_nodes") < edges and _edge_count(other) is not None]
    if lines:
        return {**sizes, "line_edges": read_size(lines[0], "num_edges")}
    ends = _ends(graph)
    return sizes if ends is None else {**sizes, "line_edges": line_edges(*ends, nodes)}


def line_edges(source: Integers, target: Integers, nodes: int) -> int:
    """Count the edges of the line graph of a directed multigraph with edges `source` → `target`."""
    into = np.bincount(target, minlength=nodes)
    out = np.bincount(source, minlength=nodes)
    return int((into * out).sum()) - int(np.count_nonzero(source == target))


def read_size(graph: Any, name: str) -> int:
    """Return "num_nodes" or "num_edges" of a graph, a method in DGL, a property in PyG, or raise a SampleError."""
    if all(hasattr(graph, part) for part in _CHGNET):
        return len(graph.atomic_number if name == "num_nodes" else graph.atom_graph)
    if all(hasattr(graph, part) for part in _JRAPH):
        return int(np.sum(np.asarray(graph.n_node if name == "num_nodes" else graph.n_edge)))
    value = getattr(graph, name)
    number = value() if callable(value) else value
    if number is None and name == "num_nodes":  # of a PyG `Data` whose tensors have names of the user's own
        number = next((len(graph[key]) for key in _ATOMS if key in graph), None)
    if number is None:
        raise SampleError(f"its graph has no {name}")
    return int(number)


def _edge_count(graph: Any) -> int | None:
    """Return the number of edges, or None where a graph of PyG has none: the model makes them."""
    if hasattr(graph, "edge_index") and graph.edge_index is None and getattr(graph, "adj_t", None) is None:
        return None
    return read_size(graph, "num_edges")


def _ends(graph: Any) -> tuple[Integers, Integers] | None:
    """Return where edges start and end; None of a graph with several types of edges."""
    adjacency = getattr(graph, "adj_t", None)
    if all(hasattr(graph, part) for part in _JRAPH):
        source, target = graph.senders, graph.receivers
    elif hasattr(graph, "in_degrees"):
        if len(graph.canonical_etypes) != 1 or len(graph.ntypes) != 1:
            return None
        source, target = graph.edges()
    elif all(hasattr(graph, part) for part in _HETERO):
        return None
    elif hasattr(graph, "edge_index") and graph.edge_index is not None:
        source, target = graph.edge_index
    elif adjacency is not None:  # transposed: rows are targets
        if hasattr(adjacency, "coo"):
            target, source, _ = adjacency.coo()
        else:
            target, source = adjacency.to_sparse_coo().coalesce().indices()
    else:
        source, target = graph.src, graph.dst
    return _integers(source), _integers(target)


def _integers(values: Any) -> Integers:
    return np.asarray(values.cpu().numpy() if hasattr(values, "cpu") else values).astype(np.int64)
