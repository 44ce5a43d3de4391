"""When memory runs out: an error that says what would have fitted, and steps that go on in parts."""

from __future__ import annotations

import gc
import itertools
import re
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from nodebudget.calibration.memory_model import Calibration
from nodebudget.datasets.size_table import SizeTable
from nodebudget.errors import DoesNotFitError, InputError, first_line
from nodebudget.monitor.batch_sizes import (
    SizeOfBatch,
    name_sample,
    needs_line_edges,
    predict,
    sizes_of,
)
from nodebudget.profiling.open import open_probe
from nodebudget.utils.byte_units import format_bytes
from nodebudget.utils.size_labels import count_sizes
from nodebudget.workloads.run_step import is_out_of_memory

#: The next budget to try is so much of what did not fit.
_SMALLER = 0.9


@contextmanager
def oom_guard(
    batch: Any = None,
    *,
    calibration: Calibration | None = None,
    sizes: SizeTable | SizeOfBatch | None = None,
    indices: Any = None,
    device: str = "cpu",
) -> Iterator[None]:
    """Turn running out of memory inside into an error that names the batch and the next smaller budget.

    Local variables of the functions that the error came out of are let go, and their tensors with them.

    Args:
        batch: The batch, counted as `MemoryMonitor` counts it.
        calibration: Predicts its bytes.
        sizes: A function of the batch, or a table for `indices`.
        indices: Places of the batch's graphs in the table.
        device: Where the step runs.

    Raises:
        DoesNotFitError: Memory ran out: the batch's sizes, the prediction, what there was, and what to try.
    """
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        _let_go(error)
        found = sizes_of(batch, sizes, indices=indices, line_edges=needs_line_edges(calibration))
        raise _does_not_fit(found, calibration, device, error) from error


def _let_go(error: BaseException) -> None:
    # An error holds the frames that it came through, and these the tensors of the step.
    traceback.clear_frames(error.__traceback__)
    gc.collect()


def _does_not_fit(
    sizes: Mapping[str, float], calibration: Calibration | None, device: str, error: BaseException
) -> DoesNotFitError:
    predicted = predict(calibration, sizes)
    there = _there(device)
    asked = re.search(r"tried to allocate ([\d.]+ ?\w+)", str(error), re.IGNORECASE)
    known = [
        f"predicted {format_bytes(predicted)}" if predicted else "",
        f"this process can have {format_bytes(there)}" if device != "cpu" else f"{format_bytes(there)} are free",
        f"the step asked for {asked[1]} when less was left" if asked else "",
    ]
    return DoesNotFitError(
        f"a training step on {count_sizes(sizes) or 'a batch of unknown size'} ran out of memory on {device}",
        limit=", ".join(part for part in known if part),
        hint=_next(sizes, predicted, there if device != "cpu" else None, calibration),
    )


def _there(device: str) -> int:
    """Return the bytes that this process could have in all; on the CPU, those that are free."""
    probe = open_probe(device)
    return probe.free_bytes() + (0 if device == "cpu" else torch.cuda.memory_allocated(device))


def _next(
    sizes: Mapping[str, float], predicted: float | None, there: int | None, calibration: Calibration | None
) -> str:
    """Say the next smaller budget: of bytes where they are predicted, else of the largest size."""
    if sizes.get("graphs") == 1:
        return "this single graph does not fit: leave it out (oversized='skip'), or make the model smaller"
    if predicted and calibration is not None:
        memory = _SMALLER * (predicted if there is None else min(predicted, there))
        if memory > calibration.fixed:
            return f"give the sampler memory={format_bytes(memory)!r} or less, or run it with run_with_split"
        return "make the model smaller: this memory hardly holds it without any graph"
    for name in ("line_edges", "edges", "nodes", "graphs"):
        if sizes.get(name):
            return f"cap batches at max_{name}={int(_SMALLER * sizes[name])} or less, or use run_with_split"
    return "make batches smaller, or use run_with_split"


@dataclass(frozen=True)
class Split:
    """How a step was run in the end.

    Attributes:
        loss: Mean loss over all samples.
        parts: Samples in each part; one number where the whole fitted.
    """

    loss: float
    parts: tuple[int, ...]


def run_with_split(
    step: Callable[[Sequence[Any]], torch.Tensor],
    samples: Sequence[Any],
    model: torch.nn.Module,
    *,
    backward: Callable[[torch.Tensor], object] | None = None,
) -> Split:
    """Leave the gradients of a batch in the model, in as many parts as it takes to fit.

    When memory runs out, gradients of this call are thrown away, parts are halved by graphs, and all of it is run
    again: so they are exactly those of the parts, each loss weighted by its share of the samples. For a loss that is
    a mean over samples, that is the gradient of the whole batch. Not so with batch normalisation, whose statistics
    are those of each part, and with dropout, which draws anew. Gradients that were there before stay, with these
    added, as backward() does it::

        optimizer.zero_grad()
        run_with_split(lambda part: loss_function(model(collate(part)), labels(part)), samples, model)
        optimizer.step()

    Args:
        step: Samples → their mean loss, shape (): collate, forward, loss.
        samples: The samples of the batch.
        model: Whose parameters get gradients.
        backward: Called with each weighted loss, such as `lambda loss: scaler.scale(loss).backward()`.

    Raises:
        DoesNotFitError: A single sample does not fit; it is named.
        InputError: No samples, or a DistributedDataParallel model, whose ranks must run equally many passes.
    """
    _check(samples, model)
    before = [(parameter, parameter.grad) for parameter in model.parameters()]
    most, parts, loss = len(samples), [samples], 0.0
    try:
        while True:
            _clear(model)
            parts = _deal(samples, most)
            loss, lost, reason = _run_parts(step, parts, len(samples), backward or torch.Tensor.backward)
            if lost is None:
                break
            if len(parts[lost]) == 1:
                raise _single(samples, sum(map(len, parts[:lost])), reason)
            most = (len(parts[lost]) + 1) // 2
            _give_back(model)
    except BaseException:
        _clear(model)
        raise
    finally:
        for parameter, gradient in before:
            if gradient is not None:
                parameter.grad = gradient if parameter.grad is None else gradient + parameter.grad
    return Split(loss, tuple(len(part) for part in parts))


def _check(samples: Sequence[Any], model: torch.nn.Module) -> None:
    if not len(samples):
        raise InputError("a step on no samples", hint="give at least one")
    if any(kind.__name__ in ("DistributedDataParallel", "FullyShardedDataParallel") for kind in type(model).__mro__):
        raise InputError(
            f"run_with_split on a {type(model).__name__}, whose ranks must run equally many passes",
            hint="pack smaller batches: NodeBudgetSampler gives all ranks equally many",
        )


def _clear(model: torch.nn.Module) -> None:
    for parameter in model.parameters():
        parameter.grad = None


def _deal(samples: Sequence[Any], most: int) -> list[Sequence[Any]]:
    """Cut samples into as few parts of at most `most` as there can be, of equal length but for one."""
    ends = np.linspace(0, len(samples), -(-len(samples) // most) + 1).round().astype(int)
    return [samples[start:end] for start, end in itertools.pairwise(ends)]


def _run_parts(
    step: Callable[[Sequence[Any]], torch.Tensor],
    parts: list[Sequence[Any]],
    total: int,
    backward: Callable[[torch.Tensor], object],
) -> tuple[float, int | None, str]:
    """Return the mean loss, or the place of the part on which memory ran out and what was said."""
    mean = 0.0
    for place, part in enumerate(parts):
        try:
            loss = step(part) * (len(part) / total)
            backward(loss)
            mean += float(loss.detach())
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            _let_go(error)
            return mean, place, first_line(error)
    return mean, None, ""


def _give_back(model: torch.nn.Module) -> None:
    """Let the device have its memory back in one piece, as far as that goes."""
    _clear(model)
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _single(samples: Sequence[Any], place: int, reason: str) -> DoesNotFitError:
    return DoesNotFitError(
        f"{name_sample(samples, place)} does not fit on its own",
        limit=reason,
        hint="leave it out (oversized='skip'), or make the model smaller",
    )
