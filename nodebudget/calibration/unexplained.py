"""What the memory looks like that the sizes of a batch do not explain."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from nodebudget.calibration.fit import fit_calibration
from nodebudget.calibration.memory_model import MAX_NOISE, Calibration, Observation
from nodebudget.calibration.probe_design import Indices
from nodebudget.datasets.size_table import SizeTable
from nodebudget.errors import InputError

MAX_ERROR = 0.03  #: Mean error of held-out steps above which the sizes do not explain the memory.
_GAIN = 0.5  #: A size explains the memory if the error with it is below this share of the error without.

#: Nodes of the graphs of a batch → a size that is not a sum over nodes, and what a cost of that kind looks like.
_LOOKS: Mapping[str, tuple[Callable[[np.ndarray], float], str]] = {
    "squares": (
        lambda nodes: float((nodes**2).sum()),
        "it grows with the square of a graph's nodes, as attention within a crystal does; calibrate with that column: "
        'size_of = nodebudget.squares() in the workload, or columns = ["squares"] in its TOML file',
    ),
    "padded": (
        lambda nodes: float(len(nodes) * nodes.max()),
        "it grows with graphs × the largest graph of a batch, as batches do that are padded to it; no sum over graphs "
        "predicts that: batch graphs of like size, or without padding",
    ),
    "padded squares": (
        lambda nodes: float(len(nodes) * nodes.max() ** 2),
        "it grows with graphs × the square of the largest graph of a batch, as attention over padded batches does; no "
        "sum over graphs predicts that: batch graphs of like size, or without padding",
    ),
}
_MISSING = (
    "a size may be missing, such as angles or pairs within a cutoff (nodebudget.triplets(cutoff), or a size_of of the "
    "workload), or the memory grows from step to step"
)


def unexplained(
    calibration: Calibration, observations: Sequence[Observation], batches: Sequence[Indices], sizes: SizeTable
) -> str:
    """Return in a sentence what a calibration leaves unexplained of held-out steps; "" where that is little or noise.

    Args:
        calibration: The fit.
        observations: The steps that it was fitted to and checked on.
        batches: The graphs of each, as rows of `sizes`.
        sizes: The sizes of all graphs.
    """
    error, noise = calibration.holdout.mape, calibration.noise
    if not error > MAX_ERROR or (noise is not None and noise > MAX_NOISE * error):
        return ""
    nodes = sizes["nodes"].astype(np.float64)
    errors: dict[str, float] = {}
    for name, (count, _) in _LOOKS.items():
        extended = [
            replace(entry, sizes={**entry.sizes, name: count(nodes[batch])})
            for entry, batch in zip(observations, batches, strict=True)
        ]
        try:
            errors[name] = fit_calibration(extended, (*calibration.columns, name)).holdout.mape
        except InputError:  # too few steps for one more coefficient
            continue
    best = min(errors, key=errors.__getitem__, default="")
    looks = _LOOKS[best][1] if best and errors[best] < _GAIN * error else _MISSING
    same = "" if noise is None else f", where the same step twice differs by {noise:.1%}"
    return (
        f"{', '.join(calibration.columns)} explain the memory of held-out steps to {error:.1%} only{same}, so that "
        f"steps may take more than a budget: {looks}"
    )
