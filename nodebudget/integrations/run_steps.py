"""A training loop that goes on with smaller batches when memory runs out, on one rank or several."""

from __future__ import annotations

import gc
import logging
import re
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch

from nodebudget.errors import DoesNotFitError, InputError, first_line
from nodebudget.integrations.auto_loader import optimizers_of
from nodebudget.integrations.rank_exchange import RankExchange
from nodebudget.monitor.oom import free_frames
from nodebudget.sampling.budget import Budget
from nodebudget.sampling.handover import is_resumed
from nodebudget.sampling.sampler import NodeBudgetSampler
from nodebudget.utils.byte_units import parse_bytes
from nodebudget.utils.distributed import of_all_ranks
from nodebudget.workloads.run_step import is_out_of_memory

T = TypeVar("T")

_log = logging.getLogger("nodebudget")

#: Share of the budget that is left where an error does not say how much there was.
_UNKNOWN = 0.9

#: The rest of an epoch is re-planned up to so many times before a whole step was taken again.
_TRIES = 20


def run_steps(loader: Any, step: Callable[[Any], T], *, model: torch.nn.Module, optimizer: Any = None) -> Iterator[T]:
    """Train for an epoch; when memory runs out, go on with smaller batches.

    ::

        for epoch in range(100):
            for loss in run_steps(loader, step, model=model, optimizer=optimizer):
                log(loss)

    All ranks of a DistributedDataParallel model learn that memory ran out on one of them before they exchange
    gradients. The budget shrinks by as much as the failed step was over, what is left of the epoch is re-planned, the
    graphs of that step among it, and every graph comes once. The log says what happened. Gradients are exchanged after
    the backward pass and not during it, which costs the time by which they overlap.

    Args:
        loader: Its batch sampler is a `NodeBudgetSampler`, as `auto_loader` makes it.
        step: Takes a whole training step: zeroes the gradients, forward, backward, optimizer. What it does before its
            optimizer must not matter if it is done again.
        model: What it trains; on several ranks a DistributedDataParallel model.
        optimizer: Its optimizer, or several.

    Yields:
        What `step` returned, for each step that was taken.

    Raises:
        DoesNotFitError: Memory ran out in the optimizer's step, or again and again.
        OversizedError: A graph is over the smaller budget, and the sampler's `oversized` is "raise".
        InputError: A loader without such a sampler; several ranks and another model: ranks of a
            FullyShardedDataParallel model exchange parameters in the forward pass, so that none can tell the others.
    """
    sampler = loader.batch_sampler
    if not isinstance(sampler, NodeBudgetSampler):
        raise InputError(
            f"a loader whose batches come from a {type(sampler).__name__}", hint="make it with auto_loader"
        )
    exchange = RankExchange(model, optimizers_of(optimizer))
    _check_whole(sampler)
    done = sampler.state_dict()["consumed"] if is_resumed(sampler) else 0
    tries = 0
    while True:
        failed: BaseException | None = None
        for batch in loader:
            try:
                result = exchange.run(step, batch)
            except DoesNotFitError:
                raise
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                failed = error
                break
            done, tries = done + 1, 0
            yield result
        if failed is None:
            return
        batch, tries = None, tries + 1
        if tries > _TRIES:
            raise DoesNotFitError(
                f"memory ran out {_TRIES} times in a row", limit=first_line(failed), hint="make the model smaller"
            ) from failed
        for parameter in model.parameters():
            parameter.grad = None
        _shrink(sampler, failed, done, next(model.parameters()).device)


def _shrink(sampler: NodeBudgetSampler, error: BaseException, done: int, device: torch.device) -> None:
    """Re-plan what is left of the epoch under a budget of which the failed step would have fitted a share."""
    message = first_line(error)
    peaks = sampler.plan.predicted_bytes
    needed = None if peaks is None else float(peaks.max())
    share = min(of_all_ranks(_share_that_fits(str(error), needed)))
    free_frames(error)
    error.__traceback__ = None
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    before = sampler.budget.describe()
    at_start = done == 0
    sampler.set_budget(**_smaller(sampler.budget, needed, share), consumed=done)
    if at_start:
        # An epoch of which nothing is done begins again, and is not the next one.
        sampler.set_epoch(sampler.epoch)
    _check_whole(sampler)
    _log.warning(
        "memory ran out in step %d of epoch %d (%s); the budget of a batch was %s and is %s; the rest of the epoch is "
        "re-planned in %d steps",
        *(done + 1, sampler.epoch, message, before, sampler.budget.describe(), len(sampler) - done),
    )


def _check_whole(sampler: NodeBudgetSampler) -> None:
    if sampler.accumulate > 1:
        raise DoesNotFitError(
            f"a step of {sampler.accumulate} micro-batches per rank, whose gradients the loop sums",
            limit="run_steps takes an optimizer step for every batch",
            hint="give fewer graphs_per_step, or sum the gradients of batch_sampler.accumulate batches in a loop",
        )


def _share_that_fits(message: str, needed: float | None) -> float:
    """Return the share of a failed step that fits into the memory; 1 where this rank's step fitted.

    PyTorch's message says what was asked for, what was free and what live tensors had: these and what was free fit.
    """
    if "on another rank" in message:
        return 1.0
    amounts = {}
    for name, pattern in (
        ("asked", r"[Tt]ried to allocate ([\d.]+ ?\w+)"),
        ("free", r"of which ([\d.]+ ?\w+) is free"),
        ("live", r"([\d.]+ ?\w+) is allocated by PyTorch"),
    ):
        match = re.search(pattern, message)
        if match is None:
            return _UNKNOWN
        number, _, unit = match[1].replace("bytes", "B").partition(" ")
        amounts[name] = parse_bytes(f"{number}{unit}") if float(number) else 0
    fits = amounts["live"] + min(amounts["free"], amounts["asked"])
    return min(fits / max(amounts["live"] + amounts["asked"], needed or 0), 1 - 1e-3)


def _smaller(budget: Budget, needed: float | None, share: float) -> dict[str, Any]:
    """Return arguments of `set_budget`: the same budget, less by what was over."""
    if budget.memory is not None:
        return {"memory": int(min(budget.memory, needed or budget.memory) * share)}
    maxima = {f"max_{name}": max(int(maximum * share), 1) for name, maximum in budget.maxima.items()}
    return maxima or {"max_graphs": max(int((budget.max_graphs or 1) * share), 1)}
