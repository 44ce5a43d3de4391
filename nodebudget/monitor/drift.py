"""Whether a run still does what was predicted: drift, leaks, fragmentation, each told once."""

from __future__ import annotations

import itertools
from collections import deque
from statistics import median
from typing import TYPE_CHECKING

from nodebudget.calibration.memory_model import CONFIDENCE, Calibration
from nodebudget.utils.byte_units import format_bytes

if TYPE_CHECKING:
    from nodebudget.monitor.meters import Reading

#: Steps that allocate what stays (gradients, optimizer state, workspaces) are not held against anything.
WARM_UP = 2

#: One step in a hundred is outside the bound by its making; half of so many in a row are not.
_WINDOW = 8

#: Differences below this share are of no account, however sure the calibration is.
_LEAST_DRIFT = 0.01

#: Memory between steps is looked at in windows of so many steps at first.
_LEAK_WINDOW = 16

#: The least of a window must grow this often in a row.
_LEAK_TIMES = 4

#: Of so many windows pairs become one, so that a slow leak stands out in the end.
_LEAK_WINDOWS = 12

#: Bytes that it must grow by in all: of live tensors, and of the process, whose heap grows and rests by itself.
_LEAK_BYTES, _LEAK_RSS = 2**20, 2**25


class DriftWatch:
    """Holds measured peaks against predicted ones.

    Args:
        calibration: What predicted them.
    """

    def __init__(self, calibration: Calibration) -> None:
        self._calibration = calibration
        self._over: deque[float] = deque(maxlen=_WINDOW)
        self._resident: deque[int] = deque(maxlen=_WINDOW)

    def look(self, predicted: float, reading: Reading) -> str | None:
        """Take in a step; return what is wrong, or None."""
        if reading.measured is None:
            return None
        self._over.append(reading.measured / predicted - 1)
        if reading.resident is not None:
            self._resident.append(reading.resident)
        bound = self.bound(predicted)
        middle = median(self._over)
        if len(self._over) < _WINDOW or abs(middle) <= bound:
            return None
        side = "over" if middle > 0 else "under"
        return (
            f"steps take {abs(middle):.1%} {'more' if middle > 0 else 'less'} memory than predicted, {side} the "
            f"calibration's bound of {bound:.1%}: {self._reason(predicted)}; calibrate again, or use what "
            "recalibrated() returns"
        )

    def bound(self, predicted: float) -> float:
        """Return how far a step may be from its prediction, a fraction of it."""
        return max(float(self._calibration.bound.margin(predicted, CONFIDENCE)), _LEAST_DRIFT)

    def _reason(self, predicted: float) -> str:
        then, now = self._calibration.resident, median(self._resident) if self._resident else None
        if now is not None and abs(now - then) > _LEAST_DRIFT * predicted:
            return (
                f"{format_bytes(now)} live between steps, {format_bytes(then)} when it was calibrated, so the model, "
                "the optimizer or something else on the device is another"
            )
        return (
            "what lives between steps is as it was, so a graph, a node or an edge costs another amount (precision, "
            "layers, graph settings)"
        )


class LeakWatch:
    """Looks for memory that lives between steps and grows.

    It grows when the least of each window is over that of the window before, several times in a row, and when the
    least of the last is over the most of the first: batches that live between steps come and go.

    Args:
        of_process: What is watched is the resident set of the process, not live tensors.
    """

    def __init__(self, *, of_process: bool) -> None:
        self._of_process, self._length = of_process, _LEAK_WINDOW
        self._window: list[int] = []
        self._ranges: list[tuple[int, int]] = []

    def look(self, held: int) -> str | None:
        """Take in the bytes held between two steps; return what is wrong, or None."""
        self._window.append(held)
        if len(self._window) < self._length:
            return None
        self._ranges.append((min(self._window), max(self._window)))
        self._window.clear()
        found = self._growth(self._ranges[-_LEAK_TIMES - 1 :])
        if len(self._ranges) == _LEAK_WINDOWS:
            pairs = zip(self._ranges[::2], self._ranges[1::2], strict=True)
            self._ranges = [(min(a[0], b[0]), max(a[1], b[1])) for a, b in pairs]
            self._length *= 2
        return found

    def _growth(self, ranges: list[tuple[int, int]]) -> str | None:
        least = [low for low, _ in ranges]
        if len(least) <= _LEAK_TIMES or any(b <= a for a, b in itertools.pairwise(least)):
            return None
        grown = least[-1] - least[0]
        if least[-1] <= ranges[0][1] or grown < (_LEAK_RSS if self._of_process else _LEAK_BYTES):
            return None
        steps = self._length * _LEAK_TIMES
        what = "the resident set of this process" if self._of_process else "memory that lives between steps"
        return (
            f"a leak: {what} grew by {format_bytes(grown)} over {steps} steps, {format_bytes(grown / steps)} a step; "
            "often a loss is summed, or an output kept, without .item() or .detach()"
        )


def fragmentation(reading: Reading) -> str | None:
    """Say what retries of the allocator mean, or None where there were none."""
    if not reading.retries or reading.measured is None or reading.reserved is None:
        return None
    idle = reading.reserved - reading.measured
    return (
        f"the allocator gave its cache back to find memory ({reading.retries} times in one step, "
        f"{format_bytes(idle)} reserved and not in use): steps are slowed and near the end of the memory; "
        "PYTORCH_ALLOC_CONF=expandable_segments:True and a smaller budget help"
    )
