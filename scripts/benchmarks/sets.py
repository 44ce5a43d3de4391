"""Sizes to pack: real ones, from `data/`, and generated ones."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from nodebudget import SizeTable

Make = Callable[[], SizeTable]

DATA = Path(__file__).parent / "data"

#: Bytes of an ALIGNN training step, as measured: a node, an edge, an edge of the line graph.
PRICES = {"nodes": 24_000, "edges": 13_500, "line_edges": 5_500}


def with_bytes(nodes: np.ndarray, edges: np.ndarray | None = None, line_edges: np.ndarray | None = None) -> SizeTable:
    """Make a table with a column of bytes, by the prices above; by nodes alone where that is all there is."""
    columns = {"nodes": nodes, "edges": edges, "line_edges": line_edges}
    columns = {name: np.asarray(values, dtype=np.int64) for name, values in columns.items() if values is not None}
    price = sum(PRICES[name] * values for name, values in columns.items())
    return SizeTable.from_counts(**columns, bytes=price)


def read(name: str) -> SizeTable:
    """Read a file of `data/`."""
    with gzip.open(DATA / f"{name}.csv.gz", "rt", encoding="utf-8", newline="") as text:
        rows = list(csv.DictReader(text))
    if "n_structures" in rows[0]:
        nodes = np.repeat([int(row["n_atoms"]) for row in rows], [int(row["n_structures"]) for row in rows])
        # As a trajectory dataset comes: in no order.
        return with_bytes(np.random.default_rng(0).permutation(nodes))
    nodes = np.array([int(row["n_atoms"]) for row in rows])
    if not rows[0]["n_edges_knn12"]:
        return with_bytes(nodes)
    edges, line, own = (
        np.array([int(row[key]) for row in rows]) for key in ("n_edges_knn12", "n_line_edges", "n_self_edges")
    )
    return with_bytes(nodes, edges, line - own)


def lognormal(graphs: int) -> SizeTable:
    """Draw sizes with a long tail: mean 24 nodes."""
    return with_bytes(np.maximum(1, np.random.default_rng(0).lognormal(3, 0.6, graphs)).astype(np.int64))


def mixture() -> SizeTable:
    """Put metal-organic frameworks and dense crystals into one dataset."""
    parts = [read(name) for name in ("core_mof_2014", "mpts_52_val", "mp_20_biternary_val")]
    return with_bytes(*(np.concatenate([part[column] for part in parts]) for column in PRICES))


def sparse_and_dense(graphs: int) -> SizeTable:
    """Draw graphs of which half have few edges to a node and half have many, so that two maxima bind."""
    rng = np.random.default_rng(0)
    nodes = np.maximum(2, rng.lognormal(3, 0.5, graphs)).astype(np.int64)
    degree = np.where(rng.random(graphs) < 0.5, 6, 40)
    return with_bytes(nodes, nodes * degree, nodes * degree**2)


MIXTURE = "MOFs and dense crystals"
REAL = (
    *("jarvis_dft3d_natoms_only", "jarvis_dft3d_tc_supercon", "mpts_52_val", "mp_20_biternary_val"),
    *("perov5", "core_mof_2014", "mptrj_natoms_histogram"),
)


def one_maximum() -> dict[str, Make]:
    """Return the sets that are packed under a maximum of bytes, by name."""
    real = {name: partial(read, name) for name in REAL}
    return {**real, "lognormal (1M, generated)": partial(lognormal, 1_000_000), MIXTURE: mixture}


def two_maxima() -> dict[str, Make]:
    """Return the sets that are packed under a maximum of nodes and one of line-graph edges, by name."""
    return {
        "core_mof_2014": partial(read, "core_mof_2014"),
        MIXTURE: mixture,
        "sparse and dense (generated)": partial(sparse_and_dense, 50_000),
    }
