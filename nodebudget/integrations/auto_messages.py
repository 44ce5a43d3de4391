"""What `auto_loader` says: what it found and what it will do."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence

from nodebudget.analysis.device_budget import DeviceBudget
from nodebudget.analysis.equivalent_batch_size import advise_learning_rate
from nodebudget.calibration.memory_model import Calibration
from nodebudget.integrations.advancing import AdvancingSampler
from nodebudget.utils.byte_units import format_bytes

_log = logging.getLogger("nodebudget")

#: Numbers of graphs per batch that differ by less than this fraction need no other learning rate.
_LIKE = 0.05


def errors_of(calibration: Calibration) -> str:
    """Return the held-out error in words."""
    holdout = calibration.holdout
    return f"predictions of {holdout.n} further batches were off by {holdout.mape:.2%} on average"


def plan_line(sampler: AdvancingSampler, at_hand: int, device: DeviceBudget | None) -> str:
    """Return the batches of an epoch, and their memory, in a line.

    Args:
        sampler: Has planned.
        at_hand: Bytes that the run may take.
        device: How the bytes of a step come about on a GPU.
    """
    plan = sampler.plan
    peaks, graphs = plan.predicted_bytes, plan.graphs
    assert peaks is not None
    micro = f", {sampler.accumulate} per step and rank" if sampler.accumulate > 1 else ""
    per_batch = f"{graphs.mean():.1f} ± {graphs.std():.1f} graphs"
    line = (
        f"{len(sampler.sizes):,} graphs in {len(plan):,} batches of {per_batch}{micro}; "
        f"their steps take up to {format_bytes(float(peaks.max()))} of {format_bytes(at_hand)}"
    )
    return f"{line}; {device.advice}" if device is not None and device.advice else line


def learning_rate_lines(sampler: AdvancingSampler, batch_size: int | None) -> list[str]:
    """Return advice where the number of graphs per batch is another than the loader's had been."""
    mean = float(sampler.plan.graphs.mean())
    if not batch_size or batch_size == 1 or abs(mean / batch_size - 1) < _LIKE:
        return []
    advice = advise_learning_rate(batch_size, mean)
    return [
        f"{mean:.1f} graphs per batch instead of {batch_size}: multiply the learning rate by {advice.linear:.3g} "
        f"(linear rule, SGD) or {advice.square_root:.3g} (square-root rule), or pass graphs_per_step={batch_size}"
    ]


def say(lines: Sequence[str]) -> None:
    """Log the lines; on stderr where logging was not set up."""
    if not _log.hasHandlers():
        # Nobody has set up logging, and Python alone shows warnings only.
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(name)s: %(message)s"))
        _log.addHandler(handler)
        _log.setLevel(logging.INFO)
    for line in lines:
        _log.info(line)
