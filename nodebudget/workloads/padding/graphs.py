"""Padding of batched graphs of DGL and of alignn's own class, with their line graphs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import torch

from nodebudget.errors import InputError
from nodebudget.utils.optional_imports import load_dgl
from nodebudget.workloads.padding.rows import Extra, check_index, is_bond, more_bonds, more_rows, ring

Tensors = Mapping[str, torch.Tensor]


class _Parts(NamedTuple):
    """A batched graph: ends of the edges, data, and nodes and edges of each graph."""

    source: torch.Tensor
    target: torch.Tensor
    nodes: Tensors
    edges: Tensors
    node_counts: torch.Tensor
    edge_counts: torch.Tensor


def is_dgl(graph: Any) -> bool:
    """Return whether it is a DGL graph, without importing DGL."""
    return hasattr(graph, "canonical_etypes") and hasattr(graph, "in_degrees")


def sizes_of(graph: Any) -> tuple[int, int, int]:
    """Return the number of graphs, nodes and edges of a batched graph."""
    if is_dgl(graph):
        return int(graph.batch_size), int(graph.num_nodes()), int(graph.num_edges())
    return int(graph.batch_size), int(graph.num_nodes), int(graph.num_edges)


def pad_graph(graph: Any, extra: Extra, shape: Mapping[str, int]) -> Any:
    """Add padding graphs: loops as edges, data of the first node and edge, bonds at right angles.

    Raises:
        InputError: The graph has several types of nodes or edges, or indices that are too small for the shape.
    """
    parts = _parts(graph)
    check_index(parts.source.dtype, shape)
    nodes = int(parts.node_counts.sum())
    loops = ring(extra.edges, extra.first_nodes, parts.source) + nodes
    edges = {
        name: (more_bonds if is_bond(name, values) else more_rows)(values, extra.edges)
        for name, values in parts.edges.items()
    }
    return _build(
        graph,
        _Parts(
            torch.cat([parts.source, loops]),
            torch.cat([parts.target, loops]),
            {name: more_rows(values, extra.nodes) for name, values in parts.nodes.items()},
            edges,
            _joined(parts.node_counts, extra.per_graph(extra.first_nodes, 1, parts.node_counts)),
            _joined(parts.edge_counts, extra.per_graph(extra.edges, 0, parts.edge_counts)),
        ),
    )


def pad_line_graph(line_graph: Any, extra: Extra, shape: Mapping[str, int], padded: Any) -> Any:
    """Add line-graph edges between padding edges, each with the next one.

    Args:
        line_graph: With a node for each edge of the graph.
        extra: What the batch lacks.
        shape: What it has then.
        padded: The graph with its padding.
    """
    parts, edge_data = _parts(line_graph), _parts(padded).edges
    check_index(parts.source.dtype, shape)
    edges = int(parts.node_counts.sum())
    nodes = {
        # Bonds that the line graph shares with the graph.
        name: edge_data[name] if is_bond(name, values) and name in edge_data else more_rows(values, extra.edges)
        for name, values in parts.nodes.items()
    }
    return _build(
        line_graph,
        _Parts(
            torch.cat([parts.source, ring(extra.line_edges, extra.edges, parts.source) + edges]),
            torch.cat([parts.target, ring(extra.line_edges, extra.edges, parts.target, 1) + edges]),
            nodes,
            {name: more_rows(values, extra.line_edges) for name, values in parts.edges.items()},
            _joined(parts.node_counts, extra.per_graph(extra.edges, 0, parts.node_counts)),
            _joined(parts.edge_counts, extra.per_graph(extra.line_edges, 0, parts.edge_counts)),
        ),
    )


def _joined(counts: torch.Tensor, more: torch.Tensor) -> torch.Tensor:
    return torch.cat([counts, more])


def _parts(graph: Any) -> _Parts:
    if is_dgl(graph):
        if len(graph.canonical_etypes) != 1 or len(graph.ntypes) != 1:
            raise InputError(
                "a graph with several types of nodes or edges",
                limit="graphs of one type can be padded",
                hint="give the batch a class with pad_to(shape), or train it without a static shape",
            )
        source, target = graph.edges(order="eid")
        counts = graph.batch_num_nodes(), graph.batch_num_edges()
        return _Parts(source, target, dict(graph.ndata), dict(graph.edata), *counts)
    nodes = graph.src.new_tensor([graph.num_nodes]) if graph.batch_num_nodes is None else graph.batch_num_nodes
    edges = graph.src.new_tensor([graph.num_edges]) if graph.batch_num_edges is None else graph.batch_num_edges
    return _Parts(graph.src, graph.dst, graph.ndata, graph.edata, nodes, edges)


def _build(like: Any, parts: _Parts) -> Any:
    nodes = int(parts.node_counts.sum())
    if not is_dgl(like):
        return replace(
            like,
            num_nodes=nodes,
            src=parts.source,
            dst=parts.target,
            ndata=dict(parts.nodes),
            edata=dict(parts.edges),
            batch_num_nodes=parts.node_counts,
            batch_num_edges=parts.edge_counts,
        )
    graph = load_dgl().graph((parts.source, parts.target), num_nodes=nodes, idtype=like.idtype, device=like.device)
    graph.ndata.update(parts.nodes)
    graph.edata.update(parts.edges)
    graph.set_batch_num_nodes(parts.node_counts)
    graph.set_batch_num_edges(parts.edge_counts)
    return graph
