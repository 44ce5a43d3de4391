"""Batches padded to a static shape, in a training loop or as a collate function."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch

from nodebudget.datasets.counting.graph import is_graph
from nodebudget.errors import InputError
from nodebudget.workloads.padding.graphs import is_dgl, pad_graph, pad_line_graph, sizes_of
from nodebudget.workloads.padding.model_check import check_padding
from nodebudget.workloads.padding.pyg import is_pyg, pad_pyg, pyg_sizes, unclear
from nodebudget.workloads.padding.rows import Extra, extra_of

Shape = Mapping[str, int]


@runtime_checkable
class Paddable(Protocol):
    """A batch of another class that can pad itself."""

    def batch_sizes(self) -> Mapping[str, int]:
        """Return the sizes of the batch: `graphs`, `nodes` and every other column of the shape."""

    def pad_to(self, shape: Shape) -> Any:
        """Return the batch with padding graphs behind its graphs, so that its sizes are those of the shape."""


def pad_batch(batch: Any, shape: Shape | Sequence[Shape]) -> tuple[Any, torch.Tensor]:
    """Pad a batch to a static shape, with one more graph that takes up what is left.

    Real graphs come first and stay as they are. Where the batch has fewer graphs than the shape allows, further
    padding graphs have a node each. Padding edges are loops, or lead to a neighbor where nodes have positions; padding
    line-graph edges connect padding edges. Features of padding are those of the first real node, edge and graph; bonds
    (`r`) are as long as the longest real one and at right angles.

    Args:
        batch: A batched graph of DGL, alignn's `TorchGraph`, PyTorch Geometric's `Batch`, an object with
            `batch_sizes()` and `pad_to(shape)`, or tuples, lists and dicts with one of these, its line graph, and
            tensors with a row for each graph, node, edge or line-graph edge.
        shape: Sizes after padding, such as `sampler.shape`: `graphs`, `nodes`, and `edges` and `line_edges` where the
            batch has them. Of several (`sampler.shapes`) the smallest that holds the batch.

    Returns:
        The padded batch, and a mask that is True for real graphs, shape (graphs,), on the batch's device. A loss that
        does not take the mask trains on padding as well.

    Raises:
        InputError: The batch is empty, larger than the shape, or without one of its columns; the shape leaves no
            place for a padding graph; indices overflow; or it is not clear what a tensor belongs to.
    """
    graph, line_graph = _graphs(batch)
    sizes = _sizes(graph, line_graph)
    chosen = _smallest(sizes, [shape] if isinstance(shape, Mapping) else shape)
    extra = extra_of(sizes, chosen)
    mask = torch.arange(chosen["graphs"], device=_device(graph)) < sizes["graphs"]
    return _Padding(graph, line_graph, sizes, chosen, extra).of(batch), mask


def batch_sizes(batch: Any) -> dict[str, int]:
    """Return the sizes of a batch that `pad_batch` pads: `graphs`, `nodes`, and further columns that it has."""
    return _sizes(*_graphs(batch))


class static_collate:  # noqa: N801 — it stands where functions stand, and worker processes must be able to pickle it
    """A collate function that pads what another one makes: `collate_fn=static_collate(collate, sampler.shape)`.

    The loader then yields a padded batch and its mask.

    Args:
        collate_fn: Makes a batch of a list of samples.
        shape: See `pad_batch`.
        model: Looked at for layers in which padding would be seen, if given: see `check_padding`.
        exact: False warns of such layers instead of refusing them.

    Raises:
        InputError: The model has such layers.
    """

    def __init__(
        self,
        collate_fn: Callable[[list[Any]], Any],
        shape: Shape | Sequence[Shape],
        model: torch.nn.Module | None = None,
        *,
        exact: bool = True,
    ) -> None:
        self._collate, self._shape = collate_fn, shape
        if model is not None:
            check_padding(model, exact=exact)

    def __call__(self, samples: list[Any]) -> tuple[Any, torch.Tensor]:
        """Return the padded batch and its mask."""
        return pad_batch(self._collate(samples), self._shape)


class _Padding:
    def __init__(self, graph: Any, line_graph: Any, sizes: Shape, shape: Shape, extra: Extra) -> None:
        self._graph, self._line_graph, self._sizes, self._extra = graph, line_graph, sizes, extra
        if is_pyg(graph):
            self._padded = pad_pyg(graph, extra, shape)
        elif _pads_itself(graph):
            self._padded = graph.pad_to(shape)
        else:
            self._padded = pad_graph(graph, extra, shape)
        self._padded_line = None if line_graph is None else pad_line_graph(line_graph, extra, shape, self._padded)

    def of(self, value: Any, name: str = "the batch") -> Any:
        """Return a part of the batch, padded."""
        if value is self._graph:
            return self._padded
        if value is self._line_graph and value is not None:
            return self._padded_line
        if torch.is_tensor(value):
            return self._tensor(value, name)
        if isinstance(value, Mapping):
            return {key: self.of(part, f"{name}[{key!r}]") for key, part in value.items()}
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            return type(value)(
                *(self.of(part, f"{name}.{key}") for key, part in zip(value._fields, value, strict=True))
            )
        if isinstance(value, (tuple, list)):
            return type(value)(self.of(part, f"{name}[{place}]") for place, part in enumerate(value))
        return value

    def _tensor(self, value: torch.Tensor, name: str) -> torch.Tensor:
        if not value.dim():
            return value
        owners = [owner for owner, size in self._sizes.items() if size == len(value) and hasattr(self._extra, owner)]
        counts = {int(getattr(self._extra, owner)) for owner in owners}
        if len(counts) != 1:
            raise unclear(name, value, self._sizes)
        row = value[:1].detach()
        return torch.cat([value, row.expand(counts.pop(), *value.shape[1:])])


def _pads_itself(value: Any) -> bool:
    return isinstance(value, Paddable) and not isinstance(value, (torch.Tensor, Mapping))


def _graphs(batch: Any) -> tuple[Any, Any]:
    """Return the graph of a batch and its line graph, or None."""
    graphs = list(_all_graphs(batch))
    if not graphs:
        raise InputError(
            f"a batch of type {type(batch).__name__} without a graph",
            limit="graphs of DGL, alignn and PyTorch Geometric, classes with batch_sizes() and pad_to(shape)",
            hint="give the batch a class with these two methods",
        )
    first = graphs[0]
    if len(graphs) == 1:
        return first, None
    if len(graphs) == 2 and not any(is_pyg(graph) or _pads_itself(graph) for graph in graphs):
        line_graph = graphs[1]
        if sizes_of(line_graph)[1] == sizes_of(first)[2]:
            return first, line_graph
    raise InputError(
        f"a batch of {len(graphs)} graphs, of which the second has not a node for each edge of the first",
        limit="a graph, and its line graph",
        hint="give the batch a class with batch_sizes() and pad_to(shape)",
    )


def _all_graphs(value: Any) -> Iterator[Any]:
    if _pads_itself(value) or is_pyg(value) or is_dgl(value) or is_graph(value):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _all_graphs(part)
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from _all_graphs(part)


def _sizes(graph: Any, line_graph: Any) -> dict[str, int]:
    if _pads_itself(graph):
        return {name: int(size) for name, size in graph.batch_sizes().items()}
    if not is_pyg(graph) and hasattr(graph, "edge_index"):
        raise InputError("a single graph of PyTorch Geometric", hint="collate it first: Batch.from_data_list([graph])")
    counts = pyg_sizes(graph) if is_pyg(graph) else sizes_of(graph)
    sizes = dict(zip(("graphs", "nodes", "edges"), counts, strict=True))
    return sizes if line_graph is None else {**sizes, "line_edges": sizes_of(line_graph)[2]}


def _smallest(sizes: Shape, shapes: Sequence[Shape]) -> Shape:
    """Return the first shape that holds the sizes with their padding, or the last one."""
    for shape in shapes[:-1]:
        try:
            extra_of(sizes, shape)
        except InputError:
            continue
        return shape
    return shapes[-1]


def _device(graph: Any) -> Any:
    device = getattr(graph, "device", None)
    if device is None and is_pyg(graph):
        return graph.ptr.device
    return device
