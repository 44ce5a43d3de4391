"""What a sampler's state says of where it was taken, so that it is loaded nowhere else."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from nodebudget.errors import RecordError
from nodebudget.sampling.budget import Budget
from nodebudget.sampling.epoch import PlanConfig

STATE_VERSION = 2

#: What states of the first version lack: then budgets did not change, and ranks neither.
_ADDED: Mapping[str, Any] = {"budget": None, "stretches": ()}


def fingerprints(recipe: PlanConfig, made_for: Budget, balanced: str) -> dict[str, str]:
    """Return hashes of what a sampler was made with, beside seed and ranks.

    Args:
        recipe: Its sizes and settings.
        made_for: The budget that it was made with.
        balanced: The column that is balanced.
    """
    facts = [made_for.to_dict(), recipe.pack, recipe.shuffle, recipe.oversized, made_for.names(balanced)]
    settings = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    return {"data": recipe.sizes.fingerprint(), "settings": settings}


def checked_state(given: Any, own: Mapping[str, Any]) -> dict[str, Any]:
    """Return a state, with what states of the first version lack.

    Args:
        given: What is to be loaded.
        own: A state of the sampler that it is to be loaded into.

    Raises:
        RecordError: It is no state, or one of another version, dataset, budget or seed.
    """
    if not isinstance(given, Mapping) or not own.keys() - _ADDED.keys() <= given.keys():
        raise _no_state()
    old = given["version"] == 1
    state = {**_ADDED, **given} if old else dict(given)
    reasons = {
        "version": "was written by another version of nodebudget",
        "data": "belongs to another dataset",
        "settings": "belongs to another budget, pack, shuffle, balance or oversized",
        "seed": f"belongs to seed {state['seed']}, not {own['seed']}",
    }
    for key, reason in reasons.items():
        if state[key] != own[key] and not (old and key == "version"):
            raise RecordError(
                f"the state {reason}", hint="start the epoch anew, or make the sampler as it was made before"
            )
    if not own.keys() <= state.keys() or not all(isinstance(entry, Mapping) for entry in state["stretches"]):
        raise _no_state()
    return state


def _no_state() -> RecordError:
    return RecordError("this is no state of a NodeBudgetSampler", hint="load what state_dict() returned")
