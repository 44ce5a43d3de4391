"""What a plan depends on, beside the epoch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from nodebudget.datasets.size_table import SizeTable
from nodebudget.errors import InputError, RecordError
from nodebudget.sampling.budget import Budget
from nodebudget.sampling.epoch_draw import EpochDraw
from nodebudget.sampling.static_plan import StaticPlan
from nodebudget.utils.checks import check_choice, check_count

PACKS = ("balanced", "dense", "sequential", "static")
POLICIES = ("raise", "skip", "alone")
EVEN = ("raise", "drop", "repeat")


@dataclass(frozen=True)
class RankBudget:
    """The budget of one of several unlike ranks, and the predicted seconds that it takes for the dataset, or None."""

    budget: Budget
    seconds: float | None = None


@dataclass(frozen=True)
class StepConfig:
    """Optimizer steps as the unit of a plan.

    Attributes:
        graphs: Graphs per optimizer step, over all ranks: the effective batch size.
        last: What becomes of a remainder that would make a step smaller: see `NodeBudgetSampler`.
        budgets: Those of unlike ranks, by rank; empty where all have the same.
    """

    graphs: int
    last: str = "keep"
    budgets: tuple[RankBudget, ...] = ()

    def __post_init__(self) -> None:
        check_count("graphs_per_step", self.graphs, 1)
        check_choice("last", self.last, ("keep", "drop", "fill"))

    def to_state(self) -> list[dict[str, Any]]:
        """Return the budgets of unlike ranks as plain values, for `rank_budgets_of`."""
        return [{"budget": entry.budget.to_state(), "seconds": entry.seconds} for entry in self.budgets]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for hashes."""
        budgets = [[entry.budget.to_dict(), entry.seconds] for entry in self.budgets]
        return {"graphs": self.graphs, "last": self.last, "budgets": budgets}


def rank_budgets_of(entries: Iterable[Mapping[str, Any]]) -> tuple[RankBudget, ...]:
    """Return the budgets of ranks from plain values.

    Raises:
        RecordError: They are something else.
    """
    try:
        return tuple(RankBudget(Budget.from_state(entry["budget"]), entry["seconds"]) for entry in entries)
    except (KeyError, TypeError) as error:
        raise RecordError(f"not the budgets of ranks: {error}", hint="load what state_dict() returned") from error


@dataclass(frozen=True, eq=False)
class PlanConfig:
    """The arguments of `nodebudget.make_plan` that all epochs share; see there.

    Raises:
        InputError: An argument is invalid, or there are no graphs.
    """

    sizes: SizeTable
    budget: Budget
    pack: str | None = None
    shuffle: bool = True
    seed: int = 0
    oversized: str = "raise"
    num_replicas: int = 1
    balance: str | None = None
    steps: StepConfig | None = None
    draw: EpochDraw | None = None
    even: str = "raise"

    def __post_init__(self) -> None:
        if self.pack is None:
            object.__setattr__(self, "pack", "balanced" if self.shuffle else "sequential")
        check_choice("pack", str(self.pack), PACKS)
        check_choice("oversized", self.oversized, POLICIES)
        check_choice("even", self.even, EVEN)
        check_count("seed", self.seed, 0)
        check_count("num_replicas", self.num_replicas, 1)
        if not len(self.sizes):
            raise InputError("the dataset has no graphs", hint="check how it was read or filtered")
        if self.steps is not None and self.pack in ("dense", "static"):
            what = f"graphs_per_step with pack={self.pack!r}"
            raise InputError(what, limit="pack is balanced or sequential there", hint="leave pack out")
        if self.pack in ("dense", "static") and self.draw is not None:
            what = f"weights with pack={self.pack!r}"
            raise InputError(what, limit="pack is balanced or sequential there", hint="leave pack out")
        if self.pack == "static" and self.oversized == "alone":
            raise InputError(
                "pack='static' and oversized='alone'",
                limit="a graph over the budget has no place in a static shape",
                hint="pass oversized='skip', or raise the budget",
            )

    @cached_property
    def static(self) -> StaticPlan:
        """The shapes of batches with `pack="static"`, which all epochs share.

        Raises:
            InputError: Another `pack`.
        """
        if self.pack != "static":
            raise InputError(f"batches of pack={self.pack!r} have no static shape", hint="pass pack='static'")
        return StaticPlan(self.sizes, self.budget, self.num_replicas)

    def content(self) -> list[Any]:
        """Return plain values for hashes of what an epoch holds; empty where it is every graph once."""
        return [] if self.draw is None and self.even == "raise" else [self.draw and self.draw.to_dict(), self.even]

    def digest(self, *further: Any) -> str:
        """Return a hash of all that its plans depend on, and of further plain values."""
        facts: list[Any] = [self.budget.to_dict(), self.pack, self.shuffle, self.seed, self.oversized]
        facts += [self.num_replicas, *self.content()]
        if self.steps is not None:
            facts.append(self.steps.to_dict())
        text = json.dumps([*facts, self.balance, self.sizes.fingerprint(), *further], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]
