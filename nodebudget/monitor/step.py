"""One step of the training loop, between `with` and its end."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

from nodebudget.workloads.run_step import is_out_of_memory


def _ignore(*_: Any) -> None:
    """Stand in for the callbacks of a step that is not measured."""


class Step:
    """Calls the monitor at the start and, once, at the end of a step: with this step, its seconds and how it ended.

    `predicted` are bytes, None where nothing predicts them; `waited` the seconds that the loop waited for the batch.
    """

    def __init__(
        self,
        start: Callable[[], None] = _ignore,
        end: Callable[[Step, float, str], None] = _ignore,
        sizes: Mapping[str, float] | None = None,
        predicted: float | None = None,
        waited: float | None = None,
    ) -> None:
        self._start, self._end = start, end
        self.sizes, self.predicted, self.waited = sizes or {}, predicted, waited
        self._started = 0.0

    def __enter__(self) -> Step:
        self._start()
        self._started = time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        failed = "out of memory" if error is not None and is_out_of_memory(error) else "failed"
        self.finish("done" if error is None else failed)

    def finish(self, status: str) -> None:
        """End the step as "done", "left", "failed" or "out of memory"; do nothing where it has ended."""
        seconds, end = time.perf_counter() - self._started, self._end
        self._end = _ignore
        end(self, seconds, status)
