"""The pairs of runs that differ in one setting, and the difference that a formula predicts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from data_loading.setup import Outcome, Setup

#: Values of prefetch_factor: PyTorch's default, and the one that it is compared with.
_PREFETCH, _MORE = 2, 8

#: Predicts the difference of B from A, bytes.
Formula = Callable[[Outcome, Outcome], int]


@dataclass(frozen=True)
class Pair:
    """Two runs that differ in one setting.

    Attributes:
        name: Name of the setting.
        claim: Number of the claim that it tests.
        a: Setup of the first run.
        b: Setup of the second run.
        shown: The two values as text.
        device: Predicts the difference in device memory, or None.
        host: Predicts the difference in host memory, or None.
        formula: The formula as text.
    """

    name: str
    claim: int
    a: Setup
    b: Setup
    shown: tuple[str, str]
    device: Formula | None = None
    host: Formula | None = None
    formula: str = ""


@dataclass(frozen=True)
class Finding:
    """The measurements of a pair.

    Attributes:
        pair: The pair.
        a: Outcome of the first run.
        b: Outcome of the second run.
    """

    pair: Pair
    a: Outcome
    b: Outcome

    @property
    def device(self) -> int:
        """Device memory of B minus that of A, bytes."""
        return self.b.device - self.a.device

    @property
    def host(self) -> int:
        """Host memory of B minus that of A, bytes."""
        return self.b.host - self.a.host

    @property
    def expected_device(self) -> int | None:
        """Predicted `device`, or None."""
        return None if self.pair.device is None else self.pair.device(self.a, self.b)

    @property
    def expected_host(self) -> int | None:
        """Predicted `host`, or None."""
        return None if self.pair.host is None else self.pair.host(self.a, self.b)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        first, second = self.pair.shown
        return {
            "setting": self.pair.name,
            "claim": self.pair.claim,
            "a": {"value": first, **vars(self.a)},
            "b": {"value": second, **vars(self.b)},
            "device_bytes": self.device,
            "host_bytes": self.host,
            "formula": self.pair.formula,
            "formula_device_bytes": self.expected_device,
            "formula_host_bytes": self.expected_host,
        }


def pairs_of(base: Setup, workers: int, *, cuda: bool) -> list[Pair]:
    """Return the pairs around a setup.

    Args:
        base: No workers, nothing pinned, both caches in host memory.
        workers: Worker processes, in the runs that have some.
        cuda: Whether the device is a GPU, with its own memory.
    """
    working = replace(base, num_workers=workers, prefetch_factor=_PREFETCH)
    ahead = workers * (_MORE - _PREFETCH)
    pairs = [
        Pair("pin_memory", 2, base, replace(base, pin_memory=True), ("off", "on")),
        Pair("num_workers", 3, base, working, ("0", str(workers))),
        Pair(
            "prefetch_factor",
            3,
            working,
            replace(working, prefetch_factor=_MORE),
            (str(_PREFETCH), str(_MORE)),
            host=lambda a, b: ahead * a.batch,
            formula=f"{workers} workers × {_MORE - _PREFETCH} more batches × a mean batch",
        ),
        Pair(
            "graph cache",
            4,
            replace(base, graphs="built"),
            base,
            ("built on access", "dgl.load_graphs"),
            host=lambda a, b: b.graphs,
            formula="bytes of all graphs",
        ),
        Pair(
            "text cache",
            5,
            replace(base, text="encoded"),
            base,
            ("encoded in the step", "in host memory"),
            host=lambda a, b: b.text + b.batch - a.batch,
            formula="768 floats × all tokens, and those of a batch a second time",
        ),
    ]
    return pairs + (_on_device(base, workers) if cuda else [])


def _on_device(base: Setup, workers: int) -> list[Pair]:
    threads = replace(base, threads=workers, prefetch_factor=_PREFETCH)
    return [
        Pair(
            "collate function",
            3,
            threads,
            replace(threads, collate="device"),
            ("leaves batches on the host", "moves them to the device"),
            device=lambda a, b: workers * _PREFETCH * a.batch,
            formula=f"{workers} workers × {_PREFETCH} batches × a mean batch",
        ),
        Pair(
            "text cache",
            5,
            base,
            replace(base, text="on device"),
            ("in host memory", "on the device"),
            device=lambda a, b: b.text,
            formula="768 floats × all tokens",
        ),
    ]


def find(pairs: list[Pair], outcomes: Mapping[Setup, Outcome]) -> tuple[Finding, ...]:
    """Join pairs with the outcomes of their runs."""
    return tuple(Finding(pair, outcomes[pair.a], outcomes[pair.b]) for pair in pairs)
