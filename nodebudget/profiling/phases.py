"""The allocations of one training step, in order, with marks where its phases begin."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch.profiler import record_function

from nodebudget.profiling.cpu_trace import Integers, allocations, memory_profiler, recorded_events
from nodebudget.workloads.protocol import Workload, resident_storages

#: Phases of a step; "between" is what belongs to none of the others.
PHASES = ("batch", "zero_grad", "forward", "loss", "backward", "optimizer", "between")

_MARK = "nodebudget::mark"


@dataclass(frozen=True)
class Mark:
    """Where a phase begins."""

    phase: str  #: One of `PHASES`.
    place: int  #: How many events came before it.
    #: Address → "parameters", "gradients" or "optimizer state": the storages of the workload at that time.
    held: dict[int, str]


@dataclass(frozen=True, eq=False)
class Recording:
    """Allocations and releases of making a batch and training on it."""

    blocks: Integers  #: Addresses, shape (events,).
    nbytes: Integers  #: Bytes, positive for an allocation and negative for a release, shape (events,).
    marks: tuple[Mark, ...]  #: Where the phases begin, in order; the first is of the batch.
    resident: dict[int, int]  #: Address → bytes of the workload's storages at the start.
    #: Bytes that were live at the start and do not belong to the workload (workspaces); 0 on the CPU, where they are
    #: not known.
    beside: int = 0
    counted: int | None = None  #: Peak of live bytes by the device's own counters; None on the CPU.


def record_step(workload: Workload, samples: Sequence[Any], device: str) -> Recording:
    """Make a batch, train on it, and return each allocation with the phase that it belongs to.

    The phases are found with hooks: before and after the model's forward pass and the optimizer's step, and around
    `torch.autograd.backward` and the optimizer's `zero_grad`, so that a user's own `step` needs no change. The workload
    has run a step before, so that its optimizer state exists.
    """
    resident = {address: nbytes for address, (_, nbytes) in resident_storages(workload).items()}
    recorder = _CpuRecorder() if device == "cpu" else _CudaRecorder(torch.device(device))
    marks: list[tuple[str, dict[int, str]]] = []

    def mark(phase: str) -> None:
        recorder.mark()
        marks.append((phase, {address: kind for address, (kind, _) in resident_storages(workload).items()}))

    with recorder:
        mark("batch")
        batch = workload.batch(samples)
        mark("between")
        with _hooks(workload, mark):
            workload.step(batch)
        mark("between")
        del batch
    table, places = recorder.events()
    named = tuple(Mark(phase, place, held) for (phase, held), place in zip(marks, places, strict=True))
    beside = 0 if recorder.before is None else max(recorder.before - sum(resident.values()), 0)
    return Recording(table[:, 0], table[:, 1], named, resident, beside, recorder.peak)


@contextmanager
def _hooks(workload: Workload, mark: Callable[[str], None]) -> Iterator[None]:
    model, optimizer = workload.model, workload.optimizer
    with ExitStack() as stack:
        for handle in (
            model.register_forward_pre_hook(lambda *_: mark("forward")),
            model.register_forward_hook(lambda *_: mark("loss")),
            optimizer.register_step_pre_hook(lambda *_: mark("optimizer")),
            optimizer.register_step_post_hook(lambda *_: mark("between")),
        ):
            stack.callback(handle.remove)
        # There are no hooks for these two.
        stack.enter_context(_around(torch.autograd, "backward", "backward", mark))
        stack.enter_context(_around(optimizer, "zero_grad", "zero_grad", mark))
        yield


def _around(owner: Any, name: str, phase: str, mark: Callable[[str], None]) -> AbstractContextManager[Any]:
    """Mark before and after each call of an attribute."""
    inner = getattr(owner, name)

    def call(*arguments: Any, **options: Any) -> Any:
        mark(phase)
        try:
            return inner(*arguments, **options)
        finally:
            mark("between")

    return patch.object(owner, name, call)


class _CpuRecorder:
    """PyTorch's CPU profiler; marks are empty ranges of it."""

    before: int | None = None
    peak: int | None = None

    def __enter__(self) -> _CpuRecorder:
        self._profiler = memory_profiler()
        self._profiler.__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        self._profiler.__exit__(*error)  # type: ignore[no-untyped-call]

    def mark(self) -> None:
        with record_function(_MARK):
            pass

    def events(self) -> tuple[Integers, list[int]]:
        """Return address and bytes of each event, shape (events, 2), and how many came before each mark."""
        events = [event for event, _ in recorded_events(self._profiler)]
        times, table = allocations(events)
        marked = sorted(event.start_time_ns for event in events if event.name == _MARK)
        return table, np.searchsorted(times, marked).tolist()


class _CudaRecorder:
    """The history that PyTorch's caching allocator keeps on request."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._index = device, device.index or 0
        self._places: list[int] = []
        self.before: int | None = None
        self.peak: int | None = None

    def __enter__(self) -> _CudaRecorder:
        torch.cuda.synchronize(self._device)
        torch.cuda.memory._record_memory_history(enabled="all", context=None, max_entries=10**7)
        torch.cuda.reset_peak_memory_stats(self._device)
        self.before = torch.cuda.memory_allocated(self._device)
        self._start = len(self._history())
        return self

    def __exit__(self, *error: object) -> None:
        torch.cuda.synchronize(self._device)
        self.peak = torch.cuda.max_memory_allocated(self._device)
        self._entries = self._history()[self._start :]
        torch.cuda.memory._record_memory_history(enabled=None)

    def mark(self) -> None:
        self._places.append(len(self._history()) - self._start)

    def events(self) -> tuple[Integers, list[int]]:
        signs = {"alloc": 1, "free_completed": -1}
        rows = [(e["addr"], signs[e["action"]] * e["size"]) for e in self._entries if e["action"] in signs]
        before = np.cumsum([0, *(entry["action"] in signs for entry in self._entries)])
        table = np.array(rows, dtype=np.int64).reshape(-1, 2)
        return table, [int(before[place]) for place in self._places]

    def _history(self) -> list[dict[str, Any]]:
        traces: list[list[dict[str, Any]]] = torch.cuda.memory._snapshot(self._index)["device_traces"]
        return traces[self._index]
