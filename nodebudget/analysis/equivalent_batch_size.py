"""Equivalent batch sizes: what batch size on dataset B is 64 on dataset A."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nodebudget.datasets.size_table import STANDARD, SizeTable
from nodebudget.errors import InputError

if TYPE_CHECKING:
    from nodebudget.calibration.memory_model import Calibration

#: What a suggestion can rest on, the best first.
_PREFERENCE = ("bytes", "line_edges", "edges", "nodes")

_REASONS = {
    "bytes": "so that a mean batch takes the same bytes, as the calibration predicts them",
    "line_edges": "so that a mean batch has the same number of line-graph edges, which hold most of the memory of "
    "ALIGNN-like models",
    "edges": "so that a mean batch has the same number of edges; with line-graph edges or a calibration it would "
    "rest on firmer ground",
    "nodes": "so that a mean batch has the same number of nodes, which alone say little of memory; measured sizes "
    "or a calibration would say more",
}


@dataclass(frozen=True)
class Suggestion:
    """An equivalent batch size.

    Attributes:
        batch_size: The answer, by the best of what is known.
        basis: What it rests on: "bytes", "line_edges", "edges" or "nodes".
        by: The answer by each of them; None where that is not known.
    """

    batch_size: int
    basis: str
    by: Mapping[str, int | None]

    @property
    def sentence(self) -> str:
        """What the answer rests on, in one sentence."""
        return f"Use batch size {self.batch_size}, {_REASONS[self.basis]}."

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "batch_size": self.batch_size,
            "basis": self.basis,
            "by": dict(self.by),
            "sentence": self.sentence,
        }


@dataclass(frozen=True)
class LearningRate:
    """What to do with the learning rate when the number of graphs a step changes.

    Attributes:
        ratio: New graphs a step over the old ones.
    """

    ratio: float

    @property
    def linear(self) -> float:
        """Factor by the linear rule."""
        return self.ratio

    @property
    def square_root(self) -> float:
        """Factor by the square-root rule."""
        return math.sqrt(self.ratio)

    @property
    def sentences(self) -> tuple[str, str]:
        """Each rule in one sentence, with its source."""
        return (
            f"Linear rule, for SGD: multiply the learning rate by {self.linear:.3g}, warming up over the first epochs "
            "where it grows (Goyal et al. 2017, arXiv:1706.02677).",
            f"Square-root rule, which keeps the noise of a step as it was: multiply it by {self.square_root:.3g} "
            "(Krizhevsky 2014, arXiv:1404.5997; Hoffer et al. 2017, arXiv:1705.08741).",
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "ratio": self.ratio,
            "linear": self.linear,
            "square_root": self.square_root,
            "sentences": list(self.sentences),
        }


def advise_learning_rate(before: float, after: float) -> LearningRate:
    """Say what to do with the learning rate.

    Args:
        before: Graphs a step that it was chosen at.
        after: Graphs a step from now on; a mean where batches differ.

    Raises:
        InputError: One of them is not positive.
    """
    for graphs in (before, after):
        if isinstance(graphs, bool) or not math.isfinite(graphs) or graphs <= 0:
            raise InputError(
                f"{graphs!r} graphs a step",
                limit="a positive number",
                hint="give the graphs of a whole step, all ranks together",
            )
    return LearningRate(after / before)


def suggest_batch_size(
    reference: SizeTable | float,
    batch_size: int,
    target: SizeTable | float,
    *,
    calibration: Calibration | None = None,
) -> Suggestion:
    """Suggest the batch size on `target` that equals `batch_size` on `reference`.

    The batch size times the ratio of the mean sizes, rounded down: a mean batch of the target is never larger
    than one of the reference.

    Args:
        reference: Sizes of the dataset whose batch size is known, or its mean number of nodes.
        batch_size: Graphs a batch there.
        target: Sizes of the other dataset, or its mean number of nodes.
        calibration: With it, the answer also goes by predicted bytes.

    Raises:
        InputError: A batch size under 1, a mean that is not positive, or an empty dataset.
    """
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise InputError(
            f"a batch size of {batch_size!r}",
            limit="a whole number, 1 or more",
            hint="give the batch size of the reference run",
        )
    ours, theirs = _means(reference, calibration), _means(target, calibration)
    by = {
        name: max(1, math.floor(batch_size * ours[name] / theirs[name] + 1e-9))
        if theirs.get(name) and ours.get(name)
        else None
        for name in (*STANDARD, "bytes")
    }
    basis = next((name for name in _PREFERENCE if by[name] is not None), None)
    if basis is None:
        raise InputError("the two datasets share no size", hint="measure both with 'nodebudget measure'")
    chosen = by[basis]
    assert chosen is not None
    return Suggestion(chosen, basis, by)


def _means(data: SizeTable | float, calibration: Calibration | None) -> dict[str, float]:
    if not isinstance(data, SizeTable):
        if isinstance(data, bool) or not math.isfinite(data) or data <= 0:
            raise InputError(
                f"a mean of {data!r} nodes",
                limit="a positive number",
                hint="give the mean number of nodes, or a dataset",
            )
        return {"nodes": float(data)}
    if not len(data):
        raise InputError("the dataset has no crystals", hint="give one that has, or its mean number of nodes")
    means = {name: float(data[name].mean()) for name in STANDARD if name in data}
    known = calibration is not None and all(
        name == "graphs" or name in data for name in calibration.columns if calibration.coefficient(name)
    )
    if calibration is not None and known:
        means["bytes"] = float(calibration.graph_bytes(data).mean())
    return means
