"""Batches within a budget from a stream, whose graphs are not known before they are read."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import count, islice
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from nodebudget.datasets.size_table import SizeTable
from nodebudget.errors import DoesNotFitError, InputError, OversizedError, RecordError
from nodebudget.sampling.budget import Budget
from nodebudget.sampling.epoch import PlanProvider
from nodebudget.sampling.plan_config import EVEN, POLICIES, PlanConfig
from nodebudget.sampling.step_planner import StepPlanner
from nodebudget.sampling.stream_sizes import checked_sizes, count_sample, describe_sample, table_of_rows
from nodebudget.utils.checks import check_choice, check_count
from nodebudget.utils.distributed import are_the_ranks, world_and_rank

if TYPE_CHECKING:
    from nodebudget.calibration.memory_model import Calibration

_log = logging.getLogger("nodebudget")

#: What marks a state.
_KIND = "nodebudget.stream"

#: How full the batches are that are cut from the middle of a stream.
_FILL = 0.995


class NodeBudgetBatcher(IterableDataset[list[Any]]):
    """Cuts a stream of samples into balanced batches within a budget, by looking ahead.

    A buffer is filled from the stream; its oldest samples are assigned to as many full batches as they make, like
    `NodeBudgetSampler` assigns an epoch, and the rest stays in the buffer. The end of the stream flushes
    it. The larger the buffer, the fuller and more balanced the batches: ten batches' worth or more is good.

    Use it with a loader that does not batch itself, and whose collate function gets a batch's samples:
    `DataLoader(batcher, batch_size=None, collate_fn=collate, num_workers=4)`.

    Every worker process of every rank reads the whole stream, makes the same batches of it, and takes its share: all
    ranks have equally many, each sample comes once over all, and batches do not hang on the number of workers. The few
    samples at the end of the stream that can't be shared out are left out or repeated (`even`).

    To resume, save `state_dict(consumed=…)` with the number of batches trained on and load it before the loader is
    iterated: the stream is read again, and what was trained on is left out. torchdata's `StatefulDataLoader` does so by
    itself.
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
        even: str = "repeat",
        batches: int | None = None,
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
            buffer: Samples to hold back, in each worker, for the batches of all ranks.
            shuffle: Assign the buffer's samples at random; otherwise in their order. Either way batches come from
                one buffer at a time: a sorted stream stays sorted at large.
            seed: Random seed.
            oversized: What happens to a sample over the budget: "raise", "skip" (counted in `skipped` and logged
                once) or "alone" (a batch of its own).
            num_replicas: Ranks; by default torch.distributed's where it is initialised, else 1.
            rank: This rank.
            sharded: The stream itself gives each rank and worker its share (webdataset does): take it all. How many
                batches that makes differs between ranks, unless `batches` says it.
            even: What happens to samples at the end that can't be shared out equally among the ranks: "repeat", "drop"
                or "raise", logged.
            batches: Batches of each rank per epoch: the stream is read again where it ends before, and not to its end
                where it is longer. By default what the stream makes.

        Raises:
            InputError: No budget, or an invalid argument.
            DoesNotFitError: A training step takes more than the memory without any graph.
        """
        check_choice("oversized", oversized, POLICIES)
        self.budget = Budget.make(max_nodes, max_edges, max_line_edges, max_graphs, calibration, memory, max_columns)
        self.stream, self._size_of, self._policy = stream, size_of or count_sample, oversized
        self._buffer, self._seed = check_count("buffer", buffer, 1), check_count("seed", seed, 0)
        self.num_replicas, self.rank = world_and_rank(num_replicas, rank)
        self._ranks_given = num_replicas is not None and rank is not None
        self._shuffle, self._sharded = shuffle, sharded
        check_choice("even", even, EVEN)
        self._even = even
        self._length = None if batches is None else check_count("batches", batches, 1)
        # Epoch and batches to leave out, in memory that workers share: persistent ones have a copy of all else.
        self._place = torch.zeros(2, dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]
        self._given, self._skip = 0, -1
        self.skipped = 0

    @property
    def epoch(self) -> int:
        """As set by `set_epoch`."""
        return int(self._place[0])

    def set_epoch(self, epoch: int) -> None:
        """Choose another shuffle, before the loader is iterated; worker processes hear of it, persistent ones too."""
        epoch = check_count("epoch", epoch, 0)
        if epoch != self.epoch:
            self._place[1], self._given, self._skip = 0, 0, -1
        self._place[0] = epoch

    def state_dict(self, consumed: int | None = None) -> dict[str, Any]:
        """Return where the stream is, as plain values.

        Args:
            consumed: Batches of this rank that were trained on in this epoch; by default those that this process gave
                out, which is none where worker processes do.
        """
        given = self._given if consumed is None else check_count("consumed", consumed, 0)
        return {"version": 1, "kind": _KIND, "epoch": self.epoch, "seed": self._seed, "consumed": given}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on after the batches that were consumed, until `set_epoch` chooses another epoch.

        Raises:
            RecordError: It is not the state of a batcher, or of one with another seed.
        """
        expected = {"version": 1, "kind": _KIND, "seed": self._seed}
        if not isinstance(state_dict, Mapping) or any(state_dict.get(key) != value for key, value in expected.items()):
            raise RecordError(
                "not the state of a NodeBudgetBatcher with this seed", hint="load what its state_dict() returned"
            )
        consumed = check_count("consumed", state_dict["consumed"], 0)
        self._place[0] = check_count("epoch", state_dict["epoch"], 0)
        if get_worker_info() is None:
            self._place[1] = consumed
        else:
            # A loader that keeps the states of its workers: what this one gave out.
            self._skip = consumed

    def __iter__(self) -> Iterator[list[Any]]:
        are_the_ranks(self.num_replicas, self.rank, self._ranks_given)
        worker = get_worker_info()
        workers, place = (1, 0) if worker is None else (worker.num_workers, worker.id)
        shard = self.rank * workers + place if self._sharded else 0
        seed = int(np.random.SeedSequence([self._seed, self.epoch, shard]).generate_state(1)[0])
        consumed, given, end = int(self._place[1]), max(self._skip, 0), self._length
        if worker is None:
            self._place[1] = 0
        self.skipped, self._given, self._skip = 0, given or consumed, -1
        if self._sharded:
            # Each worker's share is cut by itself, and of what was consumed each gave its turns.
            end = None if end is None else _turns(end, workers, place)
            return self._counted(islice(self._passes(seed), given or _turns(consumed, workers, place), end))
        return self._counted(islice(self._passes(seed), consumed + place + given * workers, end, workers))

    def _counted(self, batches: Iterator[list[Any]]) -> Iterator[list[Any]]:
        for batch in batches:
            self._given += 1
            yield batch

    def _passes(self, seed: int) -> Iterator[list[Any]]:
        """Iterate over this rank's batches of the stream, again and again where their number is given."""
        ranks = 1 if self._sharded else self.num_replicas
        mine = 0 if self._sharded else self.rank
        for turn in count():
            # Another pass is another shuffle.
            batches = self._cut(enumerate(self.stream), seed + turn, ranks)
            given = 0
            while step := tuple(islice(batches, ranks)):
                if len(step) == ranks:
                    given += 1
                    yield step[mine]
            if self._length is None:
                return
            if not given:
                raise InputError("the stream makes no batch", limit=f"batches={self._length}", hint="check the stream")

    def _cut(self, numbered: Iterator[tuple[int, Any]], seed: int, ranks: int) -> Iterator[list[Any]]:
        """Cut samples into batches, of which every `ranks` make a step."""
        samples: list[Any] = []
        rows: list[Mapping[str, float]] = []
        turn = 0
        alone: list[list[Any]] = []
        for place, sample in numbered:
            sizes = checked_sizes(self._size_of(sample), place)
            if self._is_over(sizes, place):
                if self._policy == "raise":
                    if samples:
                        yield from self._batches(samples, rows, (seed, turn), ranks)
                    hint = "raise the budget, or pass oversized='skip' or 'alone'"
                    what = describe_sample(sizes, place)
                    raise OversizedError(what, indices=[place], limit=self.budget.describe(), hint=hint)
                if self._policy == "alone":
                    if samples and ranks == 1 and not self._shuffle:
                        yield from self._batches(samples, rows, (seed, turn), ranks)
                        samples, rows, turn = [], [], turn + 1
                    # Those of a step together.
                    alone.append([sample])
                    if len(alone) == ranks:
                        yield from alone
                        alone.clear()
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
                number = self._full(table_of_rows(rows), ranks) or len(rows)
                # So many can be shared out equally, one each if need be.
                number -= number % ranks
                yield from self._batches(samples[:number], rows[:number], (seed, turn), ranks)
                del samples[:number], rows[:number]
                turn += number > 0
        yield from self._evened(alone, ranks)
        if samples:
            yield from self._batches(samples, rows, (seed, turn), ranks)

    def _is_over(self, sizes: Mapping[str, float], place: int) -> bool:
        if not self.budget.columns(table_of_rows([sizes]))[1].oversized()[0]:
            return False
        if self._policy != "raise":
            if not self.skipped:
                policy = "left out" if self._policy == "skip" else "in a batch of its own"
                what = describe_sample(sizes, place)
                _log.warning("%s (%s): %s; further ones are counted only", what, self.budget.describe(), policy)
            self.skipped += 1
        return True

    def _batches(
        self, samples: list[Any], rows: list[Mapping[str, float]], key: tuple[int, int], ranks: int
    ) -> Iterator[list[Any]]:
        seed, turn = key
        if not samples or (len(samples) < ranks and self._even == "drop"):
            self._log_uneven(len(samples), "left out")
            return iter(())
        config = PlanConfig(
            table_of_rows(rows), self.budget, None, self._shuffle, seed, num_replicas=ranks, even=self._even
        )
        planner = PlanProvider(config).planner
        if isinstance(planner, StepPlanner):
            what, graphs = planner.content.changed(turn)
            self._log_uneven(len(graphs), what)
        return ([samples[place] for place in batch] for batch in planner.plan(turn))

    def _evened(self, alone: list[list[Any]], ranks: int) -> list[list[Any]]:
        """Return batches of single samples for a whole number of steps."""
        if not len(alone) % ranks:
            return alone
        if self._even == "raise":
            what = f"{len(alone)} oversized samples can't be assigned to {ranks} ranks"
            raise DoesNotFitError(what, hint="pass even='repeat' or 'drop'")
        what = "left out" if self._even == "drop" else "repeated"
        self._log_uneven(len(alone) if self._even == "drop" else ranks - len(alone), what)
        return [] if self._even == "drop" else [alone[place % len(alone)] for place in range(ranks)]

    def _log_uneven(self, samples: int, what: str) -> None:
        if samples and self.rank == 0:
            _log.warning("%d samples at the end of a stream %s, so that ranks have equally many", samples, what)

    def _full(self, table: SizeTable, ranks: int) -> int:
        """Return how many of the oldest samples make a whole number of full batches for every rank."""
        items = self.budget.columns(table)[1]
        shares = [np.cumsum(values) / maximum for values, maximum in items.limited]
        if items.max_graphs is not None:
            shares.append(np.arange(1, len(table) + 1) / items.max_graphs)
        batches = np.max(shares, axis=0)
        whole = int(batches[-1] / _FILL) // ranks * ranks
        return int(np.searchsorted(batches, whole * _FILL, side="right"))


def _turns(batches: int, workers: int, place: int) -> int:
    """Return the number of batches from one of several workers that take turns."""
    return batches // workers + (place < batches % workers)
