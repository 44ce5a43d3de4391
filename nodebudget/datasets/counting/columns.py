"""Further sizes of samples: the lengths of their tensors, each a candidate column, and sizes by a rule."""

from __future__ import annotations

import math
import re
from array import array
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from nodebudget.datasets.counting.crystal import count_pairs
from nodebudget.datasets.counting.graph import count_graph, graphs_in, parts_of, read_size
from nodebudget.datasets.sample_error import SampleError
from nodebudget.datasets.size_table import STANDARD, SizeTable
from nodebudget.errors import InputError

CANDIDATES = "candidates"  #: Key of a table's settings: columns that are lengths of tensors.
_DEPTH = 3  #: How many containers or objects deep tensors are looked for.
_MAX_CANDIDATES = 4  #: Columns to measure beside the usual ones, those of the longest tensors first.
#: Names of tensors with an entry per atom, and per pair, of samples that are no graphs; SchNetPack's among them.
_ATOMS = ("z", "atomic_numbers", "numbers", "species", "pos", "positions", "coord")
_PAIRS = ("edge_index", "idx_i", "pair_indices", "senders")
_LAST = ("index", "face", "adj")  #: Endings of names of PyG's tensors that have an entry per edge along the last axis.


def tensor_lengths(sample: Any) -> dict[str, float]:
    """Return the length of each tensor or array of a sample by the name of its field, and of further graphs in it."""
    lengths: dict[str, float] = {}
    for number, graph in enumerate(graphs_in(sample, 2)[1:]):
        lengths[f"graph_{number + 1}_nodes"] = read_size(graph, "num_nodes")
    _collect(sample, "", _DEPTH, lengths)
    return lengths


def _collect(value: Any, name: str, depth: int, lengths: dict[str, float]) -> None:
    shape = getattr(value, "shape", None)
    if isinstance(shape, tuple) and hasattr(value, "dtype"):
        if len(shape):
            lengths[name or "length"] = int(shape[-1] if name.endswith(_LAST) and len(shape) > 1 else shape[0])
    elif hasattr(value, "in_degrees"):
        return  # of DGL, whose nodes and edges are counted
    elif hasattr(value, "to_dict") and hasattr(value, "keys"):  # of PyG
        _collect(dict(value.to_dict()), name, depth, lengths)
    elif depth and not isinstance(value, (str, bytes)):
        for part, inner in parts_of(value):
            if isinstance(value, Mapping) or not part.startswith("_"):
                _collect(inner, f"{name}_{part}" if name and not name.isdigit() else part, depth - 1, lengths)


def count_tensors(sample: Any) -> dict[str, float]:
    """Return `nodes`, and `edges` where there are any, of a sample without a graph, by the names of its tensors.

    Raises:
        SampleError: No tensor has the name of one with an entry per atom.
    """
    lengths = {name.strip("_").lower(): length for name, length in tensor_lengths(sample).items()}
    sizes = {
        size: lengths[name]
        for size, names in (("nodes", _ATOMS), ("edges", _PAIRS))
        for name in reversed(names)
        if name in lengths
    }
    if "nodes" not in sizes:
        raise SampleError(
            f"it is a {type(sample).__name__} without a graph of DGL, PyTorch Geometric, alignn, CHGNet or jraph, and "
            f"of its tensors ({', '.join(lengths) or 'none'}) none is called {', '.join(_ATOMS[:4])}"
        )
    return sizes


class LengthCollector:
    """Collects the lengths of the tensors of samples, one after the other, in 8 bytes each.

    It is a `size_of` that returns what another one does, if one is given.
    """

    def __init__(self, size_of: Callable[[Any], Mapping[str, float]] | None = None) -> None:
        self._size_of, self._count = size_of, 0
        self._lengths: dict[str, array[float]] = {}

    def __call__(self, sample: Any) -> Mapping[str, float]:
        """Collect those of a sample."""
        lengths = tensor_lengths(sample)
        if not self._count:
            self._lengths = {name: array("d") for name in lengths}
        self._count += 1
        # What one sample does not have is not a column.
        self._lengths = {name: values for name, values in self._lengths.items() if name in lengths}
        for name, values in self._lengths.items():
            values.append(lengths[name])
        return {} if self._size_of is None else self._size_of(sample)

    def add_to(self, table: SizeTable) -> SizeTable:
        """Add the lengths that say something new: neither the same for each graph, nor proportional to a column."""
        columns: dict[str, Any] = dict(table.columns)
        others = [np.ones(len(table)), *(values.astype(float) for values in columns.values())]
        chosen: list[str] = []
        for name, values in sorted(self._lengths.items(), key=lambda item: -sum(item[1])):
            lengths = np.asarray(values)
            is_new = len(lengths) == len(table) and not any(_proportional(lengths, other) for other in others)
            if is_new and name not in (*STANDARD, "graphs", "id") and len(chosen) < _MAX_CANDIDATES:
                others.append(lengths)
                columns[name] = lengths.astype(np.int64)
                chosen.append(name)
        settings = {**table.settings, CANDIDATES: chosen} if chosen else table.settings
        return SizeTable(columns, table.ids, settings)


def _proportional(values: Any, other: Any) -> bool:
    return bool(np.allclose(values * other.sum(), other * values.sum(), rtol=1e-9, atol=0))


def named(text: str) -> Callable[[Any], Mapping[str, float]]:
    """Return the rule that a name stands for: "squares", or "triplets(5.0)" with a cutoff in Å."""
    match = re.fullmatch(r"(squares)(?:\(\))?|triplets\(([\d.]+)\)", text.strip())
    if match is None:
        raise InputError(
            f"unknown column {text!r}", limit="'squares', 'triplets(5.0)'", hint="write a size_of for other columns"
        )
    return squares() if match[1] else triplets(float(match[2]))


def triplets(cutoff: float) -> Callable[[Any], Mapping[str, float]]:
    """Return a function that counts pairs of bonds that meet at an atom, of bonds up to `cutoff` Å.

    It is a `size_of`: for models that make their angles themselves, as DimeNet++ and M3GNet do. The samples are
    crystals or molecules in any form that `nodebudget.measure` takes, or PyTorch Geometric `Data` with `pos`.
    """
    if not (isinstance(cutoff, (int, float)) and math.isfinite(cutoff) and cutoff > 0):
        raise InputError(f"a cutoff of {cutoff!r} Å", limit="a length over 0", hint="give that of the model")

    def size_of(sample: Any) -> Mapping[str, float]:
        degrees = count_pairs(sample, float(cutoff))
        return {"triplets": int((degrees * (degrees - 1)).sum())}

    return size_of


def squares() -> Callable[[Any], Mapping[str, float]]:
    """Return a function that counts the pairs of atoms of a graph: a `size_of` for attention within a crystal."""

    def size_of(sample: Any) -> Mapping[str, float]:
        try:
            nodes = count_graph(sample)["nodes"]
        except SampleError:
            nodes = len(count_pairs(sample, None))
        return {"squares": nodes**2}

    return size_of
