"""Warnings about a run: drift from the predictions, leaks, fragmentation."""

from __future__ import annotations

import itertools
from collections import deque
from statistics import median
from typing import TYPE_CHECKING

from nodebudget.calibration.memory_model import CONFIDENCE, Calibration
from nodebudget.utils.byte_units import format_bytes

if TYPE_CHECKING:
    from nodebudget.monitor.meters import Reading

#: Steps that are not checked: they allocate memory that is never freed (gradients, optimizer state, workspaces).
WARM_UP = 2

_WINDOW = 8  #: Steps whose median is compared with the bound: of single steps one in a hundred is outside it.
_MIN_DRIFT = 0.01  #: Relative differences below this are ignored, whatever the bound of the calibration.
_LEAK_WINDOW = 16  #: Steps in the first windows of memory between steps.
_LEAK_TIMES = 4  #: How often in a row the minimum of a window must grow.
_LEAK_WINDOWS = 12  #: Number of windows at which neighbours are merged in pairs, so that slow leaks are found too.

#: Bytes by which memory must grow: live tensors; and the process, whose heap also grows without a leak.
_LEAK_BYTES, _LEAK_RSS = 2**20, 2**25


class DriftWatch:
    """Compares measured peaks with those that a calibration predicted."""

    def __init__(self, calibration: Calibration) -> None:
        self._calibration = calibration
        self._over: deque[float] = deque(maxlen=_WINDOW)
        self._resident: deque[int] = deque(maxlen=_WINDOW)

    def look(self, predicted: float, reading: Reading) -> str | None:
        """Add a step; return a warning, or None."""
        if reading.measured is None:
            return None
        self._over.append(reading.measured / predicted - 1)
        if reading.resident is not None:
            self._resident.append(reading.resident)
        drift, bound = median(self._over), float(self._calibration.bound.margin(predicted, CONFIDENCE))
        bound = max(bound, _MIN_DRIFT)
        if len(self._over) < _WINDOW or abs(drift) <= bound:
            return None
        return (
            f"steps take {abs(drift):.1%} {'more' if drift > 0 else 'less'} memory than predicted, outside the "
            f"calibration's bound of {bound:.1%}: {self._reason(predicted)}; calibrate again, or use the calibration "
            "that recalibrated() returns"
        )

    def _reason(self, predicted: float) -> str:
        before, now = self._calibration.resident, median(self._resident) if self._resident else None
        if now is not None and abs(now - before) > _MIN_DRIFT * predicted:
            return (
                f"{format_bytes(now)} are allocated between steps, {format_bytes(before)} at the calibration, so the "
                "model, the optimizer or something else on the device is different"
            )
        return (
            "memory between steps is the same as at the calibration, so the bytes per graph, node or edge are "
            "different (precision, layers, graph settings)"
        )


class LeakWatch:
    """Looks for growth of the memory that is allocated between steps: live tensors, or the resident set of the process.

    It is a leak when the minimum of each window is over that of the window before, several times in a row, and the
    minimum of the last is over the maximum of the first: batches that are allocated between steps come and go.
    """

    def __init__(self, *, of_process: bool) -> None:
        self._of_process, self._length = of_process, _LEAK_WINDOW
        self._window: list[int] = []
        self._ranges: list[tuple[int, int]] = []

    def look(self, allocated: int) -> str | None:
        """Add the bytes allocated between two steps; return a warning, or None."""
        self._window.append(allocated)
        if len(self._window) < self._length:
            return None
        self._ranges.append((min(self._window), max(self._window)))
        self._window.clear()
        warning = self._growth(self._ranges[-_LEAK_TIMES - 1 :])
        if len(self._ranges) == _LEAK_WINDOWS:
            pairs = zip(self._ranges[::2], self._ranges[1::2], strict=True)
            self._ranges = [(min(a[0], b[0]), max(a[1], b[1])) for a, b in pairs]
            self._length *= 2
        return warning

    def _growth(self, ranges: list[tuple[int, int]]) -> str | None:
        minima = [low for low, _ in ranges]
        if len(minima) <= _LEAK_TIMES or any(b <= a for a, b in itertools.pairwise(minima)):
            return None
        growth = minima[-1] - minima[0]
        if minima[-1] <= ranges[0][1] or growth < (_LEAK_RSS if self._of_process else _LEAK_BYTES):
            return None
        steps = self._length * _LEAK_TIMES
        memory = "the resident set of this process" if self._of_process else "memory allocated between steps"
        return (
            f"possible leak: {memory} grew by {format_bytes(growth)} over {steps} steps "
            f"({format_bytes(growth / steps)} per step); a common cause is a loss or an output that is stored without "
            ".item() or .detach()"
        )


def fragmentation(reading: Reading) -> str | None:
    """Return a warning where the allocator had to retry, or None."""
    if not reading.retries or reading.measured is None or reading.reserved is None:
        return None
    idle = reading.reserved - reading.measured
    return (
        f"PyTorch's allocator freed its cache to find memory ({reading.retries} times in one step, "
        f"{format_bytes(idle)} reserved but unused): steps are slower and may run out of memory; "
        "set PYTORCH_ALLOC_CONF=expandable_segments:True, or use a smaller budget"
    )
