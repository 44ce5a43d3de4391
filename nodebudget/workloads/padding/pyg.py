"""Padding of PyTorch Geometric's `Batch`."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch

from nodebudget.errors import InputError
from nodebudget.workloads.padding.rows import Extra, check_index, is_bond, more_bonds, more_rows, ring

#: Names of node data that are positions, and of edge data that say in which unit cell the other end lies.
_POSITIONS = ("pos", "positions")
_CELLS = ("shift", "shifts", "unit_shifts", "edge_shift", "cell_offset", "cell_offsets", "images", "pbc_offset")


def is_pyg(batch: Any) -> bool:
    """Return whether it is a `Batch` of PyTorch Geometric, without importing it."""
    return hasattr(batch, "edge_index") and hasattr(batch, "num_graphs") and hasattr(batch, "ptr")


def pyg_sizes(batch: Any) -> tuple[int, int, int]:
    """Return the number of graphs, nodes and edges of a `Batch`."""
    edges = 0 if batch.edge_index is None else int(batch.edge_index.shape[1])
    return int(batch.num_graphs), int(batch.num_nodes), edges


def pad_pyg(batch: Any, extra: Extra, shape: Mapping[str, int]) -> Any:
    """Add padding graphs to a `Batch`.

    Padding nodes with positions stand in a row, as far apart as the longest bond, and padding edges lead from each to
    the next; without positions they are loops. All other data are those of the first node, edge and graph.

    Raises:
        InputError: It is not clear what a tensor belongs to, or nodes with positions have edges and one padding node.
    """
    padded = copy.copy(batch)
    graphs, nodes, _ = pyg_sizes(batch)
    if batch.edge_index is not None:
        check_index(batch.edge_index.dtype, shape)
    rows = {"nodes": extra.nodes, "edges": extra.edges, "graphs": extra.graphs}
    owners = {name: _owner(batch, name, value) for name, value in batch.to_dict().items() if torch.is_tensor(value)}
    has_positions = any(owner == "nodes" and name in _POSITIONS for name, owner in owners.items())
    if has_positions and extra.edges and extra.first_nodes < 2:
        raise InputError(
            "one padding node with a position, for edges that must not be of length 0",
            limit="two nodes or more",
            hint="pass {**sampler.shape, 'nodes': sampler.shape['nodes'] + 1}",
        )
    for name, owner in owners.items():
        value = batch[name]
        if name == "batch":
            padded.batch = torch.cat([value, value.new_tensor(_graph_of_nodes(graphs, extra))])
        elif name == "ptr":
            counts = extra.per_graph(extra.first_nodes, 1, value)
            padded.ptr = torch.cat([value, value[-1:] + counts.cumsum(0)])
        elif name == "edge_index":
            padded.edge_index = torch.cat([value, _edges(extra, value, has_positions) + nodes], dim=1)
        elif owner == "nodes" and name in _POSITIONS:
            padded[name] = _in_a_row(batch, value, extra.nodes)
        elif owner == "edges" and name in _CELLS:
            padded[name] = torch.cat([value, value.new_zeros((extra.edges, *value.shape[1:]))])
        elif owner == "edges" and is_bond(name, value):
            padded[name] = more_bonds(value, extra.edges)
        else:
            padded[name] = more_rows(value, rows[owner])
    _renumber(padded, owners, graphs + extra.graphs)
    return padded


def _owner(batch: Any, name: str, value: torch.Tensor) -> str:
    """Return what a tensor has a row for: "nodes", "edges" or "graphs"."""
    graphs, nodes, edges = pyg_sizes(batch)
    if name in ("batch", "ptr", "edge_index"):
        return "nodes" if name == "batch" else "edges"
    lengths = {"nodes": nodes, "edges": edges, "graphs": graphs}
    fitting = [owner for owner, length in lengths.items() if value.dim() and value.shape[0] == length]
    slices = getattr(batch, "_slice_dict", {}).get(name)
    if slices is not None and len(fitting) > 1:
        ends = {"nodes": batch.ptr, "graphs": torch.arange(graphs + 1), "edges": batch._slice_dict.get("edge_index")}
        fitting = [
            owner
            for owner in fitting
            if ends[owner] is not None and torch.equal(torch.as_tensor(slices).cpu(), ends[owner].cpu())
        ] or fitting
    if fitting == ["nodes", "edges"]:
        # Each graph has as many edges as nodes: PyTorch Geometric then goes by the name as well.
        fitting = ["edges" if "edge" in name else "nodes"]
    if len(fitting) != 1 or "index" in name or name == "face":
        raise unclear(f"{name!r}", value, lengths)
    return fitting[0]


def unclear(name: str, value: torch.Tensor, lengths: Mapping[str, int]) -> InputError:
    """Return the error over a tensor of which it is not clear what it belongs to."""
    counts = ", ".join(f"{length:,} {owner}" for owner, length in lengths.items())
    return InputError(
        f"{name}, a tensor of shape {tuple(value.shape)}, can't be padded",
        limit=f"the batch has {counts}, and the first dimension must be one of them",
        hint="leave it out of the batch, or give the batch a class with pad_to(shape)",
    )


def _graph_of_nodes(graphs: int, extra: Extra) -> list[int]:
    return [graphs] * extra.first_nodes + [graphs + place for place in range(1, extra.graphs)]


def _edges(extra: Extra, like: torch.Tensor, has_positions: bool) -> torch.Tensor:
    source = ring(extra.edges, extra.first_nodes - has_positions, like)
    return torch.stack([source, source + int(has_positions)])


def _in_a_row(batch: Any, positions: torch.Tensor, count: int) -> torch.Tensor:
    source, target = batch.edge_index
    apart = positions.detach()[target] - positions.detach()[source]
    length = more_bonds(apart, 1)[-1].norm().clamp_min(1.0)
    steps = torch.arange(count, dtype=positions.dtype, device=positions.device)[:, None]
    return torch.cat([positions, positions.detach()[:1] + steps * length * positions.new_tensor([1.0, 0.0, 0.0])])


def _renumber(padded: Any, owners: Mapping[str, str], graphs: int) -> None:
    """Set what `to_data_list` needs."""
    padded._num_graphs = graphs
    ends = {"nodes": padded.ptr, "graphs": torch.arange(graphs + 1)}
    if padded.edge_index is not None:
        counts = torch.bincount(padded.batch[padded.edge_index[0]], minlength=graphs)
        ends["edges"] = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    slices = dict(getattr(padded, "_slice_dict", {}))
    padded._slice_dict = {name: ends[owners[name]].cpu() if name in owners else old for name, old in slices.items()}
    zeros = torch.zeros(graphs, dtype=torch.long)
    padded._inc_dict = {
        name: padded.ptr[:-1].cpu() if name == "edge_index" else zeros for name in getattr(padded, "_inc_dict", {})
    }
