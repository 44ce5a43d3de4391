"""Batches within a budget for alignn's own training loop, `alignn.train.train_dgl`.

Replace the loaders that alignn made::

    from alignn.data import get_train_val_loaders
    from alignn.train import train_dgl
    from nodebudget.integrations import with_budget

    loaders = get_train_val_loaders(dataset_array=crystals, ...)
    train_dgl(config, train_val_test_loaders=with_budget(loaders, max_line_edges=200_000))

This works with alignn's DGL datasets and its pure-PyTorch ones (`use_pure_torch=True`): graphs are counted as they are
stored. Neither DGL nor alignn is imported here.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch.utils.data import DataLoader

from nodebudget.datasets.measure import measure
from nodebudget.datasets.size_table import SizeTable
from nodebudget.errors import InputError
from nodebudget.integrations.advancing import AdvancingSampler
from nodebudget.sampling.sampler import NodeBudgetSampler
from nodebudget.workloads.alignn_loop import release_last_step

_log = logging.getLogger("nodebudget")

Collate = Callable[[list[Any]], Any]


def with_budget(loaders: Sequence[Any], **options: Any) -> list[Any]:
    """Replace alignn's loaders by loaders with a budget, on the same datasets.

    Args:
        loaders: What `alignn.data.get_train_val_loaders` returned: loaders for training, validation and test, and
            `prepare_batch`.
        **options: The budget and further arguments of `budget_loaders`; the collate function, the number of workers and
            `pin_memory` are the training loader's by default.

    Returns:
        What `train_dgl(config, train_val_test_loaders=…)` takes.

    Raises:
        InputError: These are not alignn's loaders, or an option is not valid; see `budget_loaders`.
    """
    if len(loaders) != 4 or not hasattr(loaders[0], "dataset") or not hasattr(loaders[1], "dataset"):
        raise InputError(
            f"{len(loaders)} values that are not alignn's loaders",
            limit="training, validation and test loader, and prepare_batch",
            hint="pass the values that alignn.data.get_train_val_loaders returned",
        )
    train, val, test, prepare_batch = loaders
    defaults = {
        **{"collate_fn": train.collate_fn, "num_workers": train.num_workers, "pin_memory": train.pin_memory},
        "prepare_batch": prepare_batch,
    }
    datasets = train.dataset, val.dataset, None if test is None else test.dataset
    return budget_loaders(*datasets, **{**defaults, **options})


def budget_loaders(
    train: Any,
    val: Any,
    test: Any = None,
    *,
    train_sizes: SizeTable | None = None,
    val_sizes: SizeTable | None = None,
    num_workers: int = 0,
    pin_memory: bool = False,
    collate_fn: Collate | None = None,
    prepare_batch: Callable[..., Any] | None = None,
    **budget: Any,
) -> list[Any]:
    """Make the loaders of a run of `train_dgl` from alignn's datasets.

    Training: balanced batches, reshuffled in every epoch. alignn's loop does not call `set_epoch`, so the sampler
    goes to the next epoch whenever it is iterated (see `AdvancingSampler`); all epochs have the same number of batches,
    as OneCycleLR needs. To resume a run that ended after epoch 10, call `loaders[0].batch_sampler.set_epoch(10)`.

    Validation: batches in dataset order within the same budget, since alignn's validation stores what a backward pass
    would need; unlike alignn's own loader it leaves no crystal out. The loss that alignn prints is a mean over
    batches, in which the last, smaller batch counts as much as the others.

    Test: one graph at a time in dataset order, as alignn's loop pairs them with `ids`.

    Args:
        train: Dataset for training: items `(g, lg, lattice, target)` or `(g, lattice, target)`, and `ids`, one per
            item, as alignn's LMDB datasets have them. The others likewise.
        val: Dataset for validation.
        test: Dataset for the test, or None.
        train_sizes: Sizes of the training set; by default each graph is read once and counted.
        val_sizes: Sizes of the validation set, likewise.
        num_workers: Worker processes of each loader.
        pin_memory: As in torch's `DataLoader`.
        collate_fn: Samples to batch; by default the dataset's `collate_line_graph` or, where it has no line
            graphs, `collate`.
        prepare_batch: The fourth value of alignn's loaders; by default the dataset's.
        **budget: `max_nodes`, `max_edges`, `max_line_edges`, `max_graphs`, `calibration` and `memory`, `oversized`,
            `seed`, `num_replicas`, `rank` and further arguments of `NodeBudgetSampler`.

    Returns:
        `[training loader, validation loader, test loader or None, prepare_batch]`.

    Raises:
        InputError: A dataset without `ids` or one that can't be counted, no budget, or an argument that is not valid.
        OversizedError: A graph is over the budget, and `oversized` is "raise".
        DoesNotFitError: No graph is left, or there are fewer graphs than ranks need.
    """
    for name, dataset in (("train", train), ("val", val), ("test", test)):
        _check_ids(name, dataset)
    training = AdvancingSampler(_sizes_with_ids(train, train_sizes, "train"), **budget)
    in_order = {**budget, "pack": "sequential", "shuffle": False}
    if getattr(budget.get("calibration"), "validation", None) is not None:
        in_order["calibration"] = budget["calibration"].validation
    validation = NodeBudgetSampler(_sizes_with_ids(val, val_sizes, "val"), **in_order)
    _warn_of_single_graphs(training)
    common: dict[str, Any] = {
        **{"num_workers": num_workers, "pin_memory": pin_memory, "persistent_workers": num_workers > 0},
        "collate_fn": collate_fn or _collate_of(train),
    }
    return [
        _Loader(train, batch_sampler=training, **common),
        _Loader(val, batch_sampler=validation, **common),
        None if test is None else DataLoader(test, batch_size=1, shuffle=False, **common),
        prepare_batch or getattr(train, "prepare_batch", _unchanged),
    ]


class _Loader(DataLoader[Any]):
    """Releases the graph of the last step, which alignn's loop would hold beside the next one."""

    def __iter__(self) -> Any:
        for batch in super().__iter__():
            yield batch
            release_last_step(sys._getframe().f_back)


def _check_ids(name: str, dataset: Any) -> None:
    if dataset is None and name == "test":
        return
    ids = getattr(dataset, "ids", None)
    if ids is None or len(ids) != len(dataset):
        # alignn zips loaders with ids: with too few of them its epochs would silently end early.
        raise InputError(
            f"the {name} dataset has {'no' if ids is None else len(ids)} ids",
            limit="one id per graph in dataset.ids, over which alignn's loop iterates",
            hint="make the dataset with alignn, or set dataset.ids",
        )


def _sizes_with_ids(dataset: Any, sizes: SizeTable | None, name: str) -> SizeTable:
    if sizes is None:
        sizes = measure(dataset)
    if len(sizes) != len(dataset):
        raise InputError(
            f"{name}_sizes has {len(sizes)} rows", limit=f"the dataset has {len(dataset)} graphs", hint="measure again"
        )
    return SizeTable(sizes.columns, np.asarray([str(name) for name in dataset.ids], dtype=np.str_), sizes.settings)


def _collate_of(dataset: Any) -> Collate:
    name = "collate_line_graph" if getattr(dataset, "line_graph", True) else "collate"
    collate: Collate | None = getattr(dataset, name, None)
    if collate is None:
        raise InputError(f"a {type(dataset).__name__} has no method {name}", hint="pass collate_fn=…")
    return collate


def _warn_of_single_graphs(sampler: NodeBudgetSampler) -> None:
    count = int(np.count_nonzero(sampler.plan.graphs == 1))
    if count:
        _log.warning(
            "%d of %d training batches have a single graph: with write_predictions and one output, alignn's loop "
            "fails on them after the training, when it writes the predictions for the training set",
            count,
            len(sampler.plan),
        )


def _unchanged(batch: Any, device: Any = None, non_blocking: bool = False) -> Any:
    """Stand in for a dataset's `prepare_batch`, which alignn's loop takes and never calls."""
    return batch
