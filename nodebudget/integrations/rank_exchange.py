"""A training step under DistributedDataParallel of which all ranks learn whether it fitted into every memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed
from torch._utils import _flatten_dense_tensors, _unflatten_dense_tensors

from nodebudget.errors import DoesNotFitError, InputError
from nodebudget.monitor.oom import free_frames
from nodebudget.profiling.probe import Peak, Probe
from nodebudget.utils.distributed import of_all_ranks
from nodebudget.workloads.run_step import is_out_of_memory

T = TypeVar("T")

#: Bytes of gradients that are summed at once, as DistributedDataParallel does by default.
_BUCKET = 25 * 2**20


#: How a step went, as ranks tell each other.
_DONE, _FAILED, _TOO_LATE = 0, 1, 2


class OtherRankError(MemoryError):
    """Memory ran out on another rank in this step; this rank's gradients were not exchanged."""


class RankExchange:
    """Runs the user's steps so that gradients are exchanged only when all ranks have theirs.

    DistributedDataParallel exchanges them during the backward pass: a rank that has no memory left would let the others
    wait for ever, and its reducer can't start again after an aborted pass. So each step runs under `no_sync`, and a
    callback at the end of the backward pass, before clipping and the optimizer, exchanges first whether all are well,
    then the gradients and buffers. In one process, or without such a model, steps run as they are.

    Args:
        model: The user's.
        optimizers: Those of the step.

    Raises:
        InputError: The ranks of the model exchange something in the forward pass, where none can tell the others.
    """

    def __init__(self, model: torch.nn.Module, optimizers: Sequence[Any]) -> None:
        self._model: Any = model
        self._optimizers = optimizers
        self._exchanges = type(model).__name__ == "DistributedDataParallel"
        self._in_optimizer = self._stepped = self._queued = self._exchanged = False
        if len(of_all_ranks(None)) > 1:
            _check(model)
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def run(self, step: Callable[[Any], T], batch: Any) -> T:
        """Take a step.

        Raises:
            OtherRankError: Memory ran out on another rank; like the error of that rank's step it says that the step was
                not taken.
            DoesNotFitError: Memory ran out in the optimizer, so that weights may be half updated.
        """
        self._in_optimizer = self._stepped = self._queued = self._exchanged = False
        with self._hooks():
            try:
                result = step(batch)
            except Exception as error:
                if is_out_of_memory(error) and not isinstance(error, OtherRankError):
                    # The other ranks go on to their optimizers once gradients were exchanged.
                    too_late = self._in_optimizer or self._stepped or self._exchanged
                    if self._exchanges:
                        self._tell(_TOO_LATE if too_late else _FAILED)
                    if too_late:
                        raise _half_updated() from error
                raise
            code = self._tell(_DONE) if self._exchanges else _DONE
            if code == _TOO_LATE or (code == _FAILED and self._stepped):
                raise _half_updated()
            if code == _FAILED:
                raise OtherRankError("memory ran out on another rank")
        return result

    @contextmanager
    def _hooks(self) -> Iterator[None]:
        with ExitStack() as stack:
            for optimizer in self._optimizers:
                if hasattr(optimizer, "register_step_pre_hook"):
                    stack.callback(optimizer.register_step_pre_hook(self._before).remove)
                    stack.callback(optimizer.register_step_post_hook(self._after).remove)
            if self._exchanges:
                stack.enter_context(self._model.no_sync())
                for parameter in self._parameters:
                    stack.callback(parameter.register_post_accumulate_grad_hook(self._queue).remove)  # type: ignore[no-untyped-call]
            yield

    def _before(self, *_: Any) -> None:
        self._in_optimizer = True

    def _after(self, *_: Any) -> None:
        self._in_optimizer, self._stepped = False, True

    def _queue(self, _: torch.Tensor) -> None:
        if not self._queued:
            self._queued = True
            torch.autograd.Variable._execution_engine.queue_callback(self._exchange)

    def _tell(self, code: int) -> int:
        """Tell the other ranks how the step went; return the worst of all ranks."""
        status = torch.zeros(len(self._parameters) + 1, dtype=torch.int32, device=self._parameters[0].device)
        status[0] = code
        torch.distributed.all_reduce(status, torch.distributed.ReduceOp.MAX, self._model.process_group)
        return int(status[0])

    def _exchange(self) -> None:
        self._queued = False
        group = self._model.process_group
        has = [0, *(parameter.grad is not None for parameter in self._parameters)]
        status = torch.tensor(has, dtype=torch.int32, device=self._parameters[0].device)
        torch.distributed.all_reduce(status, torch.distributed.ReduceOp.MAX, group)
        code, *used = status.tolist()
        if code:
            raise OtherRankError("memory ran out on another rank")
        for bucket in _buckets([p for p, is_used in zip(self._parameters, used, strict=True) if is_used]):
            gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in bucket]
            flat = _flatten_dense_tensors(gradients)  # type: ignore[no-untyped-call]
            torch.distributed.all_reduce(flat, group=group)
            flat /= torch.distributed.get_world_size(group)
            summed = _unflatten_dense_tensors(flat, gradients)  # type: ignore[no-untyped-call]
            for parameter, gradient, mean in zip(bucket, gradients, summed, strict=True):
                gradient.copy_(mean)
                parameter.grad = gradient
        self._exchanged = True
        if self._model.broadcast_buffers:
            first = torch.distributed.get_global_rank(group, 0)
            for buffer in self._model.module.buffers():
                torch.distributed.broadcast(buffer, first, group=group)


def _half_updated() -> DoesNotFitError:
    return DoesNotFitError(
        "memory ran out in the optimizer's step, so that weights may be half updated",
        limit="a step can be taken again only if memory ran out before the optimizer",
        hint="go on from the last checkpoint with less memory",
    )


def _check(model: torch.nn.Module) -> None:
    kinds = {kind.__name__ for module in model.modules() for kind in type(module).__mro__}
    for name in ("FullyShardedDataParallel", "FSDPModule", "SyncBatchNorm"):
        if name in kinds:
            raise InputError(
                f"a model with {name}, whose ranks exchange tensors in the forward pass",
                limit="a rank that runs out of memory there can't tell the others, which wait for it",
                hint="leave the budget a margin, such as memory='90%', or use DistributedDataParallel",
            )
    if type(model).__name__ != "DistributedDataParallel":
        raise InputError(
            f"several ranks and a {type(model).__name__} that does not exchange gradients itself",
            limit="a DistributedDataParallel model",
            hint="wrap the model, and pass the wrapped one",
        )


def _buckets(parameters: Sequence[torch.nn.Parameter]) -> Iterator[list[torch.nn.Parameter]]:
    bucket: list[torch.nn.Parameter] = []
    nbytes = 0
    for parameter in parameters:
        if bucket and (nbytes > _BUCKET or parameter.dtype != bucket[0].dtype or parameter.device != bucket[0].device):
            yield bucket
            bucket, nbytes = [], 0
        bucket.append(parameter)
        nbytes += parameter.nbytes
    if bucket:
        yield bucket


class RanksProbe:
    """Measures a step that all ranks take: the highest peak of any, and out of memory where one runs out."""

    def __init__(self, probe: Probe) -> None:
        self._probe, self.device = probe, probe.device

    def measure(self, run: Callable[[], Any]) -> Peak:
        """Call it once, on every rank."""
        failure = None
        peak: Peak | None = None
        try:
            peak = self._probe.measure(run)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            free_frames(error)
            failure = error
        peaks = of_all_ranks(peak)
        if None in peaks:
            raise failure or OtherRankError("memory ran out on another rank")
        columns: dict[str, list[Any]] = {
            name: [getattr(each, name) for each in peaks] for name in Peak.__dataclass_fields__
        }
        highest: dict[str, Any] = {name: None if None in values else max(values) for name, values in columns.items()}
        return Peak(**highest)

    def free_bytes(self) -> int:
        """Return what the rank with the least has free."""
        return int(min(of_all_ranks(self._probe.free_bytes())))

    def release(self) -> None:
        """Free what is cached."""
        self._probe.release()

    def describe(self) -> dict[str, Any]:
        """Return what identifies this rank's device."""
        return self._probe.describe()
