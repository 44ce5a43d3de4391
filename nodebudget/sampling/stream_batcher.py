"""Batches within a budget from a stream, whose graphs are not known before they are read."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from nodebudget.datasets.measure import measure
from nodebudget.datasets.size_table import SizeTable
from nodebudget.errors import InputError, OversizedError
from nodebudget.sampling.budget import Budget
from nodebudget.sampling.plan_config import POLICIES, PlanConfig
from nodebudget.sampling.planner import Planner
from nodebudget.utils.checks import check_choice, check_count
from nodebudget.utils.distributed import are_the_ranks, world_and_rank

if TYPE_CHECKING:
    from nodebudget.calibration.memory_model import Calibration

_log = logging.getLogger("nodebudget")

#: How full the batches are that are cut from the middle of a stream.
_FILL = 0.995


class NodeBudgetBatcher(IterableDataset[list[Any]]):
    """Cuts a stream of samples into balanced batches within a budget, by looking ahead.

    A buffer is filled from the stream; its oldest samples are assigned to as many full batches as they make, like
    `NodeBudgetSampler` assigns an epoch, and the rest stays in the buffer. The end of the stream flushes
    it. The larger the buffer, the fuller and more balanced the batches: ten batches' worth or more is good.

    Use it with a loader that does not batch itself, and whose collate function gets a batch's samples:
    `DataLoader(batcher, batch_size=None, collate_fn=collate, num_workers=4)`.

    Each worker process of each rank takes every n-th sample of the stream, so that every sample comes once over all.
    The number of batches of a rank is not known before the stream ends, and may differ between ranks by a few: stop
    all ranks with the first that ends, or use `NodeBudgetSampler` where the data can be counted.
    """

    def __init__(
        self,
        stream: Iterable[Any],
        size_of: Callable[[Any], Mapping[str, float]] | None = None,
        *,
        max_nodes: int | None = None,
        max_edges: int | None = None,
        max_line_edges: int | None = None,
        max_graphs: int | None = None,
        calibration: Calibration | None = None,
        memory: int | str | None = None,
        max_columns: Mapping[str, int | float] | None = None,
        buffer: int = 1024,
        shuffle: bool = True,
        seed: int = 0,
        oversized: str = "raise",
        num_replicas: int | None = None,
        rank: int | None = None,
        sharded: bool = False,
    ) -> None:
        """Check the arguments.

        Args:
            stream: An iterable of samples, such as an IterableDataset. An iterator (a generator, for example) can
                be read once only, and not by worker processes.
            size_of: Sample → its sizes, `{"nodes": …, "edges": …}`; by default samples are counted as
                `nodebudget.measure` counts them.
            max_nodes: Maximum number of nodes per batch; all budgets are as in `NodeBudgetSampler`.
            max_edges: Maximum number of edges.
            max_line_edges: Maximum number of line-graph edges.
            max_graphs: Maximum number of graphs.
            calibration: Predicts bytes; goes with `memory`.
            memory: Maximum bytes of a step.
            max_columns: Maximum per batch of further sizes, by name.
            buffer: Samples to hold back, in each worker.
            shuffle: Assign the buffer's samples at random; otherwise in their order. Either way batches come from
                one buffer at a time: a sorted stream stays sorted at large.
            seed: Random seed.
            oversized: What happens to a sample over the budget: "raise", "skip" (counted in `skipped` and logged
                once) or "alone" (a batch of its own).
            num_replicas: Ranks; by default torch.distributed's where it is initialised, else 1.
            rank: This rank.
            sharded: The stream itself gives each rank and worker its share (webdataset does): take it all.

        Raises:
            InputError: No budget, or an invalid argument.
            DoesNotFitError: A training step takes more than the memory without any graph.
        """
        check_choice("oversized", oversized, POLICIES)
        self.budget = Budget.make(max_nodes, max_edges, max_line_edges, max_graphs, calibration, memory, max_columns)
        self.stream, self._size_of, self._policy = stream, size_of or _count, oversized
        self._buffer, self._seed = check_count("buffer", buffer, 1), check_count("seed", seed, 0)
        self.num_replicas, self.rank = world_and_rank(num_replicas, rank)
        self._ranks_given = num_replicas is not None and rank is not None
        self._shuffle, self._sharded = shuffle, sharded
        # In memory that worker processes share: persistent ones have a copy of all else.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]
        self.skipped = 0

    @property
    def epoch(self) -> int:
        """As set by `set_epoch`."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Choose another shuffle, before the loader is iterated; worker processes hear of it, persistent ones too."""
        self._epoch.fill_(check_count("epoch", epoch, 0))

    def __iter__(self) -> Iterator[list[Any]]:
        are_the_ranks(self.num_replicas, self.rank, self._ranks_given)
        worker = get_worker_info()
        workers, place = (1, 0) if worker is None else (worker.num_workers, worker.id)
        shards, shard = self.num_replicas * workers, self.rank * workers + place
        seed = int(np.random.SeedSequence([self._seed, self.epoch, shard]).generate_state(1)[0])
        self.skipped = 0
        numbered = enumerate(self.stream)
        share = numbered if self._sharded else ((i, sample) for i, sample in numbered if i % shards == shard)
        return self._cut(share, seed)

    def _cut(self, share: Iterator[tuple[int, Any]], seed: int) -> Iterator[list[Any]]:
        samples: list[Any] = []
        rows: list[Mapping[str, float]] = []
        turn = 0
        for place, sample in share:
            sizes = _checked(self._size_of(sample), place)
            if self._is_over(sizes, place):
                if self._policy == "raise":
                    if samples:
                        yield from self._batches(samples, rows, seed, turn)
                    hint = "raise the budget, or pass oversized='skip' or 'alone'"
                    what = _describe(sizes, place)
                    raise OversizedError(what, indices=[place], limit=self.budget.describe(), hint=hint)
                if self._policy == "alone":
                    yield [sample]
                continue
            if rows and sizes.keys() != rows[0].keys():
                raise InputError(
                    f"a sample has the sizes {', '.join(sizes)}",
                    limit=f"those before it: {', '.join(rows[0])}",
                    hint="give every sample the same sizes",
                )
            samples.append(sample)
            rows.append(sizes)
            if len(samples) >= self._buffer:
                # A buffer that is too small for one full batch is cut as it is: better than to hold more than asked.
                count = self._full(_table(rows)) or len(rows)
                yield from self._batches(samples[:count], rows[:count], seed, turn)
                del samples[:count], rows[:count]
                turn += 1
        if samples:
            yield from self._batches(samples, rows, seed, turn)

    def _is_over(self, sizes: Mapping[str, float], place: int) -> bool:
        if not self.budget.columns(_table([sizes]))[1].oversized()[0]:
            return False
        if self._policy != "raise":
            if not self.skipped:
                policy = "left out" if self._policy == "skip" else "in a batch of its own"
                what = _describe(sizes, place)
                _log.warning("%s (%s): %s; further ones are counted only", what, self.budget.describe(), policy)
            self.skipped += 1
        return True

    def _batches(
        self, samples: list[Any], rows: list[Mapping[str, float]], seed: int, turn: int
    ) -> Iterator[list[Any]]:
        config = PlanConfig(_table(rows), self.budget, shuffle=self._shuffle, seed=seed)
        return ([samples[place] for place in batch] for batch in Planner(config).plan(turn))

    def _full(self, table: SizeTable) -> int:
        """Return how many of the oldest samples make a whole number of full batches."""
        items = self.budget.columns(table)[1]
        shares = [np.cumsum(values) / maximum for values, maximum in items.limited]
        if items.max_graphs is not None:
            shares.append(np.arange(1, len(table) + 1) / items.max_graphs)
        batches = np.max(shares, axis=0)
        return int(np.searchsorted(batches, int(batches[-1] / _FILL) * _FILL, side="right"))


def _table(rows: list[Mapping[str, float]]) -> SizeTable:
    return SizeTable({name: np.array([row[name] for row in rows]) for name in rows[0]})


def _count(sample: Any) -> Mapping[str, float]:
    table = measure([sample])
    return {name: values[0].item() for name, values in table.columns.items()}


def _describe(sizes: Mapping[str, float], place: int) -> str:
    shown = ", ".join(f"{value:,} {name}" for name, value in sizes.items())
    return f"sample {place} of the stream is larger than a batch may be: {shown}"


def _checked(sizes: Any, place: int) -> Mapping[str, float]:
    if not isinstance(sizes, Mapping) or "nodes" not in sizes:
        raise InputError(
            f"size_of gave {sizes!r} for sample {place}",
            limit='sizes by name, "nodes" among them',
            hint="return a dict such as {'nodes': 12, 'edges': 144}",
        )
    return sizes
