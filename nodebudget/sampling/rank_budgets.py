"""Ranks with unlike budgets: gathered, and what each may hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar, cast

from nodebudget.errors import InputError
from nodebudget.sampling.budget import Budget
from nodebudget.sampling.packing.items import Items
from nodebudget.sampling.packing.step_assignment import RankMaxima
from nodebudget.sampling.plan_config import RankBudget, rank_budgets_of
from nodebudget.utils.distributed import are_the_ranks, of_all_ranks

T = TypeVar("T")

#: Shares of ranks are parts of this.
_WHOLE = 2**20


def largest_budget(budgets: Sequence[Budget]) -> Budget:
    """Return the budget that has the largest of each maximum.

    Raises:
        InputError: They have other maxima, or other calibrations.
    """
    first = budgets[0]
    for budget in budgets[1:]:
        same = budget.maxima.keys() == first.maxima.keys() and (budget.max_graphs is None) == (first.max_graphs is None)
        ours, theirs = first.to_dict(), budget.to_dict()
        if not same or (ours["coefficients"], ours["bound"]) != (theirs["coefficients"], theirs["bound"]):
            raise InputError(
                "the budgets of the ranks have other maxima or other calibrations",
                limit="ranks may differ in the values of their maxima and in their memory",
                hint="give every rank the same arguments but for these",
            )
    return Budget(
        {name: max(budget.maxima[name] for budget in budgets) for name in first.maxima},
        None if first.max_graphs is None else max(budget.max_graphs or 0 for budget in budgets),
        first.calibration,
        None if first.memory is None else max(budget.memory or 0 for budget in budgets),
    )


def of_first_rank(value: T, ranks: tuple[int, int, bool]) -> T:
    """Return what rank 0 has. A collective where these are the ranks of the process group."""
    return cast(T, of_all_ranks(value)[0]) if are_the_ranks(*ranks) else value


def gather_budgets(
    budget: Budget, ranks: tuple[int, int, bool], seconds: float | None
) -> tuple[Budget, tuple[RankBudget, ...]]:
    """Return the largest of all ranks' budgets, and each of them; none of them where they are the same. A collective.

    Args:
        budget: This rank's.
        ranks: Number of ranks, this one, and whether they were given: see `are_the_ranks`.
        seconds: Predicted time of the dataset on this rank, or None.
    """
    if not are_the_ranks(*ranks):
        return budget, ()
    gathered = of_all_ranks({"budget": budget.to_state(), "seconds": seconds})
    if all(entry == gathered[0] for entry in gathered):
        return budget, ()
    budgets = rank_budgets_of(gathered)
    return largest_budget([entry.budget for entry in budgets]), budgets


def rank_maxima(
    items: Items, largest: Budget, names: Sequence[str], budgets: Sequence[RankBudget]
) -> RankMaxima | None:
    """Return what the micro-batches of each rank may hold; None where all ranks have the same budget."""
    if not budgets:
        return None
    columns: list[tuple[int, ...] | None] = []
    shares = [_WHOLE] * len(budgets)
    tops, of_ranks = largest.column_maxima(names), [entry.budget.column_maxima(names) for entry in budgets]
    for place, maximum in enumerate(items.maxima):
        if maximum is None:
            columns.append(None)
            continue
        # Columns beyond the names have the same maximum everywhere; those of fractions are counted in parts of it.
        top = tops[place] or 0 if place < len(names) else maximum
        values = [maxima[place] or 0 if place < len(names) else maximum for maxima in of_ranks]
        columns.append(tuple(int(value) if maximum == int(top) else int(maximum * (value / top)) for value in values))
        shares = [min(share, _WHOLE * value // maximum) for share, value in zip(shares, columns[-1] or (), strict=True)]
    seconds = [entry.seconds for entry in budgets if entry.seconds]
    if len(seconds) == len(budgets):
        # Load by speed, within what each rank can hold.
        fast = [int(_WHOLE * (min(seconds) / value)) for value in seconds]
        shares = [min(pair) for pair in zip(shares, fast, strict=True)]
    graphs = tuple(entry.budget.max_graphs for entry in budgets if entry.budget.max_graphs is not None)
    return RankMaxima(tuple(max(share, 1) for share in shares), tuple(columns), graphs or None)
