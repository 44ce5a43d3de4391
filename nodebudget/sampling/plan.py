"""A plan is a value: a pure function of sizes, budget, seed, epoch and the number of ranks."""

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

from nodebudget.errors import InputError
from nodebudget.sampling.budget import BYTES
from nodebudget.sampling.packing.batch_grid import Ints
from nodebudget.sampling.plan_config import PlanConfig
from nodebudget.utils.byte_units import format_bytes
from nodebudget.utils.files import write_whole

Floats = npt.NDArray[np.float64]

KIND = "nodebudget.plan"
SCHEMA_VERSION = 1

#: Maximum bytes of a plan as JSON: some 80 million graphs. As `.npz` it may be of any size.
TEXT = 2**29


@dataclass(frozen=True, eq=False)
class FlatBatches:
    """Batches as two arrays.

    Attributes:
        indices: The graphs, batch by batch, shape (graphs in batches,).
        offsets: Where each batch starts in `indices`, shape (batches + 1,).
    """

    indices: Ints
    offsets: Ints

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def graphs(self) -> Ints:
        """Graphs in each batch, shape (batches,)."""
        return np.diff(self.offsets)

    def loads(self, values: npt.ArrayLike) -> npt.NDArray[Any]:
        """Sum values of graphs (shape (graphs,) or (graphs, columns)) over each batch."""
        return np.add.reduceat(np.asarray(values)[self.indices], self.offsets[:-1])


@dataclass(frozen=True, eq=False)
class Plan(FlatBatches):
    """The batches of one epoch.

    Attributes:
        oversized: Graphs over the budget on their own, ascending: left out, or each in a batch of its own, as
            `config.oversized` says.
        lower_bound: No plan within the budget has fewer batches.
        balanced: Name of the column that is balanced.
        epoch: Number of the epoch.
        config: All else that it depends on.
        step_offsets: With `graphs_per_step`: where each optimizer step starts among the batches, shape (steps + 1,).
        first_step: Number of the first of these steps in the epoch.
        repeats: Which of `indices` come a second time in the epoch, shape (graphs in batches,); None: none of them.
    """

    oversized: Ints
    lower_bound: int
    balanced: str
    epoch: int
    config: PlanConfig
    step_offsets: Ints | None = None
    first_step: int = 0
    repeats: npt.NDArray[np.bool_] | None = None

    @property
    def steps(self) -> Ints:
        """Where each optimizer step starts, shape (steps + 1,); a batch of each rank without `graphs_per_step`."""
        if self.step_offsets is None:
            return np.arange(0, len(self) + 1, self.config.num_replicas)
        return self.step_offsets

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
        world = self.config.num_replicas
        if not 0 <= rank < world:
            raise InputError(f"rank {rank}", limit=f"ranks are 0 to {world - 1}", hint="give the rank of this process")
        return (self.batch(place).tolist() for place in range(rank + start * world, len(self), world))

    @cached_property
    def predicted_bytes(self) -> Floats | None:
        """Predicted peak of each batch in bytes, shape (batches,); None without a calibration."""
        model = self.config.budget.calibration
        if model is None:
            return None
        sums = [
            self.loads(model.graph_bytes(self.config.sizes, place)) + segment["fixed"]
            for place, segment in enumerate(model.segments)
        ]
        return np.asarray(np.maximum(np.max(sums, axis=0), model.floor), dtype=np.float64)

    @cached_property
    def balance(self) -> npt.NDArray[Any]:
        """The balanced column of each batch, shape (batches,); predicted bytes where there is a calibration."""
        if self.balanced == BYTES and self.predicted_bytes is not None:
            return self.predicted_bytes
        return self.loads(self.config.sizes[self.balanced])

    @cached_property
    def shapes(self) -> Ints:
        """Which of `config.static.shapes` each batch is padded to, the smallest that holds it; shape (batches,).

        Raises:
            InputError: The plan was not made with `pack="static"`.
        """
        return self.config.static.shape_numbers(self.graphs, self.loads)

    @property
    def loss_weights(self) -> Floats:
        """Factor for the mean loss of each batch, its number of graphs divided by the mean; shape (batches,).

        To weight graphs equally over an epoch, multiply each batch's mean loss by its factor: without it a graph in a
        batch of 62 has a slightly larger weight than one in a batch of 66. This matters where graph counts differ: with
        `pack="dense"`, or where a few graphs fill a batch. Balanced batches of 16 graphs or more differ by a percent or
        two, far less than the gradients of any two batches, and the factors can be left out.
        """
        return np.asarray(self.graphs / self.graphs.mean(), dtype=np.float64)

    @cached_property
    def fill(self) -> float:
        """Mean load over the maximum (1 is full) of the column that is fullest. Oversized graphs do not count."""
        inside = self.indices
        alone = len(self.oversized) if self.config.oversized == "alone" else 0
        if alone:
            inside = np.setdiff1d(inside, self.oversized, assume_unique=True)
        if not len(inside):
            return 1.0
        shares = self.config.budget.columns(self.config.sizes, self.balanced)[1].take(inside).shares()
        graphs = [] if self.config.budget.max_graphs is None else [len(inside) / self.config.budget.max_graphs]
        return float(max([*shares, *graphs]) / (len(self) - alone))

    def statistics(self) -> dict[str, Any]:
        """Return plain values: the number of batches, how full and how balanced they are.

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
            "oversized_policy": self.config.oversized,
            "pack": self.config.pack,
            "num_replicas": self.config.num_replicas,
            "seed": self.config.seed,
            "epoch": self.epoch,
            **({} if self.step_offsets is None else {"steps": len(self.step_offsets) - 1}),
        }

    def fingerprint(self) -> str:
        """Return a hash of the batches and their order, the same on every machine: 64 hexadecimal digits."""
        digest = hashlib.sha256()
        for array in (self.indices, self.offsets):
            for first in range(0, len(array), 2**20):
                digest.update(array[first : first + 2**20].astype("<i8").tobytes())
        return digest.hexdigest()

    def format_load(self, value: float) -> str:
        """Write an amount of the balanced column for people."""
        return format_bytes(value) if self.balanced == BYTES else f"{value:,.0f}"

    def _metadata(self) -> dict[str, Any]:
        return {
            "kind": KIND,
            "schema_version": SCHEMA_VERSION,
            "limits": self.config.budget.to_dict(),
            "data": self.config.sizes.fingerprint(),
            **self.statistics(),
        }

    def to_dict(self) -> dict[str, Any]:
        """Return the statistics and the batches as plain values."""
        return {**self._metadata(), "oversized_graphs": self.oversized.tolist(), "plan": list(self)}

    def to_arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return what was planned as arrays by name, for `from_arrays`."""
        further = {"step_offsets": self.step_offsets, "repeats": self.repeats}
        return {
            "indices": self.indices,
            "offsets": self.offsets,
            "oversized": self.oversized,
            "lower_bound": np.array([self.lower_bound, self.first_step]),
            "balanced": np.frombuffer(self.balanced.encode(), dtype=np.uint8),
            **{name: values for name, values in further.items() if values is not None},
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]], epoch: int, config: PlanConfig) -> Plan:
        """Make a plan of what `to_arrays` returned.

        Raises:
            KeyError: An array is missing.
        """
        balanced = arrays["balanced"].tobytes().decode()
        bound, first = arrays["lower_bound"].tolist()
        flat = arrays["indices"], arrays["offsets"], arrays["oversized"]
        further = arrays.get("step_offsets"), first, arrays.get("repeats")
        return cls(*flat, bound, balanced, epoch, config, *further)

    def save(self, path: str | os.PathLike[str], *, force: bool = False) -> Path:
        """Write the plan as `.json`, or as `.npz` with `indices`, `offsets`, `oversized` and `about` (all else, JSON).

        Raises:
            InputError: Another suffix, too many graphs for JSON, or the file exists and `force` is not set.
        """
        suffix = Path(path).suffix
        if suffix == ".json":
            text = json.dumps(self.to_dict()).encode()
            if len(text) > TEXT:
                raise InputError(
                    f"the plan of {len(self.indices):,} graphs takes {format_bytes(len(text))} as JSON",
                    limit=format_bytes(TEXT),
                    hint="save it as .npz",
                )
            return write_whole(path, lambda file: file.write(text), force=force)
        if suffix != ".npz":
            raise InputError(
                f"a plan can't be written as {suffix or 'a file without a suffix'}: {str(path)!r}",
                limit="supported: .json, .npz",
                hint="choose one of these suffixes",
            )
        arrays: dict[str, Any] = {
            "indices": self.indices,
            "offsets": self.offsets,
            "oversized": self.oversized,
            "about": np.frombuffer(json.dumps(self._metadata()).encode(), dtype=np.uint8),
        }
        return write_whole(path, lambda file: np.savez(file, **arrays), force=force)

    def __repr__(self) -> str:
        config = self.config
        return (
            f"Plan({len(self)} batches, {len(self.indices)} graphs, pack={config.pack!r}, seed={config.seed}, "
            f"epoch={self.epoch}, num_replicas={config.num_replicas}, {config.budget.describe()})"
        )


def _spread(values: npt.NDArray[Any]) -> dict[str, float]:
    mean = float(values.mean())
    return {"mean": mean, "max": float(values.max()), "cv": float(values.std()) / mean if mean else 0.0}
