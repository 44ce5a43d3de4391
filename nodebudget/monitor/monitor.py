"""A monitor around any training loop."""

from __future__ import annotations

import time
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import SimpleNamespace, TracebackType
from typing import Any, TypeVar, cast

import torch

from nodebudget.calibration.compatibility import check_applicable
from nodebudget.calibration.memory_model import Calibration
from nodebudget.datasets.size_table import SizeTable
from nodebudget.errors import DoesNotFitError, first_line
from nodebudget.monitor.batch_sizes import SizeOfBatch, needs_line_edges, predict, try_sizes_of
from nodebudget.monitor.drift import WARM_UP, DriftWatch, LeakWatch, fragmentation
from nodebudget.monitor.log import RunWriter, header_of, path_of_rank
from nodebudget.monitor.meters import CudaMeter, Meter, Reading, TraceMeter
from nodebudget.monitor.oom import Split, oom_guard, run_with_split
from nodebudget.monitor.refit import ObservationReservoir
from nodebudget.monitor.step import Step
from nodebudget.profiling.open import open_probe
from nodebudget.utils.checks import check_count
from nodebudget.workloads.protocol import Workload, resident_bytes

T = TypeVar("T")


class MemoryMonitor:
    """Logs a line per batch: its sizes, predicted and measured peak memory, and time.

    Put it around a loader::

        monitor = MemoryMonitor("run.jsonl", calibration=calibration)
        for batch in monitor.watch(loader):
            ...                                   # the training step, unchanged

    or, around a step, `with monitor.step(batch): …`. Show the log with `nodebudget monitor run.jsonl --follow`.

    On a CUDA device peaks are those of PyTorch's allocator, whose peak counters are reset by each step. The CPU's
    allocator has no such counter: `measured` is null and only the resident set of the process is logged, unless
    `trace=True` runs each step under PyTorch's profiler, which makes it slower and needs `model`. Seconds are those of
    the host; the monitor does not wait for the device.

    It warns (UserWarning), once each, when measured peaks differ from the predicted ones by more than the calibration's
    bound, when the memory between steps grows, when the allocator had to free its cache, and when a batch can't be
    counted or a step can't be measured, which does not stop the training.

    Each line is handed to the system before the next batch, so a killed process leaves a readable log. Under
    `torch.distributed` every rank but the first writes to its own file (`run.rank1.jsonl`).

    Attributes:
        path: The log, or None.
        steps: Number of batches so far, those that are not logged included.
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
            path: The log; None for warnings and `recalibrated` alone.
            calibration: Predicts the peaks.
            sizes: A function of a batch that returns its sizes, for batches of your own class or further sizes
                (tokens); or a table in which indices are looked up (`monitor.step(batch, indices=…)`).
            device: "cpu" or "cuda:N"; by default the model's, else the first GPU where there is one.
            model: For the header of the log, and to check that the calibration is of this model.
            optimizer: The same.
            every: Measure one of so many batches.
            batches: Batches of the whole run, to show the time left; by default that of the epoch is shown.
            existing: What to do with a log that exists: "raise", "append" (a resumed run) or "overwrite".
            trace: On the CPU, measure peaks with the profiler.

        Raises:
            InputError: The log exists or can't be written, or an argument is not valid.
            MissingError: There is no such device.
        """
        self._every = check_count("every", every, 1)
        self.device = _device(device, model)
        probe = open_probe(str(self.device))
        self._calibration, self._sizes = calibration, sizes
        self._modules = cast(Workload, SimpleNamespace(model=model, optimizer=optimizer or SimpleNamespace(state={})))
        self._meter = self._open_meter(trace)
        if calibration is not None:
            workload = self._modules if model is not None and optimizer is not None else None
            check_applicable(calibration, workload=workload, probe=probe, allow_mismatch=True)
        self._writer = None if path is None else RunWriter(path_of_rank(path), existing)
        self.path = None if self._writer is None else self._writer.path
        if self._writer is not None:
            method = self._meter.method
            self._write(header_of(probe, model, optimizer, calibration, method, every=every, batches=batches))
            weakref.finalize(self, self._writer.end)
        self._observations = ObservationReservoir()
        self._drift = None if calibration is None else DriftWatch(calibration)
        self._leak = LeakWatch(of_process=self._meter.method is None)
        self._line_edges = needs_line_edges(calibration)
        self._epoch, self.steps = -1, 0
        self._open: Step | None = None
        self._warned: set[str] = set()

    def _open_meter(self, trace: bool) -> Meter:
        if self.device.type == "cuda":
            return CudaMeter(self.device.index or 0)
        if not trace:
            return Meter()
        return TraceMeter(lambda: None if self._modules.model is None else resident_bytes(self._modules))

    def watch(self, loader: Iterable[T]) -> Iterator[T]:
        """Iterate over a loader, for one epoch; what the loop does with each batch is a step."""
        self.begin_epoch(length_of(loader))
        asked = time.perf_counter()
        for batch in loader:
            waited = time.perf_counter() - asked
            step = self.step(batch, waited=waited)
            with step:
                try:
                    yield batch
                except GeneratorExit:
                    # The loop ended in the middle of this step, by break or by an exception.
                    step.finish("left")
                    raise
            asked = time.perf_counter()

    def begin_epoch(self, batches: int | None = None) -> None:
        """Begin an epoch of so many batches, in a loop that calls `step` itself."""
        self._epoch += 1
        self.log("epoch", epoch=self._epoch, batches=batches)

    def step(self, batch: Any = None, *, indices: Any = None, waited: float | None = None) -> Step:
        """Return a context manager that measures the code inside.

        Args:
            batch: The batch, to count it.
            indices: Its rows in the table of sizes, instead of counting it.
            waited: Seconds that the loop waited for it, for the log.
        """
        self.steps += 1
        if (self.steps - 1) % self._every:
            return Step()
        sizes: dict[str, float] = {}
        predicted = None
        with self._guarded():
            sizes, reason = try_sizes_of(batch, self._sizes, indices=indices, line_edges=self._line_edges)
            if reason:
                kind = type(batch).__name__
                text = f"a batch of type {kind} can't be counted ({reason}); pass sizes=… to the monitor"
                self._warn_once("sizes", text)
            predicted = predict(self._calibration, sizes)
        self._open = Step(self._start, self._end, sizes, predicted, waited)
        return self._open

    def _start(self) -> None:
        with self._guarded():
            self._meter.start()

    def _end(self, step: Step, seconds: float, status: str) -> None:
        self._open, reading = None, Reading()
        with self._guarded():
            reading = self._meter.stop()
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
            with self._guarded():
                self._check(step.sizes, predicted, reading, seconds)

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """Turn an error of the monitor itself into a warning: it must not end the training."""
        try:
            yield
        except Warning:
            raise  # a filter of the user's makes errors of warnings
        except Exception as error:
            self._warn_once("failure", f"a step can't be measured: {type(error).__name__}: {first_line(error)}")

    def _check(self, sizes: Mapping[str, float], predicted: float | None, reading: Reading, seconds: float) -> None:
        self._observations.add(sizes, reading, seconds)
        between_steps = reading.rss if self._meter.method is None else reading.resident
        if between_steps is not None:
            self._warn_once("leak", self._leak.look(between_steps))
        self._warn_once("fragmentation", fragmentation(reading))
        if self._drift is not None and predicted:
            self._warn_once("drift", self._drift.look(predicted, reading))

    def _warn_once(self, about: str, text: str | None) -> None:
        if text is None or about in self._warned:
            return
        self._warned.add(about)
        self.log("warning", about=about, text=text)
        warnings.warn(text, stacklevel=2)

    def log(self, event: str, **values: Any) -> None:
        """Write a line of your own (a validation result, say); `values` are plain values for JSON."""
        self._write({"event": event, "step": self.steps, "time": round(time.time(), 3), **values})

    def _write(self, line: Mapping[str, Any]) -> None:
        if self._writer is not None:
            self._writer.write(line)

    def recalibrated(self) -> Calibration:
        """Fit a calibration to the batches that were measured, one in three held out.

        Batches of a budget sampler are alike, so the costs of a node, an edge and a line-graph edge may not be
        identifiable (see its `determination`): it holds for batches like those.

        Raises:
            InputError: Too few batches were measured: on the CPU without `trace=True`, none are.
        """
        context = {} if self._calibration is None else dict(self._calibration.context)
        return self._observations.fit({**context, "fitted_to": "batches of a monitored run"}, self._meter.method)

    @contextmanager
    def oom_guard(self, batch: Any = None, *, indices: Any = None) -> Iterator[None]:
        """Turn running out of memory inside into an error that names the batch: see `nodebudget.oom_guard`.

        Args:
            batch: The batch; by default that of the current step.
            indices: Its rows in the table of sizes.

        Raises:
            DoesNotFitError: Memory ran out.
        """
        sizes, step = self._sizes, self._open
        if batch is None and indices is None and step is not None:
            sizes = lambda _: step.sizes  # noqa: E731
        how: dict[str, Any] = {"calibration": self._calibration, "sizes": sizes, "indices": indices}
        try:
            with oom_guard(batch, device=str(self.device), **how):
                yield
        except DoesNotFitError as error:
            self.log("out of memory", text=str(error))
            raise

    def run_with_split(
        self, step: Callable[[Sequence[Any]], torch.Tensor], samples: Sequence[Any], model: torch.nn.Module, **how: Any
    ) -> Split:
        """Run a step in as many parts as fit: see `nodebudget.run_with_split`; a split is logged.

        Raises:
            DoesNotFitError: A single sample does not fit.
        """
        split = run_with_split(step, samples, model, **how)
        if len(split.parts) > 1:
            self.log("split", parts=list(split.parts))
        return split

    def close(self, status: str = "done") -> None:
        """End the log; without this call it ends with the process."""
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


def length_of(loader: Any) -> int | None:
    """Return the number of batches of a loader, or None: torch's DataLoader of a stream has a len() that raises."""
    try:
        return len(loader)
    except Exception:
        return None


def _device(device: torch.device | str | None, model: torch.nn.Module | None) -> torch.device:
    if device is not None:
        return torch.device(device)
    parameter = None if model is None else next(model.parameters(), None)
    if parameter is not None:
        return parameter.device
    return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
