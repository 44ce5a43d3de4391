"""A monitor around any training loop."""

from __future__ import annotations

import time
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from types import SimpleNamespace, TracebackType
from typing import Any, TypeVar, cast

import torch

from nodebudget.calibration.compatibility import check_applicable
from nodebudget.calibration.memory_model import Calibration
from nodebudget.datasets.size_table import SizeTable
from nodebudget.errors import DoesNotFitError, InputError
from nodebudget.monitor.batch_sizes import SizeOfBatch, needs_line_edges, predict, sizes_of
from nodebudget.monitor.drift import WARM_UP, DriftWatch, LeakWatch, fragmentation
from nodebudget.monitor.log import RunWriter
from nodebudget.monitor.log_header import facts_of_model, header_of, path_of_rank
from nodebudget.monitor.meters import CudaMeter, HostMeter, Meter, Reading, TraceMeter
from nodebudget.monitor.oom import Split, oom_guard, run_with_split
from nodebudget.monitor.refit import ObservationReservoir
from nodebudget.monitor.step import Step
from nodebudget.profiling.open import open_probe
from nodebudget.workloads.protocol import Workload, resident_bytes

T = TypeVar("T")


class MemoryMonitor:
    """Writes a line a batch: its sizes, predicted and measured peak, time.

    It goes around a loader::

        monitor = MemoryMonitor("run.jsonl", calibration=calibration)
        for batch in monitor.watch(loader):
            ...                                   # the training step, as it was

    or, around a step, `with monitor.step(batch): …`. Look at it with `nodebudget monitor run.jsonl --follow`.

    On a CUDA device peaks are those of PyTorch's allocator, whose peak counters each step sets back. On the CPU there
    is no such counter: `measured` is null and only the resident set of the process is logged, unless `trace=True` runs
    each step under PyTorch's profiler, which slows it down and needs `model`. Seconds are those of the host;
    the device is not waited for.

    It warns (UserWarning), once each, when measured peaks leave the predicted ones by more than the calibration's
    bound, when what lives between steps grows, and when the allocator had to give back its cache.

    Each line is handed to the system before the next batch, so that a killed process leaves a readable log. Under
    `torch.distributed` every rank but the first writes to a file of its own (`run.rank1.jsonl`).

    Attributes:
        path: The log, or None.
        steps: Batches so far, those that are not logged included.
    """

    def __init__(
        self,
        path: str | None = None,
        *,
        calibration: Calibration | None = None,
        sizes: SizeTable | SizeOfBatch | None = None,
        device: torch.device | str | None = None,
        model: torch.nn.Module | None = None,
        optimizer: torch.optim.Optimizer | None = None,
        every: int = 1,
        batches: int | None = None,
        existing: str = "raise",
        trace: bool = False,
    ) -> None:
        """Make a monitor and begin the log.

        Args:
            path: Where the log goes; None for warnings and `recalibrated` alone.
            calibration: Predicts the peaks.
            sizes: A function of a batch that returns its sizes, where it is of your own kind or has further ones
                (tokens); or a table that indices are looked up in (`monitor.step(batch, indices=…)`).
            device: "cpu" or "cuda:N"; by default the model's, else the first GPU where there is one.
            model: For the record, and to say whether the calibration is of this model.
            optimizer: The same.
            every: Measure every so many batches only.
            batches: Batches of the whole run, to tell the time left; by default it is told for the epoch.
            existing: What becomes of a log that is there: "raise", "append" (a run that is taken up again) or
                "overwrite".
            trace: On the CPU, measure peaks with the profiler.

        Raises:
            InputError: The log exists or can't be made, or an argument that can't be.
            MissingError: There is no such device.
        """
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise InputError(f"every is {every!r}", limit="a whole number, 1 or more", hint="1 writes every step")
        self.device = _device(device, model)
        self._place = str(self.device)
        probe = open_probe(self._place)
        self._calibration, self._sizes, self._every = calibration, sizes, every
        self._held = cast(Workload, SimpleNamespace(model=model, optimizer=optimizer or SimpleNamespace(state={})))
        self._meter = self._open_meter(trace, model)
        if calibration is not None:
            known = self._held if model is not None and optimizer is not None else None
            check_applicable(calibration, workload=known, probe=probe, allow_mismatch=True)
        self._writer = None if path is None else RunWriter(path_of_rank(path), existing)
        self.path = None if self._writer is None else self._writer.path
        if self._writer is not None:
            facts, method = facts_of_model(model, optimizer), self._meter.method
            self._write(header_of(probe, facts, calibration, method=method, every=every, batches=batches))
            weakref.finalize(self, self._writer.end)
        self._seen = ObservationReservoir()
        self._drift = None if calibration is None else DriftWatch(calibration)
        self._leak = LeakWatch(of_process=self._meter.method is None)
        self._line_edges = needs_line_edges(calibration)
        self._epoch, self.steps = -1, 0
        self._open: Step | None = None
        self._told: set[str] = set()

    def _open_meter(self, trace: bool, model: torch.nn.Module | None) -> Meter:
        if self.device.type == "cuda":
            return CudaMeter(self.device.index or 0)
        if not trace:
            return HostMeter()
        return TraceMeter(lambda: None if model is None else resident_bytes(self._held))

    def watch(self, loader: Iterable[T]) -> Iterator[T]:
        """Iterate over a loader, an epoch; what is done with each batch is a step."""
        self.begin_epoch(len(loader) if isinstance(loader, Sized) else None)
        asked = time.perf_counter()
        for batch in loader:
            waited = time.perf_counter() - asked
            step = self.step(batch, waited=waited)
            with step:
                try:
                    yield batch
                except GeneratorExit:
                    # The loop was left in the middle of this step, by break or by an exception.
                    step.finish("left")
                    raise
            asked = time.perf_counter()

    def begin_epoch(self, batches: int | None = None) -> None:
        """Begin an epoch of so many batches, in a loop that calls `step` itself."""
        self._epoch += 1
        self.log("epoch", epoch=self._epoch, batches=batches)

    def step(self, batch: Any = None, *, indices: Any = None, waited: float | None = None) -> Step:
        """Measure what runs inside.

        Args:
            batch: The batch, to count it.
            indices: Its places in the table of sizes, instead of counting it.
            waited: Seconds that the loop waited for it, for the log.

        Raises:
            InputError: Indices that are not in the table.
        """
        self.steps += 1
        if (self.steps - 1) % self._every:
            return Step(None)
        sizes = sizes_of(batch, self._sizes, indices=indices, line_edges=self._line_edges)
        self._open = Step(self._meter, sizes, predict(self._calibration, sizes), waited, self._record)
        return self._open

    def _record(self, step: Step, reading: Reading, seconds: float, status: str) -> None:
        self._open = None
        waited, predicted = step.waited, step.predicted
        self._write(
            {
                "event": "step",
                "step": self.steps,
                "epoch": max(self._epoch, 0),
                "status": status,
                "time": round(time.time(), 3),
                "seconds": round(seconds, 6),
                "waited": None if waited is None else round(waited, 6),
                "sizes": dict(step.sizes),
                "predicted": None if predicted is None else round(predicted),
                **vars(reading),
            }
        )
        if status == "done" and self.steps > WARM_UP:
            self._look(step.sizes, predicted, reading, seconds)

    def _look(self, sizes: Mapping[str, float], predicted: float | None, reading: Reading, seconds: float) -> None:
        self._seen.add(sizes, reading, seconds)
        held = reading.rss if self._meter.method is None else reading.resident
        if held is not None:
            self._tell("leak", self._leak.look(held))
        self._tell("fragmentation", fragmentation(reading))
        if self._drift is not None and predicted:
            self._tell("drift", self._drift.look(predicted, reading))

    def _tell(self, about: str, text: str | None) -> None:
        if text is None or about in self._told:
            return
        self._told.add(about)
        self.log("warning", about=about, text=text)
        warnings.warn(text, stacklevel=2)

    def log(self, event: str, **values: Any) -> None:
        """Write a line of your own (a validation result, say); `values` are plain values for JSON."""
        self._write({"event": event, "step": self.steps, "time": round(time.time(), 3), **values})

    def _write(self, line: Mapping[str, Any]) -> None:
        if self._writer is not None:
            self._writer.write(line)

    def recalibrated(self) -> Calibration:
        """Fit a calibration to the batches that were measured, every third held out.

        Batches of a budget sampler are alike: what a node, an edge and a line-graph edge cost may then not be told
        apart (see its `determination`), and it holds for batches like those.

        Raises:
            InputError: Too few batches were measured: on the CPU without `trace=True`, none are.
        """
        context = {} if self._calibration is None else dict(self._calibration.context)
        return self._seen.fit({**context, "fitted_to": "batches of a monitored run"}, self._meter.method)

    @contextmanager
    def oom_guard(self, batch: Any = None, *, indices: Any = None) -> Iterator[None]:
        """Turn running out of memory inside into an error that names the batch: see `nodebudget.monitor.oom_guard`.

        Args:
            batch: The batch; by default that of the step that is under way.
            indices: Its places in the table of sizes.

        Raises:
            DoesNotFitError: Memory ran out.
        """
        sizes, step = self._sizes, self._open
        if batch is None and indices is None and step is not None:
            sizes = lambda _: step.sizes  # noqa: E731
        try:
            with oom_guard(batch, calibration=self._calibration, sizes=sizes, indices=indices, device=self._place):
                yield
        except DoesNotFitError as error:
            self.log("out of memory", text=str(error))
            raise

    def run_with_split(
        self, step: Callable[[Sequence[Any]], torch.Tensor], samples: Sequence[Any], model: torch.nn.Module, **how: Any
    ) -> Split:
        """Run a step in as many parts as fit: see `nodebudget.monitor.run_with_split`; a split is logged.

        Raises:
            DoesNotFitError: A single sample does not fit.
        """
        done = run_with_split(step, samples, model, **how)
        if len(done.parts) > 1:
            self.log("split", parts=list(done.parts))
        return done

    def close(self, status: str = "done") -> None:
        """End the log; without this it ends with the process."""
        if self._open is not None:
            self._open.finish("left")
        if self._writer is not None:
            self._writer.end(status)

    def __enter__(self) -> MemoryMonitor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close("done" if error is None else f"failed: {type(error).__name__}")


def _device(device: torch.device | str | None, model: torch.nn.Module | None) -> torch.device:
    if device is not None:
        return torch.device(device)
    parameter = None if model is None else next(model.parameters(), None)
    if parameter is not None:
        return parameter.device
    return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
