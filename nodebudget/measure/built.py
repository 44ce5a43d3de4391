"""Strategies of alignn that are not counted here: alignn builds the graph, and its sizes are read off."""

from __future__ import annotations

import warnings
from typing import Any

from nodebudget.errors import MissingError, NodeBudgetError
from nodebudget.frameworks import require
from nodebudget.measure.graphs import count_graph
from nodebudget.measure.neighbors import Counts, UnusableError
from nodebudget.measure.settings import GraphSettings


def count_built(atoms: Any, settings: GraphSettings) -> Counts:
    """Build alignn's graph and read its sizes.

    Returns:
        nodes, edges and line-graph edges.

    Raises:
        UnusableError: alignn could build no graph.
        MissingError: alignn, DGL or a package that this strategy needs is not there.
    """
    build = require("alignn.graphs").Graph.atom_dgl_multigraph
    # DGL's line graph takes long and follows from the edges, but the pure-torch builder leaves some out,
    # and alignn's radius_graph_jarvis fails without one.
    with_line_graph = settings.strategy in ("pure_torch", "radius_graph_jarvis")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            graph = build(
                atoms,
                neighbor_strategy=settings.strategy,
                cutoff=settings.cutoff,
                max_neighbors=settings.neighbors,
                use_canonize=settings.canonize,
                cutoff_extra=settings.cutoff_extra,
                three_body_cutoff=settings.three_body_cutoff,
                atom_features="atomic_number",
                compute_line_graph=with_line_graph,
            )
    except ImportError as error:
        raise MissingError(
            f"alignn's strategy {settings.strategy!r} needs a package that does not import: {error}",
            hint="pip install 'nodebudget[alignn]' matscipy",
        ) from error
    except NodeBudgetError:
        raise
    except Exception as error:
        # Whatever ends alignn here would end the training run as well.
        raise UnusableError(f"alignn can't build its graph: {type(error).__name__}: {error}") from error
    sizes = count_graph(graph)
    return sizes["nodes"], sizes["edges"], sizes["line_edges"]
