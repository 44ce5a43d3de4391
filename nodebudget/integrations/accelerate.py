"""accelerate's prepared loaders, and with them the Trainer of transformers: the sampler stays as it is.

`prepare` gives each process a share of a batch sampler's batches, and counts epochs in the loader, from 0. A
`NodeBudgetSampler` has shares of its own, and may have been placed by a state. A `NodeBudgetBatcher` likewise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any
from weakref import WeakKeyDictionary

from nodebudget.errors import InputError
from nodebudget.sampling.handover import follow_process_group, is_resumed, sampler_of, upcoming_epoch
from nodebudget.sampling.sampler import NodeBudgetSampler
from nodebudget.sampling.stream_batcher import NodeBudgetBatcher

#: Sampler → the epoch after the last one that came to its end in a prepared loader.
_next_epochs: WeakKeyDictionary[NodeBudgetSampler, int] = WeakKeyDictionary()


def keep_whole(module: Any) -> None:
    """Make the loaders of accelerate take a sampler or stream with ranks of its own whole, and its epochs with it."""
    module.BatchSamplerShard.__new__ = module.IterableDatasetShard.__new__ = _shard
    module.DataLoaderDispatcher.__init__ = _refused(module.DataLoaderDispatcher.__init__, module.PartialState)
    module.DataLoaderShard.__iter__ = _placed(module.DataLoaderShard.__iter__)
    module.SkipBatchSampler.__iter__ = _skipping(module.SkipBatchSampler.__iter__)


def _shard(shard: type, whole: Any = None, *_: Any, num_processes: int = 1, process_index: int = 0, **__: Any) -> Any:
    """Return a shard of batches or of a stream, or the whole where it has shares of its own."""
    if not isinstance(whole, (NodeBudgetSampler, NodeBudgetBatcher)):
        return object.__new__(shard)
    if isinstance(whole, NodeBudgetSampler):
        follow_process_group(whole)
    if (whole.num_replicas, whole.rank) != (num_processes, process_index):
        raise InputError(
            f"the {'sampler' if isinstance(whole, NodeBudgetSampler) else 'batcher'} is rank {whole.rank} of "
            f"{whole.num_replicas}",
            limit=f"accelerate loads data for rank {process_index} of {num_processes} here",
            hint="make it after the Accelerator and leave out num_replicas and rank, or pass these",
        )
    return whole


def _refused(init: Callable[..., None], state: Any) -> Callable[..., None]:
    @wraps(init)
    def init_dispatcher(self: Any, *args: Any, **options: Any) -> None:
        init(self, *args, **options)
        has_shares = sampler_of(self) is not None or isinstance(self.dataset, NodeBudgetBatcher)
        if has_shares and state().num_processes > 1:
            raise InputError(
                "dispatch_batches=True: one process would load the batches of all",
                limit="NodeBudgetSampler and NodeBudgetBatcher give each process batches of its own",
                hint="pass DataLoaderConfiguration(dispatch_batches=False) to the Accelerator",
            )

    return init_dispatcher


def _placed(iterate: Callable[[Any], Iterator[Any]]) -> Callable[[Any], Iterator[Any]]:
    @wraps(iterate)
    def iterate_placed(self: Any) -> Iterator[Any]:
        sampler = sampler_of(self)
        if sampler is None:
            return iterate(self)
        epoch = upcoming_epoch(sampler)
        if epoch is None:
            epoch = max(self.iteration, _next_epochs.get(sampler, 0))
        # The loader sets this epoch, but not through a batch sampler that skips.
        self.iteration = epoch
        sampler.set_epoch(epoch)
        return _counted(self, sampler, iterate(self), epoch)

    return iterate_placed


def _counted(loader: Any, sampler: NodeBudgetSampler, batches: Iterator[Any], epoch: int) -> Iterator[Any]:
    """Count the batches that the loop took: the loader is one ahead of it, its workers more."""
    done = sampler._resume or getattr(loader.batch_sampler, "skip_batches", 0)
    for batch in batches:
        done += 1
        if not loader.use_stateful_dataloader:
            sampler._consumed = done
        yield batch
    _next_epochs[sampler] = epoch + 1


def _skipping(iterate: Callable[[Any], Iterator[Any]]) -> Callable[[Any], Iterator[Any]]:
    @wraps(iterate)
    def iterate_skipping(self: Any) -> Iterator[Any]:
        sampler = self.batch_sampler
        if self.skip_batches and isinstance(sampler, NodeBudgetSampler) and is_resumed(sampler):
            raise InputError(
                f"skip_first_batches skips {self.skip_batches} batches of an epoch that the sampler resumes at batch "
                f"{sampler._resume}",
                limit="the first batches of an epoch can be left out once",
                hint="load the sampler's state or skip batches, not both",
            )
        return iterate(self)

    return iterate_skipping
