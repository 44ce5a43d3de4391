"""Turn a CSV of crystals with a column `cif` (P1, as pymatgen writes them) into a JARVIS-style JSON.

    python scripts/mpts_to_jarvis.py mpts_52_val.csv.gz --limit 300 -o mpts.json

Atoms are placed as ase's CIF reader places them: the first lattice vector along x, Cartesian coordinates.
That matters: alignn splits shells of neighbours by exact comparison of distances, so the same crystal in
another orientation has slightly different edges.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
from ase.geometry import cellpar_to_cell

CELL = [f"_cell_{name}" for name in ("length_a", "length_b", "length_c", "angle_alpha", "angle_beta", "angle_gamma")]


def read_atoms(cif: str) -> dict:
    """Read a P1 CIF with one loop of atom sites."""
    found = dict(re.findall(r"^(_cell_\w+)\s+(\S+)", cif, flags=re.MULTILINE))
    lattice = cellpar_to_cell([float(found[name]) for name in CELL])
    head = re.findall(r"^\s*(_atom_site_\w+)", cif, flags=re.MULTILINE)
    symbol, x = head.index("_atom_site_type_symbol"), head.index("_atom_site_fract_x")
    sites = [line.split() for line in cif.rpartition(head[-1])[2].splitlines()]
    sites = [site for site in sites if len(site) == len(head)]
    frac = np.array([[float(value) for value in site[x : x + 3]] for site in sites])
    return {
        "lattice_mat": lattice.tolist(),
        "coords": (frac @ lattice).tolist(),
        "elements": [re.match(r"[A-Z][a-z]?", site[symbol]).group() for site in sites],
        "cartesian": True,
        "props": [""] * len(sites),
    }


def read_entries(path: Path, least: int, most: int) -> Iterator[dict]:
    """Yield a JARVIS entry a row, with the row's other columns beside its atoms."""
    csv.field_size_limit(2**31 - 1)
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as text:
        for row in csv.DictReader(text):
            atoms = read_atoms(row.pop("cif"))
            if least <= len(atoms["elements"]) <= most:
                yield {"jid": row["material_id"], "atoms": atoms, **{k: _number(v) for k, v in row.items() if k}}


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def main() -> None:
    """Convert."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("csv", type=Path, help="the CSV, or .csv.gz")
    parser.add_argument("-o", "--output", type=Path, required=True, help="where the JSON goes")
    parser.add_argument("--limit", type=int, help="stop after so many crystals")
    parser.add_argument("--min-atoms", type=int, default=1, help="leave smaller crystals out")
    parser.add_argument("--max-atoms", type=int, default=10**9, help="leave larger crystals out")
    options = parser.parse_args()
    entries = list(islice(read_entries(options.csv, options.min_atoms, options.max_atoms), options.limit))
    options.output.write_text(json.dumps(entries), encoding="utf-8")
    print(f"{len(entries)} crystals in {options.output}")


if __name__ == "__main__":
    main()
