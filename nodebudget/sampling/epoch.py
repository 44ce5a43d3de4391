"""An epoch as it is trained: as one plan, or re-planned when the budget or the number of ranks changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any, cast

import numpy as np

from nodebudget.errors import DoesNotFitError, OversizedError, RecordError
from nodebudget.sampling.budget import Budget
from nodebudget.sampling.packing.batch_grid import Ints
from nodebudget.sampling.packing.reproducible import index_type
from nodebudget.sampling.plan import Plan
from nodebudget.sampling.plan_config import PlanConfig, RankBudget, rank_budgets_of
from nodebudget.sampling.planner import Planner
from nodebudget.sampling.step_planner import RestOfSteps, StepPlanner
from nodebudget.utils.checks import check_count
from nodebudget.utils.shared_arrays import SharedArrays

#: What an epoch's progress computes again where it is needed.
_COMPUTED = ("plan", "_planner", "_among", "_steps_left")


class PlanProvider:
    """Plans of whole epochs.

    Args:
        config: How they are made.
        share: A folder in which the processes of a machine share them, or None.
    """

    def __init__(self, config: PlanConfig, share: str | None = None) -> None:
        self.config, self.share = config, share

    @cached_property
    def planner(self) -> Planner | StepPlanner:
        """What makes the plans; with sharing it is made only in the process that needs it."""
        config = self.config
        if config.steps is not None or config.draw is not None:
            return StepPlanner(config)
        try:
            planner = Planner(config)
            len(planner)
        except OversizedError:
            raise
        except DoesNotFitError:
            if config.even == "raise":
                raise
            return StepPlanner(config)
        return planner

    def forget_first(self) -> None:
        """Free the assignment that showed how many batches there are."""
        if self.store is None:
            self.planner.forget_first()

    @cached_property
    def store(self) -> SharedArrays | None:
        """Where plans are shared, or None."""
        return None if self.share is None else SharedArrays(self.share, self.config.digest())

    def changed(
        self,
        budget: Budget | None = None,
        num_replicas: int | None = None,
        of_ranks: tuple[RankBudget, ...] = (),
    ) -> PlanProvider:
        """Return plans under another budget, or for another number of ranks."""
        config = self.config
        budget, num_replicas = budget or config.budget, num_replicas or config.num_replicas
        steps = None if config.steps is None else replace(config.steps, budgets=of_ranks)
        return PlanProvider(replace(config, budget=budget, num_replicas=num_replicas, steps=steps), self.share)

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "store"}


class EpochProgress:
    """An epoch: the plan of what was left at the last change of the budget or of the ranks, and what came before.

    Args:
        provider: Plans under the budget and for the ranks of now.
        epoch: Number of the epoch.
        before: The progress up to the last change, or None.
        steps: How many steps of `before`'s plan each rank took until the change.

    Attributes:
        began: Steps of each rank in this epoch before the last change.
        checked: Whether the ranks were found to have the same plan.
    """

    def __init__(self, provider: PlanProvider, epoch: int, before: EpochProgress | None = None, steps: int = 0) -> None:
        self.provider, self.epoch, self.before, self.steps = provider, epoch, before, steps
        self.began: int = 0 if before is None else before.began + steps
        self.checked = False

    def __len__(self) -> int:
        """Steps of each rank in the whole epoch."""
        batches = len(self._planner) if self.provider.store is None else len(self.plan)
        return self.began + batches // self.provider.config.num_replicas

    @property
    def accumulate(self) -> int:
        """Batches of each rank per optimizer step."""
        if self.provider.config.steps is None:
            return 1
        if self.provider.store is None:
            micro_batches = cast(StepPlanner, self.provider.planner).micro_batches
        else:
            micro_batches = int(np.diff(self.plan.steps[-2:])[0])
        return micro_batches // self.provider.config.num_replicas

    @cached_property
    def plan(self) -> Plan:
        """The batches of all ranks since the last change."""
        store, config = self.provider.store, self.provider.config
        if store is None:
            return self._planner.plan(self.epoch)
        key = config.digest(self.epoch, self.history())
        arrays = store.get(key, lambda: self._planner.plan(self.epoch).to_arrays())
        return Plan.from_arrays(arrays, self.epoch, config)

    @property
    def oversized(self) -> Ints:
        """Graphs over the budget among those that were left at the last change, ascending."""
        return self._planner.oversized if self.provider.store is None else self.plan.oversized

    @property
    def balanced(self) -> str:
        """Name of the column that is balanced."""
        return self._planner.names[0] if self.provider.store is None else self.plan.balanced

    def changed_graphs(self) -> tuple[str, Ints]:
        """Return what becomes of graphs that can't be shared out equally, and which: see `EpochContent`."""
        planner = self.provider.planner if self.provider.store is None else None
        return planner.content.changed(self.epoch) if isinstance(planner, StepPlanner) else ("", np.arange(0))

    def changed(self, provider: PlanProvider, steps: int) -> tuple[EpochProgress, int]:
        """Re-plan what is left after `steps` steps of the epoch.

        Returns:
            The progress with the new plan, and how many of its steps are done. An epoch that was not begun, or that is
            done, is so under the other plans as well.

        Raises:
            DoesNotFitError: What is left can't be assigned to the ranks.
            OversizedError: A graph that is left is over the budget, and the policy is "raise".
        """
        progress = EpochProgress(provider, self.epoch)
        # What keeps a whole epoch from being planned comes up now, not at the next epoch.
        whole = len(progress)
        if not 0 < steps < len(self):
            return progress, whole if steps else 0
        provider.forget_first()
        progress = EpochProgress(provider, self.epoch, self, steps - self.began)
        try:
            len(progress)
        except OversizedError:
            raise
        except DoesNotFitError as error:
            error.hint = f"{error.hint}, or continue with the next epoch: set_epoch({self.epoch + 1})"
            raise
        return progress, steps

    def history(self) -> list[dict[str, Any]]:
        """Return what was trained before the last change as plain values: budget, ranks and steps of each plan."""
        if self.before is None:
            return []
        config = self.before.provider.config
        entry = {"budget": config.budget.to_state(), "num_replicas": config.num_replicas, "steps": self.steps}
        of_ranks = {} if config.steps is None else {"ranks": config.steps.to_state()}
        return [*self.before.history(), {**entry, **of_ranks}]

    @cached_property
    def _planner(self) -> Planner | StepPlanner | RestOfSteps:
        planner = self.provider.planner
        if isinstance(planner, StepPlanner):
            return planner if self.before is None else RestOfSteps(planner, *self._steps_left)
        if self._among is None:
            return planner
        seed = np.random.SeedSequence([self.provider.config.seed, self.epoch, len(self.history())]).generate_state(1)
        return Planner(self.provider.config, self._among, int(seed[0]))

    @cached_property
    def _among(self) -> Ints | None:
        """The graphs that were left at the last change, ascending; None for all."""
        if self.before is None:
            return None
        left = self.before.graphs_left(self.steps)
        self.before.forget()
        return left

    @cached_property
    def _steps_left(self) -> tuple[int, Ints | None]:
        """The step that came next at the last change, and what was left of it, None for all of it."""
        assert self.before is not None
        left = self.before.steps_left(self.steps)
        self.before.forget()
        return left

    def steps_left(self, taken: int) -> tuple[int, Ints | None]:
        """Return the step that comes after `taken` batches of each rank, and what is left of it, None for all of it."""
        plan, batches = self.plan, taken * self.provider.config.num_replicas
        step = int(np.searchsorted(plan.steps, batches, side="right")) - 1
        if plan.step_offsets is None:
            return 0, plan.indices[plan.offsets[batches] :]
        if plan.steps[step] == batches:
            return plan.first_step + step, None
        rest = slice(plan.offsets[batches], plan.offsets[plan.steps[step + 1]])
        return plan.first_step + step, plan.indices[rest]

    def graphs_left(self, steps: int) -> Ints:
        """Return the graphs that were not in the first `steps` steps since the last change, ascending."""
        graphs = len(self.provider.config.sizes)
        is_left = np.full(graphs, self._among is None)
        if self._among is not None:
            is_left[self._among] = True
        is_left[self.plan.indices[: self.plan.offsets[steps * self.provider.config.num_replicas]]] = False
        return np.flatnonzero(is_left).astype(index_type(graphs))

    def forget(self) -> None:
        """Free what can be computed again."""
        self.__dict__ = self.__getstate__()
        self.provider.__dict__.pop("planner", None)

    def __getstate__(self) -> dict[str, Any]:
        # Plans are computed again where they are needed; they may be larger than all else.
        return {key: value for key, value in self.__dict__.items() if key not in _COMPUTED}


def restore_progress(original: PlanProvider, state: Mapping[str, Any]) -> EpochProgress:
    """Return the progress of an epoch from the `state_dict` of a sampler that was made with the plans `original`.

    Raises:
        RecordError: The state does not belong to such a sampler.
    """
    progress, steps = None, 0
    epoch = check_count("epoch", state["epoch"], 0)
    for entry in [*state["stretches"], state]:
        if progress is not None and not 0 <= steps <= len(progress) - progress.began:
            raise RecordError(
                f"the state has {steps} steps before a change of the budget",
                limit=f"there were {len(progress) - progress.began}",
                hint="load the state into the sampler that it was taken from",
            )
        progress = EpochProgress(_provider(original, entry), epoch, progress, steps)
        steps = check_count("steps", entry.get("steps", 0), 0)
    assert progress is not None, "the state itself is the last entry"
    return progress


def _provider(original: PlanProvider, entry: Mapping[str, Any]) -> PlanProvider:
    ranks = check_count("num_replicas", entry["num_replicas"], 1)
    if entry["budget"] is None and ranks == original.config.num_replicas:
        return original
    budget = None if entry["budget"] is None else Budget.from_state(entry["budget"])
    return original.changed(budget, ranks, rank_budgets_of(entry.get("ranks", ())))
