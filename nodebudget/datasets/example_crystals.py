"""Real crystals that come with pymatgen, to try everything without a dataset."""

from __future__ import annotations

from typing import Any

from nodebudget.utils.optional_imports import require

SMALL = 8  #: Maximum number of atoms of a cell in the small-cell dataset.


def example_datasets(limit: int | None = None) -> dict[str, list[dict[str, Any]]]:
    """Return the AFLOW prototypes that come with pymatgen as two JARVIS-style datasets, by the size of the cell.

    The target is the volume per atom, in Å³, which a network can learn from the structure.

    Args:
        limit: Maximum number of crystals of each dataset; None returns all.

    Raises:
        MissingError: pymatgen or jarvis-tools is not installed.
    """
    library = require("pymatgen.analysis.prototypes").AFLOW_PROTOTYPE_LIBRARY
    crystals = [_jarvis_dict(entry["snl"].structure, str(entry["tags"]["aflow"])) for entry in library]
    small = [crystal for crystal in crystals if len(crystal["atoms"]["elements"]) <= SMALL]
    large = [crystal for crystal in crystals if len(crystal["atoms"]["elements"]) > SMALL]
    return {"small cells": small[:limit], "large cells": large[:limit]}


def _jarvis_dict(structure: Any, name: str) -> dict[str, Any]:
    atoms = require("jarvis.core.atoms").Atoms(
        lattice_mat=structure.lattice.matrix,
        coords=structure.frac_coords,
        elements=[site.specie.symbol for site in structure],
        cartesian=False,
    )
    return {"jid": name, "target": float(structure.volume / len(structure)), "atoms": atoms.to_dict()}
