"""Which part of the memory each live block of a recorded step belongs to."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from nodebudget.profiling.phases import Mark, Recording

Ints = npt.NDArray[np.int64]

#: What live bytes are, in the order in which they are stacked.
PARTS = ("parameters", "optimizer state", "gradients", "batch data", "activations", "temporary", "beside", "rounding")

_TEMPORARY = PARTS.index("temporary")

#: What is made in these phases and lives when the backward pass begins was kept for it.
_KEPT_FROM = ("forward", "loss")


def attribute(recording: Recording) -> Ints:
    """Return the live bytes of each part before the first event and after each, shape (events + 1, parts).

    Parameters, gradients and optimizer state are known by the addresses that the workload holds at the marks; batch
    data is what making the batch left behind; activations are what the forward pass and the loss made and the
    backward pass found. All else is temporary: what single operators need, gradients of activations, the optimizer's
    buffers.
    """
    ledger = _Ledger(recording)
    changes = np.zeros((len(recording.blocks) + 1, len(PARTS)), dtype=np.int64)
    for part, nbytes, born, died in ledger.lives():
        changes[born, part] += nbytes
        if died is not None:
            changes[died, part] -= nbytes
    timeline = np.cumsum(changes, axis=0)
    timeline[:, PARTS.index("beside")] = recording.beside
    if recording.counted is not None:
        # Blocks are multiples of 512 bytes and may have a rest that is too small to split off.
        rest = recording.counted - int(timeline.sum(axis=1).max())
        timeline[:, PARTS.index("rounding")] = max(rest, 0)
    return np.asarray(timeline, dtype=np.int64)


class _Ledger:
    """The blocks that a step used: what each is, and from which event to which it lived.

    Event 0 is before the step, so that the recording's event i is i + 1 here.
    """

    def __init__(self, recording: Recording) -> None:
        self._nbytes: list[int] = []
        self._born: list[int] = []
        self._died: list[int | None] = []
        self._parts: list[int | None] = []
        self._phases: list[str] = []
        self._alive: dict[int, int] = {}
        for address, nbytes in recording.resident.items():
            self._open(address, nbytes, 0, "before")
        self._run(recording)

    def lives(self) -> Iterator[tuple[int, int, int, int | None]]:
        """Iterate over part, bytes, first event and the event of its release."""
        parts = (_TEMPORARY if part is None else part for part in self._parts)
        return zip(parts, self._nbytes, self._born, self._died, strict=True)

    def _run(self, recording: Recording) -> None:
        marks, phase = list(recording.marks)[::-1], "before"
        for place in range(len(recording.blocks) + 1):
            while marks and marks[-1].place == place:
                mark = marks.pop()
                self._name(mark, phase)
                phase = mark.phase
            if place < len(recording.blocks):
                address, nbytes = int(recording.blocks[place]), int(recording.nbytes[place])
                if nbytes >= 0:
                    self._open(address, nbytes, place + 1, phase)
                elif address in self._alive:
                    self._died[self._alive.pop(address)] = place + 1

    def _open(self, address: int, nbytes: int, event: int, phase: str) -> None:
        self._alive[address] = len(self._nbytes)
        self._nbytes.append(nbytes)
        self._born.append(event)
        self._died.append(None)
        self._parts.append(None)
        self._phases.append(phase)

    def _name(self, mark: Mark, ended: str) -> None:
        """Name the blocks that are known for what they are at a mark."""
        for address, block in self._alive.items():
            if address in mark.held:
                self._parts[block] = PARTS.index(mark.held[address])
            elif self._parts[block] is None and ended == "batch" and self._phases[block] == "batch":
                self._parts[block] = PARTS.index("batch data")
            elif self._parts[block] is None and mark.phase == "backward" and self._phases[block] in _KEPT_FROM:
                self._parts[block] = PARTS.index("activations")
