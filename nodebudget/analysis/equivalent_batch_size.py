"""Equivalent batch sizes: which batch size on dataset B equals 64 on dataset A."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nodebudget.calibration.memory_model import Calibration
from nodebudget.datasets.size_table import STANDARD, SizeTable
from nodebudget.errors import InputError
from nodebudget.utils.checks import check_count

_PREFERENCE = ("bytes", "line_edges", "edges", "nodes")  #: What a suggestion can be based on, the best first.

_REASONS = {
    "bytes": "so that a mean batch takes the same bytes, as predicted by the calibration",
    "line_edges": "so that a mean batch has the same number of line-graph edges, which take most of the memory of "
    "ALIGNN-like models",
    "edges": "so that a mean batch has the same number of edges; line-graph edges or a calibration would predict "
    "memory better",
    "nodes": "so that a mean batch has the same number of nodes; measured sizes or a calibration would predict memory "
    "better",
}


@dataclass(frozen=True)
class Suggestion:
    """An equivalent batch size."""

    batch_size: int  #: The batch size, on the best available basis.
    basis: str  #: "bytes", "line_edges", "edges" or "nodes".
    by: Mapping[str, int | None]  #: The batch size on each basis; None for one that is not available.

    @property
    def sentence(self) -> str:
        """The batch size and its basis, in one sentence."""
        return f"Use batch size {self.batch_size}, {_REASONS[self.basis]}."

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {**self.__dict__, "by": dict(self.by), "sentence": self.sentence}


@dataclass(frozen=True)
class LearningRate:
    """How to scale the learning rate when the number of graphs per step changes."""

    ratio: float  #: New graphs per step over the old ones.
    linear: float  #: Factor by the linear rule.
    square_root: float  #: Factor by the square-root rule.
    sentences: tuple[str, str]  #: Each rule in one sentence, with its source.

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {**self.__dict__, "sentences": list(self.sentences)}


def advise_learning_rate(before: float, after: float) -> LearningRate:
    """Scale the learning rate to another number of graphs per step.

    Args:
        before: Graphs per step for which the learning rate was chosen.
        after: Graphs per step from now on; their mean if batches differ.

    Raises:
        InputError: One of them is not positive.
    """
    for graphs in (before, after):
        _check_positive(graphs, f"{graphs!r} graphs per step", "give the graphs of a whole step, over all ranks")
    ratio = after / before
    square_root = math.sqrt(ratio)
    sentences = (
        f"Linear rule, for SGD: multiply the learning rate by {ratio:.3g}; if it grows, warm up over the first epochs "
        "(Goyal et al. 2017, arXiv:1706.02677).",
        f"Square-root rule, which keeps the variance of a step: multiply the learning rate by {square_root:.3g} "
        "(Krizhevsky 2014, arXiv:1404.5997; Hoffer et al. 2017, arXiv:1705.08741).",
    )
    return LearningRate(ratio, ratio, square_root, sentences)


def suggest_batch_size(
    reference: SizeTable | float,
    batch_size: int,
    target: SizeTable | float,
    *,
    calibration: Calibration | None = None,
) -> Suggestion:
    """Suggest the batch size on `target` that equals `batch_size` on `reference`.

    It is the batch size times the ratio of the mean sizes, rounded down to at least 1.

    Args:
        reference: Sizes of the dataset with the known batch size, or its mean number of nodes.
        batch_size: Graphs per batch of the reference dataset.
        target: Sizes of the other dataset, or its mean number of nodes.
        calibration: Predicts bytes, the preferred basis.

    Raises:
        InputError: The batch size is under 1, a mean is not positive, or a dataset is empty.
    """
    size = check_count("batch_size", batch_size, 1)
    first, second = _means(reference, calibration), _means(target, calibration)
    by: dict[str, int | None] = dict.fromkeys((*STANDARD, "bytes"))
    by |= {
        name: max(1, math.floor(size * mean / second[name] + 1e-9))
        for name, mean in first.items()
        if mean and second.get(name)
    }
    for basis in _PREFERENCE:
        if (chosen := by[basis]) is not None:
            return Suggestion(chosen, basis, by)
    raise InputError("the two datasets have no size in common", hint="measure both with 'nodebudget measure'")


def _means(data: SizeTable | float, calibration: Calibration | None) -> dict[str, float]:
    if not isinstance(data, SizeTable):
        _check_positive(data, f"a mean of {data!r} nodes", "give the mean number of nodes, or a dataset")
        return {"nodes": float(data)}
    if not len(data):
        raise InputError("the dataset is empty", hint="give one with crystals, or its mean number of nodes")
    means = {name: float(data[name].mean()) for name in STANDARD if name in data}
    if calibration is not None:
        needed = {name for name in calibration.columns if calibration.coefficient(name)}
        if needed <= {"graphs", *data.columns}:
            means["bytes"] = float(calibration.graph_bytes(data).mean())
    return means


def _check_positive(value: float, what: str, hint: str) -> None:
    if isinstance(value, bool) or not math.isfinite(value) or value <= 0:
        raise InputError(what, limit="a positive number", hint=hint)
