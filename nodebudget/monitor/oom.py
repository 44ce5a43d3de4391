"""Out-of-memory errors that name the next smaller budget, and steps that are split into parts that fit."""

from __future__ import annotations

import gc
import itertools
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
from nodebudget.monitor.batch_sizes import SizeOfBatch, name_sample, needs_line_edges, predict, try_sizes_of
from nodebudget.profiling.open import open_probe
from nodebudget.utils.byte_units import format_bytes
from nodebudget.utils.size_labels import count_sizes
from nodebudget.workloads.run_step import asked_for, is_out_of_memory

_SMALLER = 0.9  #: The next budget to try, as a share of the batch that did not fit.


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

    Local variables of the functions that raised are cleared, so that the tensors of the step are freed.

    Args:
        batch: The batch, counted as `MemoryMonitor` counts it.
        calibration: Predicts its bytes.
        sizes: A function of the batch, or a table for `indices`.
        indices: Rows of the batch's graphs in the table.
        device: Where the step runs.

    Raises:
        DoesNotFitError: Memory ran out: names the batch's sizes, the prediction, the memory, and what to try.
    """
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        free_frames(error)
        counts, _ = try_sizes_of(batch, sizes, indices=indices, line_edges=needs_line_edges(calibration))
        raise _does_not_fit(counts, calibration, device, error) from error


def free_frames(error: BaseException) -> None:
    """Free the tensors of a step that raised."""
    # The traceback of an error holds the frames of the step, and they hold its tensors.
    traceback.clear_frames(error.__traceback__)
    gc.collect()


def _does_not_fit(
    sizes: Mapping[str, float], calibration: Calibration | None, device: str, error: BaseException
) -> DoesNotFitError:
    predicted, on_cpu = predict(calibration, sizes), device == "cpu"
    free = open_probe(device).free_bytes()
    available = free if on_cpu else free + torch.cuda.memory_allocated(device)
    facts = [
        f"predicted {format_bytes(predicted)}" if predicted else "",
        f"{format_bytes(available)} are free" if on_cpu else f"this process can have {format_bytes(available)}",
        asked_for(str(error)),
    ]
    return DoesNotFitError(
        f"a training step on {count_sizes(sizes) or 'a batch of unknown sizes'} ran out of memory on {device}",
        limit=", ".join(fact for fact in facts if fact),
        hint=_advice(sizes, predicted, None if on_cpu else available, calibration),
    )


def _advice(
    sizes: Mapping[str, float], predicted: float | None, available: int | None, calibration: Calibration | None
) -> str:
    """Return the next smaller budget: in bytes where they are predicted, else of the largest size."""
    if sizes.get("graphs") == 1:
        return "this single graph does not fit: leave it out (oversized='skip'), or make the model smaller"
    if predicted and calibration is not None:
        memory = _SMALLER * (predicted if available is None else min(predicted, available))
        if memory > calibration.fixed:
            return f"give the sampler memory={format_bytes(memory)!r} or less, or run the step with run_with_split"
        return "make the model smaller: it takes nearly all of this memory without any graph"
    for name in ("line_edges", "edges", "nodes", "graphs"):
        if sizes.get(name):
            budget = f"max_{name}={int(_SMALLER * sizes[name])}"
            return f"limit batches to {budget} or less, or run the step with run_with_split"
    return "make batches smaller, or run the step with run_with_split"


@dataclass(frozen=True)
class Split:
    """How a step was run."""

    loss: float  #: Mean loss over all samples.
    parts: tuple[int, ...]  #: Samples in each part; one number where the whole batch fitted.


def run_with_split(
    step: Callable[[Sequence[Any]], torch.Tensor],
    samples: Sequence[Any],
    model: torch.nn.Module,
    *,
    backward: Callable[[torch.Tensor], object] | None = None,
) -> Split:
    """Add the gradients of a batch to the model's, in as few parts as fit.

    When memory runs out, the gradients of this call are discarded, parts are halved by number of samples, and all
    parts are run again: the gradients are those of the parts, each loss weighted by its share of the samples. For a
    loss that is a mean over samples, that is the gradient of the whole batch; not so with batch normalisation, whose
    statistics are those of each part, and with dropout, which draws new masks. As with backward(), gradients that the
    model already has are added to::

        optimizer.zero_grad()
        run_with_split(lambda part: loss_function(model(collate(part)), labels(part)), samples, model)
        optimizer.step()

    Args:
        step: Samples → their mean loss, shape (): collate, forward, loss.
        samples: The samples of the batch.
        model: The model whose parameters get the gradients.
        backward: Called with each weighted loss, such as `lambda loss: scaler.scale(loss).backward()`.

    Raises:
        DoesNotFitError: A single sample does not fit; the error names it.
        InputError: No samples, or a DistributedDataParallel model, whose ranks must run equally many passes.
    """
    _check(samples, model)
    before = [(parameter, parameter.grad) for parameter in model.parameters()]
    longest, parts, loss = len(samples), [samples], 0.0
    try:
        while True:
            _clear_gradients(model)
            parts = _split(samples, longest)
            loss, failed, reason = _run_parts(step, parts, len(samples), backward or torch.Tensor.backward)
            if failed is None:
                break
            if len(parts[failed]) == 1:
                raise DoesNotFitError(
                    f"{name_sample(samples, sum(map(len, parts[:failed])))} does not fit on its own",
                    limit=reason,
                    hint="leave it out (oversized='skip'), or make the model smaller",
                )
            longest = (len(parts[failed]) + 1) // 2
            _clear_gradients(model)
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
    except BaseException:
        _clear_gradients(model)
        raise
    finally:
        for parameter, gradient in before:
            if gradient is not None:
                parameter.grad = gradient if parameter.grad is None else gradient + parameter.grad
    return Split(loss, tuple(len(part) for part in parts))


def _check(samples: Sequence[Any], model: torch.nn.Module) -> None:
    if not len(samples):
        raise InputError("a step on no samples", hint="pass at least one")
    if any(kind.__name__ in ("DistributedDataParallel", "FullyShardedDataParallel") for kind in type(model).__mro__):
        raise InputError(
            f"run_with_split on a {type(model).__name__}, whose ranks must run equally many passes",
            hint="pack smaller batches: NodeBudgetSampler gives all ranks equally many",
        )


def _clear_gradients(model: torch.nn.Module) -> None:
    for parameter in model.parameters():
        parameter.grad = None


def _split(samples: Sequence[Any], longest: int) -> list[Sequence[Any]]:
    """Split samples into the fewest parts of up to `longest` samples, whose lengths differ by up to one."""
    ends = np.linspace(0, len(samples), -(-len(samples) // longest) + 1).round().astype(int)
    return [samples[start:end] for start, end in itertools.pairwise(ends)]


def _run_parts(
    step: Callable[[Sequence[Any]], torch.Tensor],
    parts: list[Sequence[Any]],
    total: int,
    backward: Callable[[torch.Tensor], object],
) -> tuple[float, int | None, str]:
    """Return the mean loss, the number of the part on which memory ran out, and the message of the error."""
    mean = 0.0
    for number, part in enumerate(parts):
        try:
            loss = step(part) * (len(part) / total)
            backward(loss)
            mean += float(loss.detach())
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            free_frames(error)
            return mean, number, first_line(error)
    return mean, None, ""
