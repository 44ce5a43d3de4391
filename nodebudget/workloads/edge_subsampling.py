"""The same graphs with a part of their edges: probes with other ratios of sizes, for graphs of any library."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from nodebudget.datasets.measure import measure_dataset
from nodebudget.datasets.size_table import SizeTable
from nodebudget.utils.optional_imports import load_dgl
from nodebudget.workloads.protocol import Variant, Workload, to_sample

#: Shares of the edges that stay.
_KEEP = (0.8, 0.5)


class EdgeSubsampled:
    """Samples of a workload with a part of their edges, and the same nodes.

    Args:
        workload: Whose samples they are.
        keep: Share of the edges that stays.
    """

    def __init__(self, workload: Workload, keep: float) -> None:
        self._workload, self._keep = workload, keep

    def sizes(self, items: Sequence[Any]) -> SizeTable:
        """Count the thinned graphs."""
        return measure_dataset([self.sample(item) for item in items])

    def sample(self, item: Any) -> Any:
        """Make a thinned sample of an item."""
        return thin(to_sample(self._workload, item), self._keep)


def can_be_thinned(sample: Any) -> bool:
    """Whether a sample is a graph of DGL or PyTorch Geometric, or a tuple that starts with one of DGL."""
    return _is_dgl(_first(sample)) or hasattr(sample, "edge_subgraph")


def thin(sample: Any, keep: float) -> Any:
    """Return a sample with a part of its edges; features stay with the nodes and edges that stay.

    Args:
        sample: A DGL graph, a PyG `Data`, or a tuple `(g, …)` or `(g, lg, …)` of DGL graphs.
        keep: Share of the edges that stays.
    """
    if not _is_dgl(_first(sample)):
        return sample.edge_subgraph(torch.from_numpy(_stays(sample.num_nodes, sample.num_edges, keep)))
    dgl, graph = load_dgl(), _first(sample)
    stays = torch.from_numpy(np.flatnonzero(_stays(graph.num_nodes(), graph.num_edges(), keep))).to(graph.idtype)
    thinned = dgl.edge_subgraph(graph, stays, relabel_nodes=False, store_ids=False)
    if not isinstance(sample, (tuple, list)):
        return thinned
    rest = list(sample[1:])
    if rest and _is_dgl(rest[0]) and rest[0].num_nodes() == graph.num_edges():
        # The nodes of the line graph are the edges of the graph.
        rest[0] = dgl.node_subgraph(rest[0], stays.to(rest[0].idtype), store_ids=False)
    return (thinned, *rest)


def thinned_variants(workload: Workload, items: Sequence[Any]) -> list[Variant]:
    """Return variants with fewer edges, for a workload that names none of its own.

    None where its samples are no graphs that can be thinned, or where its step does not take thinned ones: it is
    tried on the items.

    Args:
        workload: Its optimizer makes up to two steps.
        items: A few small ones of the data, at least one.
    """
    if not can_be_thinned(to_sample(workload, items[0])):
        return []
    variants = [EdgeSubsampled(workload, keep) for keep in _KEEP]
    try:
        for variant in variants:
            workload.step(workload.batch([variant.sample(item) for item in items]))
    except Exception:  # the user's code may refuse such graphs in any way; what it says of its own data is told later
        return []
    finally:
        workload.optimizer.zero_grad(set_to_none=True)
    return list(variants)


def variants_of(workload: Workload, items: Sequence[Any]) -> list[Variant]:
    """Return the variants that a workload names for items like these, or thinned ones where it names none."""
    own = getattr(workload, "variants", None)
    return thinned_variants(workload, items) if own is None else list(own(items[0]))


def _first(sample: Any) -> Any:
    return sample[0] if isinstance(sample, (tuple, list)) and sample else sample


def _is_dgl(graph: Any) -> bool:
    return hasattr(graph, "in_degrees") and hasattr(graph, "idtype")


def _stays(nodes: int, edges: int, keep: float) -> Any:
    # Depends on the graph alone, so that it is the same when it is measured and when it is run.
    return np.random.default_rng([nodes, edges]).random(edges) < keep
