"""A batch sampler over plans: what `DataLoader(batch_sampler=…)` takes."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch.distributed
from torch.utils.data import Sampler

from nodebudget.budget import Limits
from nodebudget.errors import InputError, RecordError
from nodebudget.plan import Plan, Planner, check_count
from nodebudget.sizes import SizeTable

if TYPE_CHECKING:
    from nodebudget.costmodel import Calibration
    from nodebudget.throughput import TimeModel

STATE_VERSION = 1

_log = logging.getLogger("nodebudget")


class NodeBudgetSampler(Sampler[list[int]]):
    """Batches within a budget, each with nearly the same load and the same number of graphs.

    Every epoch holds every graph once, in as many batches as every other epoch. Iterating twice gives the
    same batches; call `set_epoch` before each epoch for new ones, on every rank alike. Ranks need no word
    between them: each works out the same plan and takes its share, so all have equally many batches, and in each step
    nearly the same load.

    Goes into `batch_sampler=` of torch's `DataLoader`, of PyTorch Geometric's, and of DGL's `GraphDataLoader`, where
    `use_ddp` stays False: this sampler shares out the ranks' batches itself.

    Resuming: `state_dict` after a batch, `load_state_dict` in the new process, and the next iteration goes on
    with the batch after. A loader with worker processes takes batches ahead of the training loop, so that
    the sampler has given out more than were trained on: either use torchdata's `StatefulDataLoader`, which
    keeps count, or count the batches that you trained on in this epoch and pass them:
    `sampler.state_dict(consumed=step)`.

    Attributes:
        epoch: As set by `set_epoch`.
        rank: Which share of each step this sampler yields.
        num_replicas: Into how many shares a step is cut.
    """

    def __init__(
        self,
        sizes_or_dataset: Any,
        max_nodes: int | None = None,
        max_edges: int | None = None,
        max_line_edges: int | None = None,
        max_graphs: int | None = None,
        calibration: Calibration | None = None,
        memory: int | str | None = None,
        shuffle: bool = True,
        seed: int = 0,
        oversized: str = "raise",
        num_replicas: int | None = None,
        rank: int | None = None,
        pack: str = "balanced",
        max_columns: Mapping[str, int | float] | None = None,
        balance: str | None = None,
        time_model: TimeModel | None = None,
    ) -> None:
        """Plan for a dataset.

        Args:
            sizes_or_dataset: A `SizeTable`, or a dataset that `SizeTable.from_dataset` counts.
            max_nodes: Most nodes in a batch; likewise the other caps. At least one budget must be given.
            max_edges: Most edges.
            max_line_edges: Most line-graph edges.
            max_graphs: Most graphs.
            calibration: Predicts the bytes of a training step; goes with `memory`.
            memory: Bytes, or a text such as "40GiB", that a step may take at its peak, all included.
            shuffle: Mix anew every epoch; otherwise every epoch is the same.
            seed: Where randomness comes from; the same on every rank.
            oversized: What happens to a graph over a cap: "raise", "skip" (left out, counted in `plan` and
                logged once), or "alone" (a batch of its own, logged once).
            num_replicas: Number of ranks; by default torch.distributed's where it is initialised, else 1.
            rank: This process's rank; by default torch.distributed's, else 0.
            pack: "balanced" (default), "dense" or "sequential"; see `nodebudget.plan.make_plan` for what each
                costs and what it does to training.
            max_columns: Caps on further columns of the sizes, by name.
            balance: Column that is balanced between batches and ranks; by default predicted bytes, or the cap that
                asks for the most batches. "time" balances what `time_model` predicts, so that ranks wait less for
                each other; the caps are kept all the same.
            time_model: Seconds of a step, as `nodebudget tune` fits them (`nodebudget.throughput.TimeModel`).

        Raises:
            OversizedError: A graph is over a cap, and `oversized` is "raise".
            DoesNotFitError: No graph is left, or there are fewer graphs than ranks need.
            InputError: An empty dataset, no budget, or an argument that can't be.
        """
        limits = Limits.make(
            max_nodes, max_edges, max_line_edges, max_graphs, calibration, memory, max_columns=max_columns
        )
        self.num_replicas, self.rank = world_and_rank(num_replicas, rank)
        known = isinstance(sizes_or_dataset, SizeTable)
        sizes = sizes_or_dataset if known else SizeTable.from_dataset(sizes_or_dataset)
        if (balance == "time") != (time_model is not None):
            raise InputError("balance='time' and a time_model go together", hint="make one with 'nodebudget tune'")
        if time_model is not None:
            sizes, balance = sizes.with_column("seconds", time_model.graph_seconds(sizes)), "seconds"
        self._planner = Planner(sizes, limits, pack, shuffle, seed, oversized, self.num_replicas, balance)
        self._length = len(self._planner) // self.num_replicas
        self._plan: Plan | None = None
        self._consumed = self._resume = 0
        self.epoch = 0
        self._report_oversized()

    def _report_oversized(self) -> None:
        many, policy = len(self._planner.oversized), self._planner.policy
        if many and self.rank == 0:
            done = "left out" if policy == "skip" else f"in a batch of their own ({self._planner.say_oversized()})"
            caps = self._planner.limits.describe()
            _log.warning("oversized graphs: %d of %d, over a cap (%s), %s", many, len(self._planner.sizes), caps, done)

    def __len__(self) -> int:
        """Batches of this rank, the same in every epoch."""
        return self._length

    @property
    def sizes(self) -> SizeTable:
        """Sizes of the dataset."""
        return self._planner.sizes

    @property
    def limits(self) -> Limits:
        """What a batch may hold."""
        return self._planner.limits

    @property
    def plan(self) -> Plan:
        """The batches of the current epoch, of all ranks."""
        if self._plan is None or self._plan.epoch != self.epoch:
            self._plan = self._planner.plan(self.epoch)
        return self._plan

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose batches come next, on every rank alike.

        Raises:
            InputError: `epoch` is no whole number, 0 or more.
        """
        epoch = check_count("epoch", epoch, 0)
        if epoch != self.epoch:
            # A resumed loop sets the epoch that it was in, and goes on in its middle.
            self._resume = self._consumed = 0
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        start, self._resume = self._resume, 0
        self._consumed = start
        return self._batches(self.plan, start)

    def _batches(self, plan: Plan, start: int) -> Iterator[list[int]]:
        # Where crystals were left out of the sizes, the dataset still has them: its indices are others.
        kept = self.sizes.settings.get("indices")
        for place, batch in enumerate(plan.rank_batches(self.rank, start), start):
            self._consumed = place + 1
            yield batch if kept is None else [kept[row] for row in batch]

    @cached_property
    def _fingerprints(self) -> dict[str, str]:
        """Hashes of all that plans depend on beside seed, epoch and ranks; loaders ask for the state at every step."""
        planner = self._planner
        facts = [planner.limits.to_dict(), planner.pack, planner.shuffle, planner.policy, planner.names]
        settings = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
        return {"data": self.sizes.fingerprint(), "settings": settings}

    def state_dict(self, consumed: int | None = None) -> dict[str, Any]:
        """Return where the iteration stands: a few plain values, alike on every rank.

        Args:
            consumed: Batches of this epoch that were trained on; by default those that were given out, which is
                more where a loader's workers take them ahead (see the class).

        Raises:
            InputError: `consumed` is no whole number from 0 to the number of batches.
        """
        done = self._consumed if consumed is None else check_count("consumed", consumed, 0)
        if done > len(self):
            raise InputError(
                f"consumed is {done}",
                limit=f"an epoch has {len(self)} batches",
                hint="go on with the next epoch instead",
            )
        return {
            "version": STATE_VERSION,
            "epoch": self.epoch,
            "consumed": done,
            "seed": self._planner.seed,
            "num_replicas": self.num_replicas,
            **self._fingerprints,
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on where `state_dict` stood: the next iteration starts after the batches consumed.

        Raises:
            RecordError: The state is of another version, dataset, budget, seed or number of ranks.
        """
        own = self.state_dict(consumed=0)
        if not isinstance(state_dict, Mapping) or not own.keys() <= state_dict.keys():
            raise RecordError("this is no state of a NodeBudgetSampler", hint="load what state_dict() returned")
        reasons = {
            "version": "was written by another version of nodebudget",
            "data": "belongs to another dataset",
            "settings": "belongs to another budget, pack, shuffle, balance or oversized",
            "seed": f"belongs to seed {state_dict['seed']}, not {self._planner.seed}",
            "num_replicas": f"belongs to {state_dict['num_replicas']} ranks, not {self.num_replicas}",
        }
        for key, reason in reasons.items():
            if state_dict[key] != own[key]:
                raise RecordError(
                    f"the state {reason}", hint="start the epoch anew, or make the sampler as it was made before"
                )
        self.epoch = check_count("epoch", state_dict["epoch"], 0)
        consumed = check_count("consumed", state_dict["consumed"], 0)
        if consumed > len(self):
            raise RecordError(
                f"the state has {consumed} batches consumed",
                limit=f"an epoch has {len(self)}",
                hint="load the state into the sampler that it was taken from",
            )
        self._resume = self._consumed = consumed

    def __getstate__(self) -> dict[str, Any]:
        # The plan is worked out again where it is needed; it may be larger than all else.
        return {**self.__dict__, "_plan": None}

    def __repr__(self) -> str:
        return (
            f"NodeBudgetSampler({len(self.sizes)} graphs, {len(self)} batches, {self.limits.describe()}, "
            f"rank {self.rank} of {self.num_replicas})"
        )


def world_and_rank(num_replicas: int | None, rank: int | None) -> tuple[int, int]:
    """Return the number of ranks and this one: as given, else torch.distributed's, else 1 and 0.

    Raises:
        InputError: They are no whole numbers, or there is no such rank.
    """
    ready = torch.distributed.is_available() and torch.distributed.is_initialized()
    if num_replicas is None:
        num_replicas = torch.distributed.get_world_size() if ready else 1
    if rank is None:
        rank = torch.distributed.get_rank() if ready else 0
    world = check_count("num_replicas", num_replicas, 1)
    place = check_count("rank", rank, 0)
    if place >= world:
        raise InputError(
            f"rank is {place}",
            limit=f"num_replicas is {world}, so ranks are 0 to {world - 1}",
            hint="give the rank of this process",
        )
    return world, place
