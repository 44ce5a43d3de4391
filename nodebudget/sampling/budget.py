"""What a batch may hold: caps on its sizes, given or worked out of a calibration and an amount of memory."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, SupportsFloat

import numpy as np
import numpy.typing as npt

from nodebudget.datasets.size_table import STANDARD, SizeTable
from nodebudget.errors import DoesNotFitError, InputError, RecordError
from nodebudget.sampling.packing.items import Items
from nodebudget.utils.byte_units import format_bytes, parse_bytes
from nodebudget.utils.size_labels import count_sizes

if TYPE_CHECKING:
    from nodebudget.calibration.memory_model import Calibration

#: Name of the column of predicted bytes.
BYTES = "predicted bytes"

#: Columns that are not whole numbers are packed as parts of their cap, rounded up: 2^40 of them make the cap, fewer
#: where the parts of all graphs would not fit in 62 bits.
_PARTS_BITS = 40

#: More than any machine has; numbers up to here can be compared and added without overflow.
_MOST_BYTES = 2.0**61


@dataclass(frozen=True, eq=False)
class Budget:
    """Caps that every batch keeps.

    Attributes:
        caps: Column → most of it in a batch.
        max_graphs: Most graphs in a batch, or None.
        calibration: What predicts bytes, or None.
        memory: Bytes that a training step may take at its peak, all included, or None.
    """

    caps: Mapping[str, int | float] = field(default_factory=dict)
    max_graphs: int | None = None
    calibration: Calibration | None = None
    memory: int | None = None

    @classmethod
    def make(
        cls,
        max_nodes: int | None = None,
        max_edges: int | None = None,
        max_line_edges: int | None = None,
        max_graphs: int | None = None,
        calibration: Calibration | None = None,
        memory: int | str | None = None,
        max_columns: Mapping[str, int | float] | None = None,
    ) -> Budget:
        """Check what the user gave.

        Args:
            max_nodes: Most nodes in a batch; likewise `max_edges`, `max_line_edges`, `max_graphs`.
            max_edges: Most edges.
            max_line_edges: Most line-graph edges.
            max_graphs: Most graphs.
            calibration: Predicts bytes; goes with `memory`.
            memory: Bytes, or a text such as "40GiB": the peak of a training step, resident bytes included.
            max_columns: Caps on further columns of the sizes, by name.

        Raises:
            InputError: No cap at all, one that is no positive whole number, or one of `calibration` and
                `memory` without the other.
            DoesNotFitError: The memory does not even hold what is there without any graph.
        """
        given = {"nodes": max_nodes, "edges": max_edges, "line_edges": max_line_edges}
        caps: dict[str, int | float] = {k: _whole(f"max_{k}", v) for k, v in given.items() if v is not None}
        for name, value in (max_columns or {}).items():
            if name in caps:
                raise InputError(f"two caps on {name}: {caps[name]} and {value}", hint="give one of them")
            caps[name] = _positive(name, value)
        most = None if max_graphs is None else _whole("max_graphs", max_graphs)
        room = _memory(calibration, memory)
        if not caps and most is None and room is None:
            raise InputError(
                "no budget for a batch is given",
                hint="give max_nodes, max_edges, max_line_edges or max_graphs, or a calibration with memory",
            )
        return cls(caps, most, calibration, room)

    def changed(
        self,
        max_nodes: int | None = None,
        max_edges: int | None = None,
        max_line_edges: int | None = None,
        max_graphs: int | None = None,
        calibration: Calibration | None = None,
        memory: int | str | None = None,
        max_columns: Mapping[str, int | float] | None = None,
    ) -> Budget:
        """Return limits with what is given changed and all else as it is. Arguments and errors are those of `make`."""
        given = Budget.make(
            *(max_nodes, max_edges, max_line_edges, max_graphs),
            calibration or (self.calibration if memory is not None else None),
            memory if memory is not None or calibration is None else self.memory,
            max_columns,
        )
        return Budget(
            {**self.caps, **given.caps},
            given.max_graphs or self.max_graphs,
            given.calibration or self.calibration,
            given.memory or self.memory,
        )

    @property
    def graph_room(self) -> int | None:
        """Bytes that the graphs of one batch may add to what is fixed, by the main piece; None without a calibration.

        Such that the upper bound of the prediction, not its mean, is within the memory.
        """
        if self.calibration is None or self.memory is None:
            return None
        return self._room(self.calibration.fixed)

    def _room(self, fixed: float) -> int:
        assert self.calibration is not None
        assert self.memory is not None
        mean = self.calibration.max_prediction(self.memory)
        if mean < self.memory:
            # Quantiles differ in their last digits between versions of scipy: down to a millionth of the memory.
            mean -= mean % (self.memory * 2.0**-20)
        return math.floor(min(mean - fixed, _MOST_BYTES / 2))

    def describe(self) -> str:
        """Say the caps in one line."""
        graphs = {} if self.max_graphs is None else {"graphs": self.max_graphs}
        parts = [count_sizes({name: count}) for name, count in {**self.caps, **graphs}.items()]
        if self.memory is not None:
            parts.append(format_bytes(self.memory))
        return "at most " + ", ".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON and fingerprints; the calibration by its coefficients."""
        known = self.calibration
        coefficients = None if known is None else [dict(piece) for piece in known.segments]
        return {
            "caps": dict(self.caps),
            "max_graphs": self.max_graphs,
            "memory": self.memory,
            "coefficients": coefficients,
            "bound": None if known is None else known.bound.to_dict(),
        }

    def to_state(self) -> dict[str, Any]:
        """Return plain values that `from_state` makes the limits of; the calibration without its measurements."""
        known = self.calibration
        bare = None if known is None else replace(known, observations=(), context={}).to_dict()
        return {"caps": dict(self.caps), "max_graphs": self.max_graphs, "memory": self.memory, "calibration": bare}

    @classmethod
    def from_state(cls, state: Any) -> Budget:
        """Make the limits of what `to_state` returned.

        Raises:
            RecordError: It is something else.
        """
        from nodebudget.calibration.memory_model import Calibration

        try:
            known = None if state["calibration"] is None else Calibration.from_dict(state["calibration"])
            return cls.make(
                max_graphs=state["max_graphs"],
                calibration=known,
                memory=state["memory"],
                max_columns=dict(state["caps"]),
            )
        except (InputError, DoesNotFitError, KeyError, TypeError, ValueError) as error:
            raise RecordError(
                f"this is no state of a budget: {error}", hint="load what state_dict() returned"
            ) from error

    def columns(self, sizes: SizeTable, balance: str | None = None) -> tuple[tuple[str, ...], Items]:
        """Turn sizes into whole numbers with caps, the column to balance first.

        Args:
            sizes: One row a graph.
            balance: Column to balance: a name, or None for predicted bytes where there is a calibration, else
                the cap that asks for the most batches, else the largest size that is known.

        Raises:
            InputError: The sizes lack a column.
        """
        found: dict[str, tuple[npt.NDArray[np.int64], int | None]] = {}
        if self.calibration is not None and self.memory is not None:
            for place, piece in enumerate(self.calibration.segments):
                # Each affine piece is a cap of its own: their maximum keeps to the memory when each of them does.
                room = self._room(piece["fixed"])
                found[_piece_name(place)] = (_whole_bytes(self.calibration.graph_bytes(sizes, place), room), room)
            if not any(needs.any() for needs, _ in found.values()):
                raise InputError(
                    "by the calibration none of the graphs takes memory, so that all would make one batch",
                    hint="calibrate with larger probes (--max-graphs) or on other crystals, or cap nodes or edges",
                )
        for name, cap in self.caps.items():
            found[name] = _whole_column(sizes[name], cap)
        first = balance or self._to_balance(sizes, found)
        if first not in found:
            found[first] = (_whole_column(sizes[first], None)[0], None)
        names = self.names(first)
        return names, Items(tuple(found[n][0] for n in names), tuple(found[n][1] for n in names), self.max_graphs)

    def names(self, balanced: str) -> tuple[str, ...]:
        """Return the names of the columns that are packed, the balanced one first."""
        pieces = 0 if self.calibration is None or self.memory is None else len(self.calibration.segments)
        capped = (*map(_piece_name, range(pieces)), *self.caps)
        return (balanced, *(name for name in capped if name != balanced))

    def _to_balance(self, sizes: SizeTable, found: Mapping[str, tuple[npt.NDArray[np.int64], int | None]]) -> str:
        if BYTES in found:
            return BYTES
        if found:
            return max(found, key=lambda name: int(found[name][0].sum()) / (found[name][1] or 1))
        return [name for name in STANDARD if name in sizes][-1]


def _piece_name(place: int) -> str:
    return BYTES if place == 0 else f"{BYTES}, piece {place + 1}"


def _whole_bytes(needs: npt.NDArray[np.float64], room: int) -> npt.NDArray[np.int64]:
    """Round up."""
    whole = np.minimum(np.ceil(needs, out=needs), _MOST_BYTES, out=needs).astype(np.int64)
    if whole.sum(where=whole <= room, dtype=np.float64) >= 2.0**63:
        raise InputError("all graphs together need over 2^63 bytes", hint="check the sizes, or calibrate again")
    return whole


def _whole_column(values: npt.NDArray[Any], cap: float | None) -> tuple[npt.NDArray[np.int64], int | None]:
    if values.dtype.kind == "i":
        return values, None if cap is None else math.floor(cap)
    # By powers of two and single operations, whose results do not depend on the order in which a processor adds.
    bits = min(_PARTS_BITS, 61 - len(values).bit_length())
    if cap is None:
        largest = math.frexp(float(values.max(initial=0)))[1]
        return np.ceil(np.ldexp(values, bits - largest)).astype(np.int64), None
    # Over twice the cap it no longer matters by how much.
    return np.ceil(np.minimum(values / float(cap), 2.0) * 2.0**bits).astype(np.int64), 2**bits


def _whole(name: str, value: Any) -> int:
    number = _positive(name, value)
    if number != int(number):
        raise _refuse(name, value, "a positive whole number")
    return int(number)


def _positive(name: str, value: Any) -> int | float:
    is_number = isinstance(value, (SupportsFloat, np.number)) and not isinstance(value, (bool, np.bool_))
    if not is_number or not 0 < float(value) < 2.0**63:
        raise _refuse(name, value, "a positive number, below 2^63")
    return value.item() if isinstance(value, np.generic) else value  # type: ignore[no-any-return]


def _refuse(name: str, value: object, limit: str) -> InputError:
    return InputError(f"{name} is {value!r}", limit=limit, hint="give what a batch may hold at most")


def _memory(calibration: Calibration | None, memory: int | str | None) -> int | None:
    if (calibration is None) != (memory is None):
        missing = "a calibration" if calibration is None else "an amount of memory"
        raise InputError(
            f"memory and calibration go together, and {missing} is not given",
            hint="make a calibration with 'nodebudget calibrate', and give memory like 40GiB",
        )
    if calibration is None or memory is None:
        return None
    room = parse_bytes(memory)
    least = max(calibration.floor, *(piece["fixed"] for piece in calibration.segments))
    if room <= least:
        raise DoesNotFitError(
            f"a training step takes {format_bytes(least)} without any graph",
            limit=f"the memory is {format_bytes(room)}",
            hint="give more memory, or train a smaller model",
        )
    return room
