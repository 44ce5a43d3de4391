"""Real crystals that come with packages from PyPI, and crystals made from them, as jarvis Atoms."""

from __future__ import annotations

import functools
import warnings
from typing import Any

import numpy as np

from nodebudget.frameworks import require

#: Settings of the project's default graphs, as alignn names them.
ALIGNN = {"neighbor_strategy": "k-nearest", "cutoff": 8.0, "max_neighbors": 12, "use_canonize": True}


@functools.cache
def prototypes() -> tuple[Any, ...]:
    """pymatgen's AFLOW prototypes (Mehl et al., The AFLOW Library of Crystallographic Prototypes)."""
    library = require("pymatgen.analysis.prototypes").AFLOW_PROTOTYPE_LIBRARY
    return tuple(from_structure(entry["snl"].structure) for entry in library)


def small_prototypes(most: int) -> list[Any]:
    return [atoms for atoms in prototypes() if atoms.num_atoms <= most]


def from_structure(structure: Any) -> Any:
    return make(structure.lattice.matrix, structure.frac_coords, [site.specie.symbol for site in structure])


def make(lattice: Any, frac: Any, elements: list[str] | None = None) -> Any:
    frac = np.asarray(frac, dtype=float)
    return require("jarvis.core.atoms").Atoms(
        lattice_mat=np.asarray(lattice, dtype=float).tolist(),
        coords=frac.tolist(),
        elements=elements or ["Si"] * len(frac),
        cartesian=False,
    )


def entries(most: int = 6, count: int = 12) -> list[dict[str, Any]]:
    """A small JARVIS-style dataset."""
    found = small_prototypes(most)[:count]
    return [{"jid": f"AFLOW-{i}", "atoms": atoms.to_dict(), "target": float(i)} for i, atoms in enumerate(found)]


def alignn_graphs(atoms: Any, **options: Any) -> tuple[Any, Any]:
    """alignn's own graph and line graph."""
    build = require("alignn.graphs").Graph.atom_dgl_multigraph
    with warnings.catch_warnings():
        # alignn's own ways of making tensors are not ours to mend.
        warnings.simplefilter("ignore")
        graph, line_graph = build(
            atoms, **{**ALIGNN, "atom_features": "atomic_number", "compute_line_graph": True, **options}
        )
    return graph, line_graph


def alignn_counts(atoms: Any, **options: Any) -> tuple[int, int, int]:
    graph, line_graph = alignn_graphs(atoms, **options)
    return graph.num_nodes(), graph.num_edges(), line_graph.num_edges()
