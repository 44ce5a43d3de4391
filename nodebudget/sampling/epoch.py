"""An epoch as it is trained: in one go, or in stretches between changes of the budget or of the number of ranks."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from nodebudget.datasets.size_table import SizeTable
from nodebudget.errors import DoesNotFitError, OversizedError, RecordError
from nodebudget.sampling.budget import Budget
from nodebudget.sampling.plan import Plan
from nodebudget.sampling.planner import Planner
from nodebudget.utils.checks import check_count
from nodebudget.utils.shared_arrays import SharedArrays

Ints = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True, eq=False)
class PlanConfig:
    """What a planner is made of; see `nodebudget.sampling.planner.make_plan`."""

    sizes: SizeTable
    limits: Budget
    pack: str
    shuffle: bool
    seed: int
    oversized: str
    num_replicas: int
    balance: str | None

    def planner(self, among: Ints | None = None, seed: int | None = None) -> Planner:
        """Make a planner, of all graphs or of some."""
        return Planner(
            *(self.sizes, self.limits, self.pack, self.shuffle, self.seed if seed is None else seed),
            *(self.oversized, self.num_replicas, self.balance, among),
        )

    def digest(self, *further: Any) -> str:
        """Return a hash of all that its plans depend on, and of further plain values."""
        facts = [self.limits.to_dict(), self.pack, self.shuffle, self.seed, self.oversized, self.num_replicas]
        text = json.dumps([*facts, self.balance, self.sizes.fingerprint(), *further], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


class PlanProvider:
    """Plans of whole epochs.

    Args:
        recipe: How they are made.
        share: A folder in which the processes of a machine share them, or None.
    """

    def __init__(self, recipe: PlanConfig, share: str | None = None) -> None:
        self.recipe, self.share = recipe, share

    @cached_property
    def planner(self) -> Planner:
        """What makes the plans; with sharing it is made only in the process that needs it."""
        return self.recipe.planner()

    def forget_first(self) -> None:
        """Let go the deal that showed how many batches there are."""
        if self.store is None:
            self.planner.forget_first()

    @cached_property
    def store(self) -> SharedArrays | None:
        """Where plans are shared."""
        return None if self.share is None else SharedArrays(self.share, self.recipe.digest())

    def changed(self, limits: Budget | None = None, num_replicas: int | None = None) -> PlanProvider:
        """Return the plans under other limits, for other ranks."""
        recipe = self.recipe
        return PlanProvider(
            replace(recipe, limits=limits or recipe.limits, num_replicas=num_replicas or recipe.num_replicas),
            self.share,
        )

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "store"}


class EpochProgress:
    """The course of an epoch: what is left of it, and the stretches that were trained before.

    Args:
        source: Plans under the limits and for the ranks of now.
        epoch: Which epoch.
        before: The course up to the last change, or None.
        steps: How many steps of each rank were taken of it before the change.

    Attributes:
        began: Steps of each rank in this epoch before the last change.
        checked: Whether the ranks were found to have the same plan.
    """

    def __init__(self, source: PlanProvider, epoch: int, before: EpochProgress | None = None, steps: int = 0) -> None:
        self.source, self.epoch, self.before, self.steps = source, epoch, before, steps
        self.began: int = 0 if before is None else before.began + steps
        self.checked = False

    def __len__(self) -> int:
        """Steps of each rank in the whole epoch."""
        batches = len(self._planner) if self.source.store is None else len(self.plan)
        return self.began + batches // self.source.recipe.num_replicas

    @cached_property
    def plan(self) -> Plan:
        """The batches of all ranks that are left since the last change."""
        store, recipe = self.source.store, self.source.recipe
        if store is None:
            return replace(self._planner.plan(self.epoch), seed=recipe.seed)
        key = recipe.digest(self.epoch, self.stretches())
        arrays = store.get(key, lambda: self._planner.plan(self.epoch).to_arrays())
        about = {"pack": recipe.pack, "seed": recipe.seed, "epoch": self.epoch, "num_replicas": recipe.num_replicas}
        policy = recipe.oversized
        return Plan.from_arrays(arrays, **about, oversized_policy=policy, limits=recipe.limits, sizes=recipe.sizes)

    @property
    def oversized(self) -> Ints:
        """Graphs over a cap among those that were left at the last change, ascending."""
        return self._planner.oversized if self.source.store is None else self.plan.oversized

    @property
    def balanced(self) -> str:
        """Name of the column that is balanced."""
        return self._planner.names[0] if self.source.store is None else self.plan.balanced

    def changed(self, source: PlanProvider, steps: int) -> tuple[EpochProgress, int]:
        """Go over to other plans after `steps` steps of the epoch.

        Returns:
            The course with what is left dealt anew, and how many of its steps are done. An epoch that was not begun,
            or that is done, is so under the other plans as well.

        Raises:
            DoesNotFitError: What is left can't be dealt to the ranks.
            OversizedError: A graph that is left is over a cap, and the policy is "raise".
        """
        course = EpochProgress(source, self.epoch)
        # What keeps a whole epoch from being planned comes up now, not at the next epoch.
        whole = len(course)
        if not 0 < steps < len(self):
            return course, whole if steps else 0
        source.forget_first()
        course = EpochProgress(source, self.epoch, self, steps - self.began)
        try:
            len(course)
        except OversizedError:
            raise
        except DoesNotFitError as error:
            error.hint = f"{error.hint}, or go on with the next epoch: set_epoch({self.epoch + 1})"
            raise
        return course, steps

    def stretches(self) -> list[dict[str, Any]]:
        """Return the stretches before the last change as plain values: limits, ranks and steps."""
        if self.before is None:
            return []
        recipe = self.before.source.recipe
        done = {"budget": recipe.limits.to_state(), "num_replicas": recipe.num_replicas, "steps": self.steps}
        return [*self.before.stretches(), done]

    @cached_property
    def _planner(self) -> Planner:
        if self._among is None:
            return self.source.planner
        seed = np.random.SeedSequence([self.source.recipe.seed, self.epoch, len(self.stretches())]).generate_state(1)
        return self.source.recipe.planner(self._among, int(seed[0]))

    @cached_property
    def _among(self) -> Ints | None:
        """The graphs that were left at the last change, ascending; None for all."""
        if self.before is None:
            return None
        left = self.before.left(self.steps)
        self.before.forget()
        return left

    def left(self, steps: int) -> Ints:
        """Return the graphs that were not in the first `steps` steps since the last change, ascending."""
        graphs = len(self.source.recipe.sizes)
        is_left = np.full(graphs, self._among is None)
        if self._among is not None:
            is_left[self._among] = True
        is_left[self.plan.indices[: self.plan.offsets[steps * self.plan.num_replicas]]] = False
        return np.flatnonzero(is_left).astype(np.int32 if graphs < 2**31 else np.int64)

    def forget(self) -> None:
        """Let go what can be worked out again."""
        self.__dict__ = self.__getstate__()
        self.source.__dict__.pop("planner", None)

    def __getstate__(self) -> dict[str, Any]:
        # Plans are worked out again where they are needed; they may be larger than all else.
        return {key: value for key, value in self.__dict__.items() if key not in ("plan", "_planner", "_among")}


def replay(made: PlanProvider, state: Mapping[str, Any]) -> EpochProgress:
    """Return the course that `state_dict` of a sampler was taken in.

    Args:
        made: Plans as the sampler was made.
        state: With `epoch`, `budget`, `num_replicas` and `stretches`.

    Raises:
        RecordError: The stretches are not those of such a sampler.
    """
    course, steps = None, 0
    epoch = check_count("epoch", state["epoch"], 0)
    for stretch in [*state["stretches"], state]:
        if course is not None and not 0 <= steps <= len(course) - course.began:
            raise RecordError(
                f"the state has a stretch of {steps} steps",
                limit=f"there were {len(course) - course.began}",
                hint="load the state into the sampler that it was taken from",
            )
        course = EpochProgress(_source(made, stretch), epoch, course, steps)
        steps = check_count("steps", stretch.get("steps", 0), 0)
    assert course is not None, "the state itself is the last stretch"
    return course


def _source(made: PlanProvider, stretch: Mapping[str, Any]) -> PlanProvider:
    ranks = check_count("num_replicas", stretch["num_replicas"], 1)
    if stretch["budget"] is None and ranks == made.recipe.num_replicas:
        return made
    return made.changed(None if stretch["budget"] is None else Budget.from_state(stretch["budget"]), ranks)
