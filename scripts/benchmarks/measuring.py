"""How fast sizes are measured, against building alignn's graphs and against the neighbour list alone.

    python scripts/benchmarks/measuring.py [DATA] [--limit 200] [--streams] [--json]

DATA is what `nodebudget measure` takes; by default, the AFLOW prototypes that come with pymatgen. The three methods
run in one process on one core and alternate every fifty crystals; times are processor time. The neighbour list alone
is one search to the radius in which every atom has its neighbours, given in advance: a lower bound for any way of
counting.
--streams adds datasets on disk: see streams.py.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from nodebudget.datasets.counting.crystal import count_crystal, to_atoms
from nodebudget.datasets.graph_settings import GraphSettings
from nodebudget.datasets.readers.open_dataset import open_data
from nodebudget.utils.optional_imports import require

SETTINGS = GraphSettings()
BLOCK = 50


def load(path: str | None) -> list[dict[str, Any]]:
    """Return JARVIS-style entries."""
    if path is not None:
        return list(open_data(path).items)
    library = require("pymatgen.analysis.prototypes").AFLOW_PROTOTYPE_LIBRARY
    atoms = require("jarvis.core.atoms")
    return [{"atoms": atoms.pmg_to_atoms(entry["snl"].structure).to_dict()} for entry in library]


def build(entry: dict[str, Any]) -> tuple[int, int, int]:
    """Build alignn's graph and line graph."""
    graph, line_graph = require("alignn.graphs").Graph.atom_dgl_multigraph(
        to_atoms(entry),
        neighbor_strategy=SETTINGS.strategy,
        cutoff=SETTINGS.cutoff,
        max_neighbors=SETTINGS.neighbors,
        use_canonize=SETTINGS.canonize,
        atom_features="atomic_number",
        compute_line_graph=True,
    )
    return graph.num_nodes(), graph.num_edges(), line_graph.num_edges()


def shell_radius(atoms: Any) -> float:
    """Return the radius in Å within which every atom has its neighbours."""
    search = require("vesin").NeighborList
    radius = 1.0
    while True:
        site = neighbor_list(atoms, radius, search)
        if np.bincount(site, minlength=atoms.num_atoms).min() >= SETTINGS.neighbors:
            return radius
        radius *= 1.05


def neighbor_list(atoms: Any, radius: float, search: Any) -> Any:
    """Search once with vesin."""
    neighbors = search(cutoff=radius, full_list=True, n_threads=1)
    return neighbors.compute(points=atoms.cart_coords, box=atoms.lattice_mat, periodic=True, quantities="iS")[0]


def timed(work: Callable[[Any], Any], items: list[Any]) -> tuple[float, list[Any]]:
    """Return the processor time of one call per item, in seconds, and the results."""
    start = time.process_time()
    results = [work(item) for item in items]
    return time.process_time() - start, results


def compare(entries: list[dict[str, Any]]) -> dict[str, Any]:
    """Time the three methods."""
    search = require("vesin").NeighborList
    seconds = dict.fromkeys(("measure", "build", "neighbor_list"), 0.0)
    different = 0
    timed(build, entries[:2])  # imports and first calls
    for start in range(0, len(entries), BLOCK):
        block = entries[start : start + BLOCK]
        ready = [(atoms, shell_radius(atoms)) for atoms in map(to_atoms, block)]
        taken, ours = timed(lambda entry: count_crystal(entry, SETTINGS), block)
        seconds["measure"] += taken
        taken, theirs = timed(build, block)
        seconds["build"] += taken
        seconds["neighbor_list"] += timed(lambda pair: neighbor_list(*pair, search), ready)[0]
        different += sum(a != b for a, b in zip(ours, theirs, strict=True))
        if sys.stderr.isatty():
            print(f"\r{start + len(block)}/{len(entries)} ", end="", file=sys.stderr)
    milliseconds = {name: 1000 * total / len(entries) for name, total in seconds.items()}
    return {
        "crystals": len(entries),
        "atoms_mean": float(np.mean([len(entry["atoms"]["elements"]) for entry in entries])),
        "different": different,
        "ms_per_crystal": milliseconds,
        "times_faster_than_building": seconds["build"] / seconds["measure"],
        "times_the_neighbor_list": seconds["measure"] / seconds["neighbor_list"],
    }


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", help="crystals, as `nodebudget measure` takes them")
    parser.add_argument("--limit", type=int, help="take so many crystals, spread evenly over the dataset")
    parser.add_argument("--streams", action="store_true", help="also run streams.py: datasets on disk, and memory")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    entries = load(options.data)
    if options.limit and options.limit < len(entries):
        entries = [entries[i] for i in np.linspace(0, len(entries) - 1, options.limit).astype(int)]
    result = compare(entries)
    if options.json:
        print(json.dumps(result, indent=2))
        return
    taken = result["ms_per_crystal"]
    print(
        f"{result['crystals']} crystals of {result['atoms_mean']:.1f} atoms; {result['different']} counted differently"
    )
    methods = {
        "build": "build alignn's graph and line graph:",
        "measure": "measure:",
        "neighbor_list": "the neighbour list:",
    }
    for method, text in methods.items():
        rate = 1000 / taken[method]
        print(f"{text:<36} {taken[method]:7.3f} ms per crystal, {rate:8,.0f} crystals per second and core")
    print(f"measuring is {result['times_faster_than_building']:.1f} times faster than building, ", end="")
    print(f"and takes {result['times_the_neighbor_list']:.1f} times the neighbour list alone")
    if options.streams:
        print()
        subprocess.run([sys.executable, Path(__file__).with_name("streams.py")], check=True)


if __name__ == "__main__":
    main()
