"""What a plan depends on, beside the epoch."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from nodebudget.datasets.size_table import SizeTable
from nodebudget.errors import InputError
from nodebudget.sampling.budget import Budget
from nodebudget.sampling.static_plan import StaticPlan
from nodebudget.utils.checks import check_choice, check_count

PACKS = ("balanced", "dense", "sequential", "static")
POLICIES = ("raise", "skip", "alone")


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

    def __post_init__(self) -> None:
        if self.pack is None:
            object.__setattr__(self, "pack", "balanced" if self.shuffle else "sequential")
        check_choice("pack", str(self.pack), PACKS)
        check_choice("oversized", self.oversized, POLICIES)
        check_count("seed", self.seed, 0)
        check_count("num_replicas", self.num_replicas, 1)
        if not len(self.sizes):
            raise InputError("the dataset has no graphs", hint="check how it was read or filtered")
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

    def digest(self, *further: Any) -> str:
        """Return a hash of all that its plans depend on, and of further plain values."""
        facts = [self.budget.to_dict(), self.pack, self.shuffle, self.seed, self.oversized, self.num_replicas]
        text = json.dumps([*facts, self.balance, self.sizes.fingerprint(), *further], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]
