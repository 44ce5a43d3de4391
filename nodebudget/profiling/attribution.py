"""What each live block of a recorded step is: a parameter, a gradient, an activation, and so on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nodebudget.profiling.phases import Mark, Recording

Ints = npt.NDArray[np.int64]

#: Parts of the live bytes, in the order in which they are stacked.
PARTS = ("parameters", "optimizer state", "gradients", "batch data", "activations", "temporary", "beside", "rounding")


def attribute(recording: Recording) -> Ints:
    """Return the live bytes of each part before the first event and after each, shape (events + 1, parts).

    Parameters, gradients and optimizer state are identified by the addresses of the workload's storages at the marks.
    Batch data are the blocks that remain after making the batch. Activations are the blocks of the forward pass and the
    loss that live when the backward pass begins. All others are temporary: memory of single operators, gradients of
    activations, the optimizer's buffers.
    """
    changes = np.zeros((len(recording.blocks) + 1, len(PARTS)), dtype=np.int64)
    for life in _lives(recording):
        part = PARTS.index(life.part or "temporary")
        changes[life.start, part] += life.nbytes
        if life.end is not None:
            changes[life.end, part] -= life.nbytes
    timeline = np.cumsum(changes, axis=0)
    timeline[:, PARTS.index("beside")] = recording.beside
    if recording.counted is not None:
        # Blocks are multiples of 512 bytes, and a remainder that is too small is not split off.
        rest = recording.counted - int(timeline.sum(axis=1).max())
        timeline[:, PARTS.index("rounding")] = max(rest, 0)
    return np.asarray(timeline, dtype=np.int64)


@dataclass
class _Life:
    """A block from its allocation to its release. Event 0 is before the step: event i of the recording is i + 1."""

    nbytes: int
    start: int
    phase: str
    end: int | None = None
    part: str = ""


def _lives(recording: Recording) -> list[_Life]:
    live = {address: _Life(nbytes, 0, "before") for address, nbytes in recording.resident.items()}
    lives = [*live.values()]
    marks, phase = list(recording.marks)[::-1], "before"
    for place in range(len(recording.blocks) + 1):
        while marks and marks[-1].place == place:
            mark = marks.pop()
            _assign_parts(live, mark, phase)
            phase = mark.phase
        if place == len(recording.blocks):
            break
        address, nbytes = int(recording.blocks[place]), int(recording.nbytes[place])
        if nbytes >= 0:
            live[address] = _Life(nbytes, place + 1, phase)
            lives.append(live[address])
        elif address in live:
            live.pop(address).end = place + 1
    return lives


def _assign_parts(live: dict[int, _Life], mark: Mark, ended: str) -> None:
    """Assign parts to the live blocks at a mark that ends a phase."""
    for address, life in live.items():
        if address in mark.held:
            life.part = mark.held[address]
        elif not life.part and ended == "batch" and life.phase == "batch":
            life.part = "batch data"
        elif not life.part and mark.phase == "backward" and life.phase in ("forward", "loss"):
            life.part = "activations"
