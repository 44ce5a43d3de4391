"""The allocations of one training step, in order, with marks where its phases begin."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch.profiler import record_function

from nodebudget.profiling.cpu_trace import Integers, event_trees, memory_profiler
from nodebudget.workloads.protocol import Workload

#: What is named by the mark of a phase; "between" is all that is none of the others.
PHASES = ("batch", "zero_grad", "forward", "loss", "backward", "optimizer", "between")

_MARK = "nodebudget::mark"


@dataclass(frozen=True)
class Mark:
    """Where a phase begins.

    Attributes:
        phase: One of `PHASES`.
        place: How many events came before it.
        held: Address → "parameters", "gradients", "optimizer state": what the workload holds at that moment.
    """

    phase: str
    place: int
    held: dict[int, str]


@dataclass(frozen=True, eq=False)
class Recording:
    """Allocations and releases of making a batch and training on it.

    Attributes:
        blocks: Addresses, shape (events,).
        nbytes: Bytes, positive for an allocation and negative for a release, shape (events,).
        marks: Beginnings of phases, in order; the first is of the batch.
        resident: Address → bytes of what the workload held at the start.
        beside: Bytes that were live at the start and that the workload does not hold (workspaces); 0 on the CPU,
            which can't tell.
        counted: Highest live bytes by the device's own counters; None on the CPU.
    """

    blocks: Integers
    nbytes: Integers
    marks: tuple[Mark, ...]
    resident: dict[int, int]
    beside: int = 0
    counted: int | None = None


class _Recorder(Protocol):
    """Keeps events while it is entered."""

    def __enter__(self) -> _Recorder: ...
    def __exit__(self, *error: object) -> None: ...
    def mark(self) -> None:
        """Remember this moment."""

    def events(self) -> tuple[Integers, list[int]]:
        """Return address and bytes of each event, shape (events, 2), and how many came before each mark."""


@dataclass
class _Marks:
    """What was marked, and what the workload held then."""

    workload: Workload
    recorder: _Recorder
    found: list[tuple[str, dict[int, str]]] = field(default_factory=list)

    def __call__(self, phase: str) -> None:
        self.recorder.mark()
        self.found.append((phase, {address: kind for address, (kind, _) in held_by(self.workload).items()}))


def record_step(workload: Workload, samples: Sequence[Any], device: str) -> Recording:
    """Make a batch, train on it, and return what was allocated when.

    The phases are found by hooks: before and after the model's forward pass and the optimizer's step, and around
    `torch.autograd.backward` and the optimizer's `zero_grad`, so that a user's own `step` needs no change.

    Args:
        workload: Had a step before, so that what stays between steps is there.
        samples: What `workload.batch` takes.
        device: "cpu" or "cuda:N".
    """
    cuda = None if device == "cpu" else torch.device(device)
    resident = {address: size for address, (_, size) in held_by(workload).items()}
    recorder: Any = _CpuRecorder() if cuda is None else _CudaRecorder(cuda)
    marks = _Marks(workload, recorder)
    with recorder:
        marks("batch")
        batch = workload.batch(samples)
        marks("between")
        with _hooks(workload, marks):
            workload.step(batch)
        marks("between")
        del batch
    table, places = recorder.events()
    beside = 0 if cuda is None else max(recorder.before - sum(resident.values()), 0)
    named = tuple(Mark(phase, place, held) for (phase, held), place in zip(marks.found, places, strict=True))
    return Recording(table[:, 0], table[:, 1], named, resident, beside, None if cuda is None else recorder.peak)


def held_by(workload: Workload) -> dict[int, tuple[str, int]]:
    """Return address → kind and bytes of the storages that a workload holds: shared ones once."""
    found: dict[int, tuple[str, int]] = {}

    def add(kind: str, tensor: Any) -> None:
        if isinstance(tensor, torch.Tensor):
            storage = tensor.untyped_storage()
            found.setdefault(storage.data_ptr(), (kind, storage.nbytes()))

    for parameter in workload.model.parameters():
        add("parameters", parameter)
    for buffer in workload.model.buffers():
        add("parameters", buffer)
    for parameter in workload.model.parameters():
        add("gradients", parameter.grad)
    for state in workload.optimizer.state.values():
        for value in state.values():
            add("optimizer state", value)
    return found


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


@contextmanager
def _around(owner: Any, name: str, phase: str, mark: Callable[[str], None]) -> Iterator[None]:
    """Mark before and after each call of an attribute."""
    inner, own = getattr(owner, name), name in vars(owner)

    def call(*arguments: Any, **options: Any) -> Any:
        mark(phase)
        try:
            return inner(*arguments, **options)
        finally:
            mark("between")

    setattr(owner, name, call)
    try:
        yield
    finally:
        if own:
            setattr(owner, name, inner)
        else:
            delattr(owner, name)


class _CpuRecorder:
    """PyTorch's CPU profiler; marks are empty ranges of it."""

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
        memory: list[tuple[int, int, int]] = []
        times = []
        waiting = event_trees(self._profiler)
        while waiting:
            event = waiting.pop()
            waiting.extend(event.children)
            if event.name == _MARK:
                times.append(event.start_time_ns)
            elif event.name == "[memory]" and event.extra_fields.device.type == "cpu":
                memory.append((event.start_time_ns, event.extra_fields.ptr, event.extra_fields.alloc_size))
        memory.sort(key=lambda entry: entry[0])
        table = np.array(memory, dtype=np.int64).reshape(-1, 3)
        return table[:, 1:], np.searchsorted(table[:, 0], sorted(times)).tolist()


class _CudaRecorder:
    """The history that PyTorch's caching allocator keeps on request."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._index = device, device.index or 0
        self._places: list[int] = []
        self.before = self.peak = 0

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
