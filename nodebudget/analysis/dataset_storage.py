"""What the graphs of a dataset take on disk and in host memory, from their counted sizes.

The fields are those that alignn's `Graph.atom_dgl_multigraph` stores. Constants beside the tensors are those of the
files of DGL 1.1, LMDB and PyG 2, and are checked by scripts/benchmarks/host_memory.py.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from nodebudget.datasets.size_table import SizeTable

_FLOAT, _INT = 4, 8  # bytes of float32 and int64

#: Bytes per node: cgcnn's 92 atom features, V and frac_coords.
_NODE = (92 + 1 + 3) * _FLOAT
#: Bytes per edge of its two ends, and of r and images, which the line graph has as fields of its nodes too.
_ENDS, _VECTORS = 2 * _INT, 6 * _FLOAT
#: Bytes per line-graph edge: its two ends and the cosine h.
_LINE_EDGE = 2 * _INT + _FLOAT

#: `dgl.save_graphs`: bytes per file, and per graph of its header, for the graph and for its line graph.
_BIN_FILE, _BIN_GRAPH, _BIN_LINE_GRAPH = 4136, 1064, 912
#: Bytes of Python and C++ objects and of malloc per DGL graph in memory, for the graph and for its line graph.
_OBJECTS_GRAPH, _OBJECTS_LINE_GRAPH = 11_500, 9_700
#: Bytes of a pickled record beside its tensors, for a graph with lattice and label, and for its line graph.
_PICKLE_GRAPH, _PICKLE_LINE_GRAPH = 3900, 1478
#: LMDB keeps a value on whole pages with a header of 16 bytes, and about 32 bytes of its key and place in the tree.
_PAGE, _PAGE_HEADER, _LMDB_KEY = 4096, 16, 32
#: PyG's file beside its tensors: bytes per file.
_PYG_FILE = 8000
#: Tensors of a Data, each with an int64 per graph for where it starts: x, V, pos, edge_index, r, images and y, and the
#: line graph's line_edge_index and h.
_PYG_FIELDS, _PYG_LINE_FIELDS = 7, 2
#: Bytes of the Data that PyG keeps of each sample that a process has taken.
_PYG_OBJECTS = 6100

#: Key in records → how a format is called.
FORMATS = {"dgl": "dgl.save_graphs", "alignn_lmdb": "alignn's LMDB", "pyg": "PyG's InMemoryDataset"}


@dataclass(frozen=True)
class Storage:
    """What a dataset takes in one format, bytes."""

    disk: int  #: The file.
    #: Memory of a process that holds the dataset. LMDB reads graphs when they are asked for, through pages that the
    #: system shares between processes and frees when memory is short.
    process: int
    #: What each forked worker of a DataLoader adds once it has taken all graphs: Python counts references in the
    #: objects, which copies their pages. Tensors stay shared. 0: nothing that grows with the dataset.
    worker: int


def dataset_storage(sizes: SizeTable) -> dict[str, Storage]:
    """Return what the graphs take in each format.

    Args:
        sizes: Counted sizes. Line graphs are stored if there is a column `line_edges`.

    Returns:
        Key of `FORMATS` → bytes; empty without a column `edges`: then the samples are no such graphs.
    """
    if "edges" not in sizes:
        return {}
    graphs, line_graphs = len(sizes), "line_edges" in sizes
    # As float64, which is exact up to 8 PiB and does not overflow beyond.
    nodes, edges = sizes["nodes"].astype(np.float64), sizes["edges"].astype(np.float64)
    line_edges = sizes["line_edges"] if line_graphs else np.zeros_like(nodes)
    # Each graph is pickled with its line graph, so that the vectors they share are stored once.
    tensors = nodes * _NODE + edges * (_ENDS + _VECTORS) + line_edges * float(_LINE_EDGE)
    once = int(tensors.sum())
    twice = once + (int(edges.sum()) * _VECTORS if line_graphs else 0)
    objects = graphs * (_OBJECTS_GRAPH + line_graphs * _OBJECTS_LINE_GRAPH)
    records = tensors + (_PICKLE_GRAPH + line_graphs * _PICKLE_LINE_GRAPH + _PAGE_HEADER)
    pages = int(np.ceil(records / _PAGE).sum())
    slices = (graphs + 1) * _INT * (_PYG_FIELDS + line_graphs * _PYG_LINE_FIELDS)
    labels = graphs * _FLOAT
    collated = once + labels + slices
    header = _BIN_FILE + graphs * (_BIN_GRAPH + line_graphs * _BIN_LINE_GRAPH)
    return {
        "dgl": Storage(header + labels + twice, objects + twice, objects),
        "alignn_lmdb": Storage(2 * _PAGE + pages * _PAGE + graphs * _LMDB_KEY, 0, 0),
        "pyg": Storage(_PYG_FILE + collated, collated, graphs * _PYG_OBJECTS),
    }


def storage_record(sizes: SizeTable) -> dict[str, Any]:
    """Return the same as plain values for JSON."""
    return {key: asdict(storage) for key, storage in dataset_storage(sizes).items()}
