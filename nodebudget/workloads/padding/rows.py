"""The padding graphs of a batch: how many nodes and edges each has, and the rows of their features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch

from nodebudget.errors import InputError
from nodebudget.utils.size_labels import count_sizes, size_label

#: Length of a padding bond where a batch has none to copy, Å.
_BOND = 2.0


class Extra(NamedTuple):
    """What is added to a batch: some graphs, of which the first has all edges and the others a node each.

    Attributes:
        graphs: Number of padding graphs, 1 or more.
        nodes: Their nodes, as many as graphs or more.
        edges: Their edges.
        line_edges: Edges of their line graph.
    """

    graphs: int
    nodes: int
    edges: int
    line_edges: int

    @property
    def first_nodes(self) -> int:
        """Nodes of the first padding graph."""
        return self.nodes - self.graphs + 1

    def per_graph(self, first: int, others: int, like: torch.Tensor) -> torch.Tensor:
        """Return a number for the first padding graph and one for each other, shape (graphs,)."""
        counts = like.new_full((self.graphs,), others)
        counts[0] = first
        return counts


def extra_of(sizes: Mapping[str, int], shape: Mapping[str, int]) -> Extra:
    """Return what a batch lacks of a shape.

    Raises:
        InputError: The batch is empty, larger than the shape, or without one of its columns; or the shape has no
            place for a padding graph.
    """
    if not sizes["graphs"]:
        raise InputError("a batch of no graphs", limit="one graph or more", hint="leave empty batches out")
    for name in shape:
        if name not in sizes:
            raise InputError(
                f"the shape has {size_label(name)} and the batch has none",
                limit=f"the batch has {', '.join(map(size_label, sizes))}",
                hint=f"leave {name!r} out of the shape, or make batches that have them",
            )
    for name in sizes:
        if name not in shape and sizes[name]:
            raise InputError(
                f"the batch has {size_label(name)} and the shape says nothing of them",
                hint="measure the dataset with them, and pass sampler.shape",
            )
    spare = {name: shape.get(name, 0) - size for name, size in sizes.items()}
    over = {name: sizes[name] for name, left in spare.items() if left < 0}
    if over:
        maxima = {name: shape[name] for name in over}
        raise InputError(
            f"the batch has {count_sizes(over)}",
            limit=f"the shape has {count_sizes(maxima)}",
            hint="pass the sampler.shape of a sampler that measured this dataset",
        )
    extra = Extra(spare["graphs"], spare["nodes"], spare.get("edges", 0), spare.get("line_edges", 0))
    if not extra.graphs or extra.nodes < extra.graphs or (extra.line_edges and not extra.edges):
        raise InputError(
            f"the shape has no place for a padding graph: it leaves {count_sizes(spare)}",
            limit="a graph, a node for each graph that is missing, and an edge where line-graph edges are missing",
            hint="pass sampler.shape, which has them",
        )
    return extra


def check_index(dtype: torch.dtype, shape: Mapping[str, int]) -> None:
    """Raise an InputError where nodes or edges of a shape can't be numbered in an integer type."""
    largest = max(shape.values())
    if largest > torch.iinfo(dtype).max:
        raise InputError(
            f"{largest:,} nodes or edges", limit=f"indices are {dtype}", hint="make graphs with int64 indices"
        )


def ring(count: int, over: int, like: torch.Tensor, shift: int = 0) -> torch.Tensor:
    """Return `count` numbers from 0 to `over` - 1 in turns, starting at `shift`."""
    return (torch.arange(count, dtype=like.dtype, device=like.device) + shift) % max(over, 1)


def more_rows(values: torch.Tensor, count: int) -> torch.Tensor:
    """Append copies of the first row, such as an atom of a type that exists; zeros where there is no row."""
    row = values[:1] if len(values) else values.new_zeros((1, *values.shape[1:]))
    return torch.cat([values, row.detach().expand(count, *values.shape[1:])])


def more_bonds(bonds: torch.Tensor, count: int) -> torch.Tensor:
    """Append vectors as long as the longest bond, shape (edges, 3), in turns along each axis: at right angles."""
    length = bonds.detach().norm(dim=-1).amax() if len(bonds) else bonds.new_tensor(_BOND)
    axes = torch.eye(3, dtype=bonds.dtype, device=bonds.device)
    return torch.cat([bonds, length * axes[torch.arange(count, device=bonds.device) % 3]])


def is_bond(name: str, values: torch.Tensor) -> bool:
    """Return whether edge data are the bonds' vectors, as alignn calls them."""
    return name == "r" and values.dim() == 2 and values.shape[1] == 3 and values.is_floating_point()
