"""Budget batches for alignn's own training loop, `alignn.train.train_dgl`.

The loaders that alignn made are replaced::

    from alignn.data import get_train_val_loaders
    from alignn.train import train_dgl
    from nodebudget.integrations import with_budget

    loaders = get_train_val_loaders(dataset_array=crystals, ...)
    train_dgl(config, train_val_test_loaders=with_budget(loaders, max_line_edges=200_000))

Works on alignn's DGL datasets and on its pure-PyTorch ones (`use_pure_torch=True`): graphs are counted as they are
stored. Neither DGL nor alignn is imported here.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch.utils.data import DataLoader

from nodebudget.datasets.measure import measure
from nodebudget.datasets.size_table import SizeTable
from nodebudget.errors import InputError
from nodebudget.integrations.advancing import AdvancingSampler
from nodebudget.sampling.sampler import NodeBudgetSampler

if TYPE_CHECKING:
    from nodebudget.calibration.memory_model import Calibration

_log = logging.getLogger("nodebudget")

Collate = Callable[[list[Any]], Any]


def with_budget(loaders: Sequence[Any], **options: Any) -> list[Any]:
    """Replace the loaders that alignn made by ones with a budget, on the same datasets.

    Args:
        loaders: What `alignn.data.get_train_val_loaders` returned: loaders for training, validation and test, and
            `prepare_batch`.
        **options: Caps and all else that `budget_loaders` takes; the collate function, the number of workers and
            `pin_memory` are the training loader's unless they are given.

    Returns:
        What `train_dgl(config, train_val_test_loaders=…)` takes.

    Raises:
        InputError: These are no such loaders, or an option can't be; see `budget_loaders`.
    """
    if len(loaders) != 4 or not hasattr(loaders[0], "dataset") or not hasattr(loaders[1], "dataset"):
        raise InputError(
            f"{len(loaders)} values that are not alignn's loaders",
            limit="training, validation and test loader, and prepare_batch",
            hint="pass on what alignn.data.get_train_val_loaders returned",
        )
    train, val, test, prepare_batch = loaders
    kept = {"collate_fn": train.collate_fn, "num_workers": train.num_workers, "pin_memory": train.pin_memory}
    return budget_loaders(
        train.dataset,
        val.dataset,
        None if test is None else test.dataset,
        **{"prepare_batch": prepare_batch, **kept, **options},
    )


def budget_loaders(
    train: Any,
    val: Any,
    test: Any = None,
    *,
    max_nodes: int | None = None,
    max_edges: int | None = None,
    max_line_edges: int | None = None,
    max_graphs: int | None = None,
    calibration: Calibration | None = None,
    memory: int | str | None = None,
    max_columns: Mapping[str, int | float] | None = None,
    oversized: str = "raise",
    seed: int = 0,
    train_sizes: SizeTable | None = None,
    val_sizes: SizeTable | None = None,
    num_replicas: int | None = None,
    rank: int | None = None,
    num_workers: int = 0,
    pin_memory: bool = False,
    collate_fn: Collate | None = None,
    prepare_batch: Callable[..., Any] | None = None,
) -> list[Any]:
    """Make the loaders of a run of `train_dgl` out of alignn's datasets.

    Training: balanced batches, other ones in every epoch. alignn's loop never says which epoch it is, so that the
    loader goes to the next one by itself whenever it is iterated (see `AdvancingSampler`); it has the same length in
    every epoch, which OneCycleLR relies on. To go on with a run that ended after epoch 10, call
    `loaders[0].batch_sampler.set_epoch(10)`.

    Validation: batches in dataset order under the same caps, since alignn's validation keeps what a backward pass
    would need; unlike with alignn's own loader no crystal is left out. The loss that alignn prints is a mean over
    batches, in which the last, smaller batch counts as much as the others.

    Test: one graph at a time in dataset order, all of them, as alignn's loop pairs them with `ids`.

    Args:
        train: Dataset for training: items `(g, lg, lattice, target)` or `(g, lattice, target)`, and `ids`, one an
            item, as alignn's LMDB datasets have them. The others likewise.
        val: Dataset for validation.
        test: Dataset for the test, or None for none.
        max_nodes: Most nodes in a batch; caps, `calibration` and `memory` are as in `NodeBudgetSampler`.
        max_edges: Most edges.
        max_line_edges: Most line-graph edges.
        max_graphs: Most graphs.
        calibration: Predicts the bytes of a training step; goes with `memory`.
        memory: Bytes, or a text such as "40GiB", that a step may take.
        max_columns: Caps on further columns of given sizes, by name.
        oversized: Graphs over a cap, in training and validation: "raise", "skip" or "alone".
        seed: Where randomness comes from; the same on every rank.
        train_sizes: Sizes of the training set where they are known; otherwise each graph is read once.
        val_sizes: Sizes of the validation set, likewise.
        num_replicas: Ranks; by default torch.distributed's where it is initialised, else 1.
        rank: This rank.
        num_workers: Worker processes of each loader.
        pin_memory: As in torch's `DataLoader`.
        collate_fn: Samples to batch; by default the dataset's `collate_line_graph` or, where it has no line
            graphs, `collate`.
        prepare_batch: What alignn calls it; by default the dataset's.

    Returns:
        `[training loader, validation loader, test loader or None, prepare_batch]`.

    Raises:
        InputError: A dataset without `ids` or one that can't be counted, no budget, or an argument that can't be.
        OversizedError: A graph is over a cap, and `oversized` is "raise".
        DoesNotFitError: No graph is left, or there are fewer graphs than ranks need.
    """
    for name, dataset in (("train", train), ("val", val), ("test", test)):
        _check_ids(name, dataset)
    budget: dict[str, Any] = {
        **{"max_nodes": max_nodes, "max_edges": max_edges, "max_line_edges": max_line_edges},
        **{"max_graphs": max_graphs, "calibration": calibration, "memory": memory, "max_columns": max_columns},
        **{"oversized": oversized, "num_replicas": num_replicas, "rank": rank},
    }
    training = AdvancingSampler(_counted(train, train_sizes, "train"), seed=seed, **budget)
    validation = NodeBudgetSampler(_counted(val, val_sizes, "val"), pack="sequential", shuffle=False, **budget)
    _warn_of_lone_graphs(training)
    common: dict[str, Any] = {
        **{"num_workers": num_workers, "pin_memory": pin_memory, "persistent_workers": num_workers > 0},
        "collate_fn": collate_fn or _collate_of(train),
    }
    return [
        DataLoader(train, batch_sampler=training, **common),
        DataLoader(val, batch_sampler=validation, **common),
        None if test is None else DataLoader(test, batch_size=1, shuffle=False, **common),
        prepare_batch or getattr(train, "prepare_batch", _as_it_is),
    ]


def _check_ids(name: str, dataset: Any) -> None:
    if dataset is None and name == "test":
        return
    ids = getattr(dataset, "ids", None)
    if ids is None or len(ids) != len(dataset):
        found = "no ids" if ids is None else f"{len(ids)} ids"
        # alignn zips loaders with ids: with too few of them it would end epochs early, without a word.
        raise InputError(
            f"the {name} dataset has {found}",
            limit="one id for each graph in dataset.ids, which alignn's loop goes through",
            hint="make the dataset with alignn, or set dataset.ids",
        )


def _counted(dataset: Any, sizes: SizeTable | None, name: str) -> SizeTable:
    if sizes is None:
        sizes = measure(dataset)
    if len(sizes) != len(dataset):
        raise InputError(
            f"{name}_sizes has {len(sizes)} rows", limit=f"the dataset has {len(dataset)} graphs", hint="measure again"
        )
    return SizeTable(sizes.columns, np.asarray([str(name) for name in dataset.ids], dtype=np.str_), sizes.settings)


def _collate_of(dataset: Any) -> Collate:
    found = getattr(dataset, "collate_line_graph" if getattr(dataset, "line_graph", True) else "collate", None)
    if found is None:
        raise InputError(f"a {type(dataset).__name__} has no collate function of its own", hint="pass collate_fn=…")
    return found  # type: ignore[no-any-return]


def _warn_of_lone_graphs(sampler: NodeBudgetSampler) -> None:
    lone = int(np.count_nonzero(sampler.plan.graphs == 1))
    if lone:
        _log.warning(
            "%d of %d training batches hold a single graph: with write_predictions and one output, alignn's loop "
            "trains to the end and then fails on them when it writes the predictions for the training set",
            lone,
            len(sampler.plan),
        )


def _as_it_is(batch: Any, device: Any = None, non_blocking: bool = False) -> Any:
    """Stand in for a dataset's `prepare_batch`, which alignn's loop takes and never calls."""
    return batch
