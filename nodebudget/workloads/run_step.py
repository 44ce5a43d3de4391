"""Run the user's code: tell out of memory from all other errors."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeVar

import torch

from nodebudget.errors import DoesNotFitError, NodeBudgetError, WorkloadError, first_line
from nodebudget.workloads.protocol import Workload

T = TypeVar("T")

_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory", "alloc_failed", "bad_alloc")


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an exception means that memory ran out, on the CPU, in PyTorch's allocator or another one."""
    if isinstance(error, (torch.cuda.OutOfMemoryError, MemoryError)):
        return True
    # Other allocators and libraries raise a RuntimeError, or an error of their own (DGLError), with a message.
    is_theirs = isinstance(error, Exception) and type(error).__module__ != "builtins"
    text = str(error).lower()
    may_be = (isinstance(error, RuntimeError) or is_theirs) and not isinstance(error, NodeBudgetError)
    return may_be and any(words in text for words in _OUT_OF_MEMORY)


def asked_for(message: str) -> str:
    """Return what an out-of-memory message says that the step asked for, as a part of a sentence, or ""."""
    match = re.search(r"tried to allocate ([\d.]+ ?\w+)", message, re.IGNORECASE)
    return f"the step asked for {match[1]} when less was left" if match else ""


def run_step(run: Callable[[], T], doing: str, *, workload: Workload | None = None) -> T:
    """Run a training step, or another call of the user's code, and return its result.

    `doing` is the subject of the error message: "a training step on crystals 3, 8". If memory runs out, the gradients
    of the workload are freed.

    Raises:
        DoesNotFitError: Memory ran out. The error keeps none of the step's tensors alive.
        WorkloadError: Any other exception was raised; errors of nodebudget itself pass through.
    """
    try:
        return run()
    except NodeBudgetError:
        raise
    except Exception as error:
        reason = first_line(error)
        if not is_out_of_memory(error):
            raise WorkloadError(
                f"{doing} raised {type(error).__name__}: {reason}", hint="run it by itself in Python to see where"
            ) from error
    # After the except block, because the traceback refers to the tensors of the step.
    if workload is not None:
        workload.optimizer.zero_grad(set_to_none=True)
    raise DoesNotFitError(
        f"{doing} ran out of memory", limit=reason, hint="free memory there, or make the batch or the model smaller"
    )
