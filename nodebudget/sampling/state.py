"""The state of a sampler: which sampler it belongs to, and whether it can be loaded into another one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from nodebudget.datasets.size_table import SizeTable
from nodebudget.errors import InputError, RecordError
from nodebudget.sampling.budget import Budget
from nodebudget.sampling.plan_config import PlanConfig
from nodebudget.utils.checks import check_count

STATE_VERSION = 2

#: What states of the first version lack: then neither budgets nor ranks changed.
_ADDED: Mapping[str, Any] = {"budget": None, "stretches": (), "ranks": (), "original": ""}


def fingerprints(config: PlanConfig, original: Budget, balanced: str) -> dict[str, str]:
    """Return hashes of what a sampler was made with, beside seed and ranks: its sizes, and its settings and budget."""
    sizes, steps = config.sizes, config.steps
    if steps is None:
        facts: list[Any] = [original.to_dict(), config.pack, config.shuffle, config.oversized]
        facts += [original.names(balanced), *config.content()]
        return {"data": sizes.fingerprint(), "settings": hash_of(facts)}
    # Steps hang on no budget, and on no time.
    if config.balance == "seconds":
        sizes = SizeTable({k: v for k, v in sizes.columns.items() if k != "seconds"}, sizes.ids, sizes.settings)
    facts = [steps.graphs, steps.last, config.pack, config.shuffle, config.oversized, *config.content()]
    return {"data": sizes.fingerprint(), "settings": hash_of(facts)}


def hash_of(facts: Any) -> str:
    """Return a hash of plain values."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def check_state(given: Any, current: Mapping[str, Any]) -> dict[str, Any]:
    """Return a state that can be loaded into a sampler, with what states of the first version lack.

    Raises:
        RecordError: It is not a state, or of another version, dataset, budget or seed than the sampler's current one.
    """
    if not isinstance(given, Mapping) or not current.keys() - _ADDED.keys() <= given.keys():
        raise _not_a_state()
    old = given["version"] == 1
    state = {**_ADDED, **given} if old else dict(given)
    reasons = {
        "version": "was written by another version of nodebudget",
        "data": "belongs to another dataset",
        "settings": "belongs to another budget, pack, shuffle, balance, oversized, graphs_per_step, last, draw or even",
        "seed": f"belongs to seed {state['seed']}, not {current['seed']}",
    }
    for key, reason in reasons.items():
        if state[key] != current[key] and not (old and key == "version"):
            raise RecordError(
                f"the state {reason}", hint="start the epoch again, or make the sampler with the same arguments"
            )
    if not current.keys() <= state.keys() or not all(isinstance(entry, Mapping) for entry in state["stretches"]):
        raise _not_a_state()
    return state


def check_consumed(consumed: int, began: int, batches: int) -> int:
    """Return how many batches of an epoch were consumed.

    Args:
        consumed: As given.
        began: Batches before the last change of the budget or of the ranks.
        batches: Batches of the epoch.

    Raises:
        InputError: It is not a whole number, or not one from `began` to `batches`.
    """
    done = check_count("consumed", consumed, 0)
    if not began <= done <= batches:
        since = f", {began} of them before the last change of the budget" if began else ""
        raise InputError(
            f"consumed is {done}",
            limit=f"an epoch has {batches} batches{since}",
            hint="continue with the next epoch" if done > batches else "count those before the change as well",
        )
    return done


def _not_a_state() -> RecordError:
    return RecordError("not the state of a NodeBudgetSampler", hint="load what state_dict() returned")
