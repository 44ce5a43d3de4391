"""The allocations of a training step as a function of its batch, from a few traced steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nodebudget.errors import DoesNotFitError
from nodebudget.profiling.cpu_trace import BlockTrace, Integers
from nodebudget.profiling.cuda_allocator.allocator import CachingAllocator

Floats = npt.NDArray[np.float64]

#: A tensor grows with one size of the batch alone if its bytes per unit differ by less than this fraction.
_PROPORTIONAL = 0.05

#: Capacities are tried in steps of this fraction; one counts as enough if the next three are as well.
_GRID, _IN_A_ROW = 0.005, 4

#: Over so many times the bytes of live tensors no step needs.
_MAX_SHARE = 2.0


#: Keys of blocks: those of a step are under the first of these; then those that stay for good, and those that live
#: before the first step.
_STAYS, _BEFORE = 2**32, 2**40


@dataclass(frozen=True, eq=False)
class _Events:
    """A traced step: what it allocates, and what it releases.

    Attributes:
        nbytes: Bytes of an allocation; 0 of a release. Shape (events,).
        blocks: Which block: of one that is released in the same step, the event that allocated it; of one that the
            next step releases, or that the step before left, -1 - its number among those; of one that stays,
            `_STAYS` + the event. Shape (events,).
    """

    nbytes: Integers
    blocks: Integers


class StepModel:
    """Predicts the requests of a training step, one by one.

    A step makes the same requests for every batch, each for as many bytes as the batch has nodes, edges and so on.

    Args:
        resident: Blocks that live before the first step.
        first: Traces of first steps, each from the same start: without gradients and optimizer state.
        further: Traces of steps that followed each other and the last one of `first`, at least two.
        rows: Sizes of the batches of all these steps, shape (steps, sizes).

    Raises:
        ValueError: The steps do not make the same requests.
    """

    def __init__(
        self, resident: BlockTrace, first: Sequence[BlockTrace], further: Sequence[BlockTrace], rows: Floats
    ) -> None:
        self._resident = resident
        # The others are not followed by a step that shows what it releases; they have the structure of the last.
        others = [_numbered([trace])[0] for trace in first[:-1]]
        last, *steps = _numbered([first[-1], *further])
        self._first = _Requests(last, others, rows[len(first) - 1], rows[: len(first) - 1])
        places = range(len(first), len(rows))
        self._step = _Requests(steps[0], steps[1:], rows[places[0]], rows[[*places[1:]]])
        if self._step.alike < 2 or self._first.outliving != self._step.outliving:
            raise ValueError("the steps do not make the same requests")

    @property
    def events(self) -> int:
        """Number of requests and releases of a step."""
        return len(self._step.blocks)

    def run(self, allocator: CachingAllocator, rows: Floats) -> bool:
        """Run a step for each batch, from the first step on; return whether all fit.

        Args:
            allocator: New.
            rows: Sizes of the batches, shape (batches, sizes).
        """
        requests = [(self._first.blocks, self._first.nbytes(rows[:1])[0])]
        requests += [(self._step.blocks, nbytes) for nbytes in self._step.nbytes(rows[1:])]
        try:
            for block, size in zip(self._resident.blocks.tolist(), self._resident.nbytes.tolist(), strict=True):
                allocator.allocate(_BEFORE + block, size)
            for number, (blocks, sizes) in enumerate(requests):
                _run(allocator, blocks.tolist(), sizes.tolist(), number % 2)
        except DoesNotFitError:
            return False
        return True

    def least_memory(self, runs: Sequence[Floats], *, expandable: bool) -> tuple[int, CachingAllocator]:
        """Return the smallest memory on which all of these runs fit, and the first of them without a limit.

        The allocator may empty its cache.

        Args:
            runs: Sizes of the batches of each run, in order, each of shape (batches, sizes). What a run leaves in the
                cache hangs on its first steps, so that many short runs say more than a long one.
            expandable: Whether segments are expandable.
        """
        free = CachingAllocator(expandable=expandable)
        self.run(free, runs[0])
        passed = 0
        for share in np.arange(1.0, _MAX_SHARE, _GRID):
            passed = passed + 1 if self._fit(runs, int(share * free.peak_requested), expandable) else 0
            if passed == _IN_A_ROW:
                return int((share - (_IN_A_ROW - 1) * _GRID) * free.peak_requested), free
        return free.peak_reserved, free

    def _fit(self, runs: Sequence[Floats], capacity: int, expandable: bool) -> bool:
        return all(self.run(CachingAllocator(capacity, expandable=expandable), rows) for rows in runs)


def _run(allocator: CachingAllocator, blocks: list[int], sizes: list[int], parity: int) -> None:
    for block, size in zip(blocks, sizes, strict=True):
        # What outlives a step has a key of its own in every other step: it may come before the last one is released.
        if size:
            allocator.allocate(block if block >= 0 else 2 * block - parity, size)
        else:
            allocator.free(block if block >= 0 else 2 * block - 1 + parity)


def _numbered(traces: Sequence[BlockTrace]) -> list[_Events]:
    """Replace addresses, which hang on what happened before, by the events that allocated the blocks."""
    steps: list[list[list[int]]] = []
    left: dict[int, int] = {}  # address → event of the step before
    for trace in traces:
        live: dict[int, int] = {}
        events: list[list[int]] = []
        released: dict[int, int] = {}  # event of the step before → event that releases it
        for address, nbytes in zip(trace.blocks.tolist(), trace.nbytes.tolist(), strict=True):
            if nbytes > 0:
                live[address] = len(events)
                events.append([nbytes, len(events)])
            elif address in live:
                events.append([0, live.pop(address)])
            elif address in left:
                released[left.pop(address)] = len(events)
                events.append([0, -1])
        for number, (allocated, place) in enumerate(sorted(released.items())):
            steps[-1][allocated][1] = events[place][1] = -1 - number
        for allocated in left.values():
            steps[-1][allocated][1] += _STAYS
        steps.append(events)
        left = live
    return [_Events(*np.array(events, dtype=np.int64).reshape(-1, 2).T.copy()) for events in steps]


class _Requests:
    """The requests of one kind of step, as a function of its batch."""

    def __init__(self, example: _Events, others: Sequence[_Events], row: Floats, rows: Floats) -> None:
        self.blocks, self._allocates = example.blocks, example.nbytes > 0
        alike = [np.array_equal(other.nbytes > 0, self._allocates) for other in others]
        steps = [example, *(other for other, is_alike in zip(others, alike, strict=True) if is_alike)]
        self.alike = len(steps)
        self.outliving = int((self._allocates & (self.blocks < 0)).sum())
        observed = np.array([step.nbytes[self._allocates] for step in steps], dtype=np.float64)
        self._coefficients = _fit(_design(np.vstack([row, rows[alike]])), observed)

    def nbytes(self, rows: Floats) -> Integers:
        """Return the bytes of each request, 0 for releases, shape (batches, events)."""
        nbytes = np.zeros((len(rows), len(self.blocks)), dtype=np.int64)
        nbytes[:, self._allocates] = np.maximum(np.ceil(_design(rows) @ self._coefficients - 1e-3), 1)
        return nbytes


def _design(rows: Floats) -> Floats:
    return np.column_stack([np.ones(len(rows)), rows])


def _fit(design: Floats, observed: Floats) -> Floats:
    """Return coefficients, shape (sizes + 1, requests): of the one size that explains a request, else least squares.

    Kernels round the bytes of their buffers, so that a request is proportional to a size only nearly.
    """
    scale = np.maximum(design.max(axis=0), 1.0)
    solved = np.linalg.lstsq(design / scale, observed, rcond=None)[0] / scale[:, None]
    # Never under what was observed.
    solved[0] += np.maximum((observed - design @ solved).max(axis=0), 0)
    usable = np.flatnonzero(design.all(axis=0))
    ratios = observed[:, None, :] / design[:, usable, None]
    spread = np.ptp(ratios, axis=0) / ratios.max(axis=0)
    best, requests = spread.argmin(axis=0), np.arange(observed.shape[1])
    alone = spread[best, requests] <= _PROPORTIONAL
    solved[:, alone] = 0
    solved[usable[best[alone]], requests[alone]] = ratios.mean(axis=0)[best[alone], requests[alone]]
    return np.asarray(solved, dtype=np.float64)
