"""The budget of a batch: maxima of its sizes, or the memory that a training step on it may take."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, SupportsFloat

import numpy as np
import numpy.typing as npt

from nodebudget.datasets.size_table import STANDARD, SizeTable
from nodebudget.errors import DoesNotFitError, InputError, RecordError
from nodebudget.sampling.packing.items import Column, Items
from nodebudget.utils.byte_units import format_bytes, parse_bytes
from nodebudget.utils.size_labels import count_sizes

if TYPE_CHECKING:
    from nodebudget.calibration.memory_model import Calibration

#: Name of the column of predicted bytes.
BYTES = "predicted bytes"

#: Columns of fractions are packed as whole parts of their maximum, rounded up: 2^40 of them make the maximum, or fewer,
#: such that the parts of all graphs fit in 62 bits.
_PARTS_BITS = 40

#: More than any machine has; numbers up to this can be compared and added without overflow.
_LARGEST = 2.0**61

_MAX_ERROR = 0.05  #: Mean error of held-out steps up to which a calibration makes a budget.


@dataclass(frozen=True, eq=False)
class Budget:
    """What every batch keeps to. Make one with `Budget.make`.

    Attributes:
        maxima: Column → its maximum per batch.
        max_graphs: Maximum number of graphs per batch, or None.
        calibration: What predicts bytes, or None.
        memory: Maximum bytes of a training step at its peak, all included, or None.
    """

    maxima: Mapping[str, int | float] = field(default_factory=dict)
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
        """Check a budget and return it.

        Args:
            max_nodes: Maximum number of nodes per batch; likewise `max_edges`, `max_line_edges`, `max_graphs`.
            max_edges: Maximum number of edges.
            max_line_edges: Maximum number of line-graph edges.
            max_graphs: Maximum number of graphs.
            calibration: Predicts bytes; goes with `memory`.
            memory: Bytes, or a text such as "40GiB": the peak of a training step, resident bytes included.
            max_columns: Maximum per batch of further columns of the sizes, by name.

        Raises:
            InputError: No argument is given, a maximum is not a positive whole number (below 2^63), or one of
                `calibration` and `memory` is given without the other, or the calibration is over 5% off on
                held-out steps with little noise, which was not accepted (`Calibration.accept_error`).
            DoesNotFitError: A training step takes more than the memory without any graph.
        """
        given = {"nodes": max_nodes, "edges": max_edges, "line_edges": max_line_edges}
        maxima: dict[str, int | float] = {k: _whole(f"max_{k}", v) for k, v in given.items() if v is not None}
        for name, value in (max_columns or {}).items():
            if name in maxima:
                raise InputError(f"two maxima of {name}: {maxima[name]} and {value}", hint="give one of them")
            maxima[name] = _positive(name, value)
        if max_graphs is not None:
            max_graphs = _whole("max_graphs", max_graphs)
        budget = cls(maxima, max_graphs, calibration, _memory(calibration, memory))
        if not maxima and max_graphs is None and budget.memory is None:
            raise InputError(
                "no budget for a batch is given",
                hint="give max_nodes, max_edges, max_line_edges or max_graphs, or a calibration with memory",
            )
        return budget

    def changed(self, **arguments: Any) -> Budget:
        """Return the budget with those arguments of `make` changed that are not None. Errors are those of `make`."""
        given = {name: value for name, value in arguments.items() if value is not None}
        if "memory" in given or "calibration" in given:
            given = {"calibration": self.calibration, "memory": self.memory, **given}
        new = Budget.make(**given)
        return Budget(
            {**self.maxima, **new.maxima},
            new.max_graphs or self.max_graphs,
            new.calibration or self.calibration,
            new.memory or self.memory,
        )

    def _headrooms(self) -> list[int]:
        """Return, for each segment of the calibration, the bytes that a batch's graphs may add; empty without one.

        Such that the upper bound of the prediction, not its mean, is within the memory.
        """
        if self.calibration is None or self.memory is None:
            return []
        mean = self.calibration.max_prediction(self.memory)
        if mean < self.memory:
            # Quantiles differ in their last digits between versions of scipy: down to a millionth of the memory.
            mean -= mean % (self.memory * 2.0**-20)
        return [math.floor(min(mean - segment["fixed"], _LARGEST / 2)) for segment in self.calibration.segments]

    def describe(self) -> str:
        """Return the maxima in one line: "up to 2,000 nodes, 64 graphs, 40.0 GiB"."""
        graphs = {} if self.max_graphs is None else {"graphs": self.max_graphs}
        parts = [count_sizes({name: count}) for name, count in {**self.maxima, **graphs}.items()]
        if self.memory is not None:
            parts.append(format_bytes(self.memory))
        return "up to " + ", ".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON and hashes; the calibration by its coefficients."""
        model = self.calibration
        return {
            **self._sizes(),
            "coefficients": None if model is None else [dict(segment) for segment in model.segments],
            "bound": None if model is None else model.bound.to_dict(),
        }

    def to_state(self) -> dict[str, Any]:
        """Return plain values for `from_state`; the calibration without its measurements."""
        model = self.calibration
        return {
            **self._sizes(),
            "calibration": None if model is None else replace(model, observations=(), context={}).to_dict(),
        }

    def _sizes(self) -> dict[str, Any]:
        maxima = dict(self.maxima)
        return {"caps": maxima, "max_graphs": self.max_graphs, "memory": self.memory}  # on disk

    @classmethod
    def from_state(cls, state: Any) -> Budget:
        """Make the budget of what `to_state` returned.

        Raises:
            RecordError: It is something else.
        """
        from nodebudget.calibration.memory_model import Calibration

        try:
            model = None if state["calibration"] is None else Calibration.from_dict(state["calibration"])
            maxima = dict(state["caps"])  # on disk
            return cls.make(
                max_graphs=state["max_graphs"], calibration=model, memory=state["memory"], max_columns=maxima
            )
        except (InputError, DoesNotFitError, KeyError, TypeError, ValueError) as error:
            raise RecordError(f"not the state of a budget: {error}", hint="load what state_dict() returned") from error

    def columns(self, sizes: SizeTable, balance: str | None = None) -> tuple[tuple[str, ...], Items]:
        """Return the columns to pack, as whole numbers with their maxima, and their names; the balanced one first.

        Args:
            sizes: One row per graph.
            balance: Column to balance: a name, or None for predicted bytes where there is a calibration, else
                the column that needs the most batches, else the last of nodes, edges and line-graph edges.

        Raises:
            InputError: The sizes lack a column, or no graph takes memory by the calibration.
        """
        columns: dict[str, tuple[Column, int | None]] = {}
        for segment, headroom in enumerate(self._headrooms()):
            # Each segment has a maximum of its own: the largest of them keeps to the memory when each of them does.
            assert self.calibration is not None
            needs = self.calibration.graph_bytes(sizes, segment)
            columns[_segment_name(segment)] = (_whole_bytes(needs, headroom), headroom)
        if columns and not any(values.any() for values, _ in columns.values()):
            raise InputError(
                "by the calibration none of the graphs takes memory, so that all would make one batch",
                hint="calibrate with larger probes (--max-graphs) or on other crystals, or give max_nodes or max_edges",
            )
        for name, maximum in self.maxima.items():
            columns[name] = whole_column(sizes[name], maximum)
        first = balance or _to_balance(sizes, columns)
        if first not in columns:
            columns[first] = whole_column(sizes[first], None)
        names = self.names(first)
        values, maxima = zip(*(columns[name] for name in names), strict=True)
        return names, Items(values, maxima, self.max_graphs)

    def column_maxima(self, names: Sequence[str]) -> list[int | float | None]:
        """Return the maxima of columns as `names` names them; of bytes what graphs may add. None for no maximum."""
        headrooms = {_segment_name(place): headroom for place, headroom in enumerate(self._headrooms())}
        return [headrooms.get(name, self.maxima.get(name)) for name in names]

    def names(self, balanced: str) -> tuple[str, ...]:
        """Return the names of the columns that are packed, the balanced one first."""
        columns = (*map(_segment_name, range(len(self._headrooms()))), *self.maxima)
        return (balanced, *(name for name in columns if name != balanced))


def _to_balance(sizes: SizeTable, columns: Mapping[str, tuple[Column, int | None]]) -> str:
    if BYTES in columns:
        return BYTES
    if columns:
        return max(columns, key=lambda name: int(columns[name][0].sum()) / (columns[name][1] or 1))
    return [name for name in STANDARD if name in sizes][-1]


def _segment_name(segment: int) -> str:
    # Hashed in the states of samplers.
    return BYTES if segment == 0 else f"{BYTES}, piece {segment + 1}"  # on disk


def _whole_bytes(needs: npt.NDArray[np.float64], headroom: int) -> npt.NDArray[np.int64]:
    """Round up."""
    whole = np.minimum(np.ceil(needs, out=needs), _LARGEST, out=needs).astype(np.int64)
    if whole.sum(where=whole <= headroom, dtype=np.float64) >= 2.0**63:
        raise InputError("all graphs together need over 2^63 bytes", hint="check the sizes, or calibrate again")
    return whole


def whole_column(values: npt.NDArray[Any], maximum: float | None) -> tuple[Column, int | None]:
    """Return sizes and their maximum as whole numbers, fractions as parts of the maximum, rounded up."""
    if values.dtype.kind == "i":
        return values, None if maximum is None else math.floor(maximum)
    # By powers of two and single operations, whose results do not depend on the order in which a processor adds.
    bits = min(_PARTS_BITS, 61 - len(values).bit_length())
    if maximum is None:
        exponent = math.frexp(float(values.max(initial=0)))[1]
        return np.ceil(np.ldexp(values, bits - exponent)).astype(np.int64), None
    # Over twice the maximum it no longer matters by how much.
    return np.ceil(np.minimum(values / float(maximum), 2.0) * 2.0**bits).astype(np.int64), 2**bits


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
    return InputError(f"{name} is {value!r}", limit=limit, hint="give the maximum per batch")


def _memory(calibration: Calibration | None, memory: int | str | None) -> int | None:
    if (calibration is None) != (memory is None):
        missing = "a calibration" if calibration is None else "an amount of memory"
        raise InputError(
            f"memory and calibration go together, and {missing} is not given",
            hint="make a calibration with 'nodebudget calibrate', and give memory like 40GiB",
        )
    if calibration is None or memory is None:
        return None
    bytes_ = parse_bytes(memory)
    _check_error(calibration)
    least = max(calibration.floor, *(segment["fixed"] for segment in calibration.segments))
    if bytes_ <= least:
        raise DoesNotFitError(
            f"a training step takes {format_bytes(least)} without any graph",
            limit=f"the memory is {format_bytes(bytes_)}",
            hint="give more memory, or train a smaller model",
        )
    return bytes_


def _check_error(calibration: Calibration) -> None:
    from nodebudget.calibration.memory_model import MAX_NOISE

    error, noise = calibration.holdout.mape, calibration.noise
    is_noise = noise is None or noise > MAX_NOISE * error
    if error > _MAX_ERROR and not is_noise and not calibration.is_error_accepted:
        raise InputError(
            f"the calibration is {error:.1%} off on held-out steps, and the same step twice differs by {noise:.1%}",
            limit=f"a budget in bytes takes up to {_MAX_ERROR:.0%}",
            hint="calibrate with the size that is missing, which the warning of the calibration names, or accept the "
            "error: --allow-mismatch, calibration.accept_error() or AutoOptions(accept_error=True)",
        )
