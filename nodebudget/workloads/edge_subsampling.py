"""The same graphs with a part of their edges: probes with other ratios of sizes, for graphs of any library."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from nodebudget.datasets.size_table import SizeTable
from nodebudget.utils.optional_imports import load_dgl
from nodebudget.workloads.protocol import Variant, Workload, to_sample
from nodebudget.workloads.sample_sizes import count_sample, table_of

_SHARES = (0.8, 0.5)  #: Shares of the edges in the variants.


class EdgeSubsampled:
    """Samples of a workload with a share of their edges, and the same nodes."""

    def __init__(self, workload: Workload, share: float) -> None:
        self._workload, self._share = workload, share

    def sizes(self, items: Sequence[Any]) -> SizeTable:
        """Count the subsampled graphs."""
        rows = [count_sample(self._workload, self.sample(item)) for item in items]
        shared = set(rows[0]).intersection(*rows)
        return table_of([{name: row[name] for name in rows[0] if name in shared} for row in rows], None, {})

    def sample(self, item: Any) -> Any:
        """Make a sample with a share of its edges."""
        return subsample_edges(to_sample(self._workload, item), self._share)


def can_subsample_edges(sample: Any) -> bool:
    """Return whether a sample is a graph of DGL or PyTorch Geometric, or a tuple that starts with one of DGL."""
    return _is_dgl(_first(sample)) or hasattr(sample, "edge_subgraph")


def subsample_edges(sample: Any, share: float) -> Any:
    """Return a DGL graph, a PyG `Data`, `(g, …)` or `(g, lg, …)` with a share of its edges, and their features."""
    if not _is_dgl(_first(sample)):
        return sample.edge_subgraph(torch.from_numpy(_mask(sample.num_nodes, sample.num_edges, share)))
    dgl, graph = load_dgl(), _first(sample)
    edges = torch.from_numpy(np.flatnonzero(_mask(graph.num_nodes(), graph.num_edges(), share))).to(graph.idtype)
    subgraph = dgl.edge_subgraph(graph, edges, relabel_nodes=False, store_ids=False)
    if not isinstance(sample, (tuple, list)):
        return subgraph
    rest = list(sample[1:])
    if rest and _is_dgl(rest[0]) and rest[0].num_nodes() == graph.num_edges():
        # The nodes of the line graph are the edges of the graph.
        rest[0] = dgl.node_subgraph(rest[0], edges.to(rest[0].idtype), store_ids=False)
    return (subgraph, *rest)


def edge_subsampled_variants(workload: Workload, items: Sequence[Any]) -> list[Variant]:
    """Return variants with fewer edges, for a workload that names none of its own.

    Runs one step per variant on the items, a few small ones. The list is empty if the samples are not graphs, or if a
    step raises.
    """
    if not can_subsample_edges(to_sample(workload, items[0])):
        return []
    variants: list[Variant] = [EdgeSubsampled(workload, share) for share in _SHARES]
    try:
        for variant in variants:
            workload.step(workload.batch([variant.sample(item) for item in items]))
    except Exception:  # the user's code may need all edges; errors on the original data are reported by the probes
        return []
    finally:
        workload.optimizer.zero_grad(set_to_none=True)
    return variants


def variants_of(workload: Workload, items: Sequence[Any]) -> list[Variant]:
    """Return the workload's own variants for items like these, or edge-subsampled ones if it has no `variants`."""
    variants = getattr(workload, "variants", None)
    return edge_subsampled_variants(workload, items) if variants is None else list(variants(items[0]))


def _first(sample: Any) -> Any:
    return sample[0] if isinstance(sample, (tuple, list)) and sample else sample


def _is_dgl(graph: Any) -> bool:
    return hasattr(graph, "in_degrees") and hasattr(graph, "idtype")


def _mask(nodes: int, edges: int, share: float) -> Any:
    # Seeded by the graph alone, so that measuring it and running it give the same edges.
    return np.random.default_rng([nodes, edges]).random(edges) < share
