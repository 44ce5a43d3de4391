"""Graphs that alignn builds, and the sizes of those that can't be counted otherwise."""

from __future__ import annotations

import warnings
from typing import Any

from nodebudget.datasets.counting.graph import count_graph
from nodebudget.datasets.counting.neighbors import Counts
from nodebudget.datasets.graph_settings import GraphSettings
from nodebudget.datasets.sample_error import SampleError
from nodebudget.errors import MissingError, NodeBudgetError
from nodebudget.utils.optional_imports import require


def count_built(atoms: Any, settings: GraphSettings) -> Counts:
    """Build alignn's graph of jarvis `Atoms` and return its nodes, edges and line-graph edges."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if settings.strategy == "pure_torch":
                graph = pure_graphs(atoms, settings, "atomic_number")
            else:
                # DGL's line graph takes long and follows from the edges, but radius_graph_jarvis fails without one.
                line_graph = settings.strategy == "radius_graph_jarvis"
                graph = dgl_graphs(atoms, settings, "atomic_number", line_graph=line_graph)
    except ImportError as error:
        raise MissingError(
            f"alignn's strategy {settings.strategy!r} needs a package that does not import: {error}",
            hint="pip install 'nodebudget[alignn]' matscipy",
        ) from error
    except NodeBudgetError:
        raise
    except Exception as error:
        # Whatever ends alignn here would end the training run as well.
        raise SampleError(f"alignn can't build its graph: {type(error).__name__}: {error}") from error
    sizes = count_graph(graph)
    return sizes["nodes"], sizes["edges"], sizes["line_edges"]


def pure_graphs(atoms: Any, settings: GraphSettings, atom_features: str) -> tuple[Any, Any]:
    """Build alignn's crystal graph and line graph of jarvis `Atoms` as `TorchGraph`s, without DGL.

    The cutoff, three-body cutoff and number of neighbours of the settings apply. `atom_features` names jarvis's
    features, such as "cgcnn".
    """
    return require("alignn.torch_graph_builder").build_pure_torch_graph(  # type: ignore[no-any-return]
        atoms=atoms,
        two_body_cutoff=settings.cutoff,
        three_body_cutoff=settings.three_body_cutoff,
        max_neighbors=settings.neighbors,
        atom_features=atom_features,
    )


def dgl_graphs(atoms: Any, settings: GraphSettings, atom_features: str, *, line_graph: bool) -> Any:
    """Build alignn's crystal graph of jarvis `Atoms` with DGL; with `line_graph`, the pair of it and its line graph.

    `atom_features` names jarvis's features, such as "cgcnn".
    """
    return require("alignn.graphs").Graph.atom_dgl_multigraph(
        atoms,
        neighbor_strategy=settings.strategy,
        cutoff=settings.cutoff,
        max_neighbors=settings.neighbors,
        use_canonize=settings.canonize,
        cutoff_extra=settings.cutoff_extra,
        three_body_cutoff=settings.three_body_cutoff,
        atom_features=atom_features,
        compute_line_graph=line_graph,
    )
