"""One step under measurement."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from types import TracebackType

from nodebudget.monitor.meters import Meter, Reading
from nodebudget.workloads.run_step import is_out_of_memory

#: (step, what it took, seconds, status).
Record = Callable[["Step", Reading, float, str], None]


class Step:
    """Measures from `with` to its end, or to `finish`.

    Args:
        meter: Reads the device; None measures nothing.
        sizes: The batch.
        predicted: Bytes; None where nothing predicts them.
        waited: Seconds that the loop waited for the batch.
        record: Called once, at the end.
    """

    def __init__(
        self,
        meter: Meter | None,
        sizes: Mapping[str, float] | None = None,
        predicted: float | None = None,
        waited: float | None = None,
        record: Record | None = None,
    ) -> None:
        self._meter, self._record = meter, record
        self.sizes, self.predicted, self.waited = sizes or {}, predicted, waited
        self._started = 0.0

    def __enter__(self) -> Step:
        if self._meter is not None:
            self._meter.start()
        self._started = time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        failed = "out of memory" if error is not None and is_out_of_memory(error) else "failed"
        self.finish("done" if error is None else failed)

    def finish(self, status: str) -> None:
        """End it as "done", "left", "failed" or "out of memory"; nothing where it was ended."""
        meter, self._meter = self._meter, None
        if meter is None or self._record is None:
            return
        seconds = time.perf_counter() - self._started
        self._record(self, meter.stop(), seconds, status)
