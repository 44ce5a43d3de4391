"""A plan is a value: a pure function of sizes, limits, seed, epoch and the number of ranks."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nodebudget.datasets.size_table import SizeTable
from nodebudget.errors import InputError
from nodebudget.sampling.budget import BYTES, Budget
from nodebudget.sampling.packing.items import Items
from nodebudget.utils.byte_units import format_bytes
from nodebudget.utils.files import write_whole

Ints = npt.NDArray[np.integer[Any]]
Floats = npt.NDArray[np.float64]

KIND = "nodebudget.plan"
SCHEMA_VERSION = 1

#: Bytes of a plan as JSON: some 80 million graphs. As `.npz` it may be of any size.
TEXT = 2**29


@dataclass(frozen=True, eq=False)
class Plan:
    """The batches of one epoch.

    Attributes:
        indices: The graphs, batch by batch, shape (graphs in batches,).
        offsets: Where each batch starts in `indices`, shape (batches + 1,).
        oversized: Graphs over a cap on their own, ascending: left out, or each in a batch of its own, as
            `oversized_policy` says.
        lower_bound: No plan within the limits has fewer batches.
        balanced: Name of the column that is balanced.
        pack: "balanced", "dense" or "sequential".
        seed: What the randomness came from, with `epoch`.
        epoch: See `seed`.
        num_replicas: Ranks that share the plan; the number of batches is a multiple of it.
        oversized_policy: "raise", "skip" or "alone".
        limits: The caps.
        sizes: The sizes of all graphs, shape (graphs,) a column.
    """

    indices: Ints
    offsets: npt.NDArray[np.int64]
    oversized: Ints
    lower_bound: int
    balanced: str
    pack: str
    seed: int
    epoch: int
    num_replicas: int
    oversized_policy: str
    limits: Budget
    sizes: SizeTable

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def batch(self, place: int) -> Ints:
        """Return the graphs of a batch, shape (graphs in it,).

        Raises:
            IndexError: There is no such batch.
        """
        if not -len(self) <= place < len(self):
            raise IndexError(f"batch {place} of {len(self)}")
        place %= len(self)
        return self.indices[self.offsets[place] : self.offsets[place + 1]]

    def __iter__(self) -> Iterator[list[int]]:
        return (self.batch(place).tolist() for place in range(len(self)))

    def rank_batches(self, rank: int, start: int = 0) -> Iterator[list[int]]:
        """Iterate over the batches of one rank: every `num_replicas`-th, from the `start`-th of them on.

        Raises:
            InputError: There is no such rank.
        """
        if not 0 <= rank < self.num_replicas:
            raise InputError(
                f"rank {rank}", limit=f"ranks are 0 to {self.num_replicas - 1}", hint="give the rank of this process"
            )
        first = rank + start * self.num_replicas
        return (self.batch(place).tolist() for place in range(first, len(self), self.num_replicas))

    @property
    def graphs(self) -> npt.NDArray[np.int64]:
        """Graphs in each batch, shape (batches,)."""
        return np.diff(self.offsets)

    def loads(self, values: npt.ArrayLike) -> npt.NDArray[Any]:
        """Sum values of graphs (shape (graphs,)) over each batch, shape (batches,)."""
        return np.add.reduceat(np.asarray(values)[self.indices], self.offsets[:-1])

    @cached_property
    def _items(self) -> tuple[tuple[str, ...], Items]:
        return self.limits.columns(self.sizes, self.balanced)

    @cached_property
    def predicted_bytes(self) -> Floats | None:
        """Predicted peak of each batch in bytes, shape (batches,); None without a calibration."""
        known = self.limits.calibration
        if known is None:
            return None
        sums = [
            self.loads(known.graph_bytes(self.sizes, place)) + piece["fixed"]
            for place, piece in enumerate(known.segments)
        ]
        return np.asarray(np.maximum(np.max(sums, axis=0), known.floor), dtype=np.float64)

    @cached_property
    def balance(self) -> npt.NDArray[Any]:
        """The balanced column of each batch, shape (batches,); predicted bytes where there is a calibration."""
        if self.balanced == BYTES and self.predicted_bytes is not None:
            return self.predicted_bytes
        return self.loads(self.sizes[self.balanced])

    @property
    def loss_weights(self) -> Floats:
        """What to multiply each batch's mean loss with, its graphs over the mean; shape (batches,).

        A loss that is a mean over the batch weighs every batch alike, and so a graph in a batch of 62 a little
        more than one in a batch of 66. Multiplied with these weights every graph counts the same over an epoch,
        as with a fixed batch size. It matters where graph counts differ: with `pack="dense"`, or where a few
        graphs fill a batch. Balanced batches of 16 graphs or more differ by a percent or two, which is far
        less than what one batch's gradient differs from the next one's, and most can leave the weights out.
        """
        counts = self.graphs
        return np.asarray(counts / counts.mean(), dtype=np.float64)

    @cached_property
    def fill(self) -> float:
        """How full the batches are on average in the cap that is fullest, 1 being full; lone graphs aside."""
        inside = self.indices
        alone = len(self.oversized) if self.oversized_policy == "alone" else 0
        if alone:
            inside = np.setdiff1d(inside, self.oversized, assume_unique=True)
        if not len(inside):
            return 1.0
        taken = self._items[1].take(inside)
        most = [] if taken.max_graphs is None else [len(inside) / taken.max_graphs]
        return float(max([*taken.shares(), *most]) / (len(self) - alone))

    def statistics(self) -> dict[str, Any]:
        """Return plain values: batches, how full, how even.

        Returns:
            `batches`, `fill`, `lower_bound`, `graphs_per_batch` (`mean`, `std`), `predicted_bytes` (`mean`, `max`,
            `cv`; None without a calibration), `balanced` (`column`, `mean`, `max`, `cv`), `graphs`, `oversized` (how
            many), `oversized_policy`, `pack`, `num_replicas`, `seed`, `epoch`. std and cv are of the population.
        """
        counts, predicted = self.graphs, self.predicted_bytes
        return {
            "batches": len(self),
            "fill": self.fill,
            "lower_bound": self.lower_bound,
            "graphs_per_batch": {"mean": float(counts.mean()), "std": float(counts.std())},
            "predicted_bytes": None if predicted is None else _spread(predicted),
            "balanced": {"column": self.balanced, **_spread(self.balance)},
            "graphs": len(self.indices),
            "oversized": len(self.oversized),
            "oversized_policy": self.oversized_policy,
            "pack": self.pack,
            "num_replicas": self.num_replicas,
            "seed": self.seed,
            "epoch": self.epoch,
        }

    def fingerprint(self) -> str:
        """Return a hash of the batches and their order, the same on every machine: 64 hexadecimal digits."""
        digest = hashlib.sha256()
        for array in (self.indices, self.offsets):
            for first in range(0, len(array), 2**20):
                digest.update(array[first : first + 2**20].astype("<i8").tobytes())
        return digest.hexdigest()

    def show_load(self, value: float) -> str:
        """Write an amount of the balanced column for people."""
        return format_bytes(value) if self.balanced == BYTES else f"{value:,.0f}"

    def describe(self) -> str:
        """Say in a few lines what the plan holds."""
        found = self.statistics()
        counts, even = found["graphs_per_batch"], found["balanced"]
        show = self.show_load
        lines = [
            f"{len(self):,} batches of {found['graphs']:,} graphs, {self.limits.describe()} each",
            f"lower bound {self.lower_bound:,}, {found['fill']:.1%} full",
            f"graphs a batch: {counts['mean']:.1f} ± {counts['std']:.1f}",
            f"{self.balanced} a batch: mean {show(even['mean'])}, max {show(even['max'])}, CV {even['cv']:.2%}",
        ]
        if len(self.oversized):
            done = "left out" if self.oversized_policy == "skip" else "each in a batch of its own"
            lines.append(f"oversized graphs: {len(self.oversized):,}, {done}")
        return "\n".join(lines)

    def _about(self) -> dict[str, Any]:
        return {
            "kind": KIND,
            "schema_version": SCHEMA_VERSION,
            "limits": self.limits.to_dict(),
            "data": self.sizes.fingerprint(),
            **self.statistics(),
        }

    def to_dict(self) -> dict[str, Any]:
        """Return the statistics and the batches as plain values."""
        return {**self._about(), "oversized_graphs": self.oversized.tolist(), "plan": list(self)}

    def to_json(self) -> str:
        """Return `to_dict` as JSON."""
        return json.dumps(self.to_dict())

    def to_arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return what was worked out, as arrays by name that `from_arrays` takes."""
        return {
            "indices": self.indices,
            "offsets": self.offsets,
            "oversized": self.oversized,
            "lower_bound": np.array([self.lower_bound]),
            "balanced": np.frombuffer(self.balanced.encode(), dtype=np.uint8),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]], **known: Any) -> Plan:
        """Make a plan of what `to_arrays` returned and its other attributes.

        Raises:
            KeyError: An array is missing.
        """
        return cls(
            *(arrays["indices"], arrays["offsets"], arrays["oversized"], int(arrays["lower_bound"][0])),
            arrays["balanced"].tobytes().decode(),
            **known,
        )

    def save(self, path: str | os.PathLike[str], *, force: bool = False) -> Path:
        """Write the plan as `.json`, or as `.npz` with `indices`, `offsets`, `oversized` and `about` (all else, JSON).

        Raises:
            InputError: Another suffix, too many graphs for JSON, or the file exists and `force` is not set.
        """
        suffix = Path(path).suffix
        if suffix == ".json":
            text = self.to_json().encode()
            if len(text) > TEXT:
                raise InputError(
                    f"the plan of {len(self.indices):,} graphs takes {format_bytes(len(text))} as JSON",
                    limit=format_bytes(TEXT),
                    hint="save it as .npz",
                )
            return write_whole(path, lambda file: file.write(text), force=force)
        if suffix != ".npz":
            raise InputError(
                f"{str(path)!r} is no file of a plan", limit="suffix .json, .npz", hint="choose one of these suffixes"
            )
        about = np.frombuffer(json.dumps(self._about()).encode(), dtype=np.uint8)
        arrays: dict[str, Any] = {
            "indices": self.indices,
            "offsets": self.offsets,
            "oversized": self.oversized,
            "about": about,
        }
        return write_whole(path, lambda file: np.savez(file, **arrays), force=force)

    def __repr__(self) -> str:
        return (
            f"Plan({len(self)} batches, {len(self.indices)} graphs, pack={self.pack!r}, seed={self.seed}, "
            f"epoch={self.epoch}, num_replicas={self.num_replicas}, {self.limits.describe()})"
        )


def _spread(values: npt.NDArray[Any]) -> dict[str, float]:
    mean = float(values.mean())
    return {
        "mean": mean,
        "max": float(values.max()),
        "cv": float(values.std()) / mean if mean else 0.0,
    }
