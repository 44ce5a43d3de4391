"""A batch sampler over plans, for `DataLoader(batch_sampler=…)`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from nodebudget.calibration.compatibility import measure_as_calibrated
from nodebudget.errors import InputError
from nodebudget.sampling.budget import Budget
from nodebudget.sampling.epoch import PlanProvider
from nodebudget.sampling.epoch_draw import make_draw, subset
from nodebudget.sampling.mixture import Mixture
from nodebudget.sampling.plan_config import PlanConfig, StepConfig
from nodebudget.sampling.rank_budgets import gather_budgets, of_first_rank
from nodebudget.sampling.resuming_sampler import ResumingSampler
from nodebudget.sampling.static_plan import graphs_per_batch
from nodebudget.sampling.step_weights import loss_weights, step_ends
from nodebudget.utils.checks import check_count
from nodebudget.utils.distributed import world_and_rank

if TYPE_CHECKING:
    from nodebudget.calibration.memory_model import Calibration
    from nodebudget.calibration.time_model import TimeModel


class NodeBudgetSampler(ResumingSampler):
    """Batches within a budget, each with nearly the same load and the same number of graphs.

    Every epoch holds every graph once, in as many batches as every other epoch. Iterating twice gives the
    same batches; call `set_epoch` before each epoch for new ones, on every rank alike. Each rank computes the same plan
    and takes its share, so that all have equally many batches, and in each step nearly the same load.

    Under torch.distributed the ranks compare hashes of their plans when the first batch of a plan is taken, and all of
    them raise an `InputError` where these differ. This is a collective: iterate on every rank, as training loops do. To
    look at batches on one rank only, use `plan`. A sampler with other ranks than the process group raises as well,
    unless it was given the `num_replicas` of groups of processes that train on the same batches (1: all of them).

    Pass it as `batch_sampler=` to torch's `DataLoader`, to PyTorch Geometric's, or to DGL's `GraphDataLoader`, where
    `use_ddp` stays False: this sampler assigns batches to ranks itself.

    To resume, save `state_dict` after a batch and call `load_state_dict` in the new process: the next iteration
    continues with the batch after it. A loader with worker processes takes batches ahead of the training loop, so that
    the sampler has given out more than were trained on: use torchdata's `StatefulDataLoader`, which counts them, or
    pass the number of batches trained on: `sampler.state_dict(consumed=step)`. With another number of ranks, the rest
    of the epoch is re-planned.

    After an out-of-memory error, `set_budget` re-plans the rest of the epoch under another budget.

    With `graphs_per_step` the unit is the optimizer step: sum the gradients of `accumulate` batches, each with its
    factor of `loss_weights`, then step the optimizer.
    """

    _cached_ends: tuple[Any, Any] = (None, None)

    def __init__(
        self,
        sizes_or_dataset: Any,
        max_nodes: int | None = None,
        max_edges: int | None = None,
        max_line_edges: int | None = None,
        max_graphs: int | None = None,
        calibration: Calibration | None = None,
        memory: int | str | None = None,
        shuffle: bool = True,
        seed: int = 0,
        oversized: str = "raise",
        num_replicas: int | None = None,
        rank: int | None = None,
        pack: str | None = None,
        max_columns: Mapping[str, int | float] | None = None,
        balance: str | None = None,
        time_model: TimeModel | None = None,
        share: str | os.PathLike[str] | None = None,
        graphs_per_step: int | None = None,
        last: str = "keep",
        indices: npt.ArrayLike | None = None,
        weights: npt.ArrayLike | None = None,
        replacement: bool = True,
        epoch_size: int | None = None,
        even: str = "raise",
    ) -> None:
        """Plan for a dataset.

        Args:
            sizes_or_dataset: A `SizeTable`, or a dataset that `nodebudget.measure` counts; crystals as the
                graphs that the calibration was made on, if there is one. Or several datasets: `nodebudget.mix`.
            max_nodes: Maximum number of nodes per batch; likewise the other maxima. At least one budget must be given.
            max_edges: Maximum number of edges.
            max_line_edges: Maximum number of line-graph edges.
            max_graphs: Maximum number of graphs.
            calibration: Predicts the bytes of a training step; goes with `memory`.
            memory: Maximum bytes of a step at its peak, all included, or a text such as "40GiB".
            shuffle: Reshuffle every epoch; otherwise every epoch is the same, in the dataset's order. For balanced
                batches that stay the same, in another order than the dataset's, pass `pack="balanced"` as well.
            seed: Random seed; the same on every rank.
            oversized: What happens to a graph over the budget: "raise", "skip" (left out, counted in `plan` and
                logged once), or "alone" (a batch of its own, logged once).
            num_replicas: Number of ranks; by default torch.distributed's where it is initialised, else 1.
            rank: This process's rank; by default torch.distributed's, else 0.
            pack: "balanced" (default), "dense", "sequential" (default without shuffling) or "static": see `make_plan`.
            max_columns: Maximum per batch of further columns of the sizes, by name.
            balance: Column that is balanced between batches and ranks; by default predicted bytes, or the column that
                needs the most batches. "time" balances what `time_model` predicts, so that ranks wait less for
                each other, within the same budget.
            time_model: Predicts the seconds of a step, as `nodebudget tune` fits it.
            share: A folder in which the ranks of a machine share plans: one rank computes a plan, the others map it.
                For many millions of graphs; by default each rank computes it.
            graphs_per_step: Graphs per optimizer step, over all ranks: the effective batch size. Each step is made of
                the fewest micro-batches that fit the budget, if one is given, and divide among the ranks; the same
                number in every step and epoch. The graphs of each step hang on `seed`, epoch and this number alone, so
                that a run goes on with other ranks or another budget. Budgets may differ by rank: they are exchanged.
                With `pack="static"` all ranks together have so many graphs in a batch each.
            last: What happens to a remainder of fewer graphs: "keep" (one more step; all have nearly as many graphs),
                "drop" (left out, others in each epoch) or "fill" (filled up with graphs that come twice).

            indices: The graphs to train on, by their places in the dataset; by default all.
            weights: Relative probability of each graph (of `indices`, where these are given), by which the graphs of an
                epoch are drawn: first drawn, the same on every rank, then planned.
            replacement: Whether a graph may be drawn several times in an epoch.
            epoch_size: Graphs that are drawn per epoch; by default as many as there are.
            even: What happens where the graphs can't be shared out equally among the ranks: "raise", "drop" (a few are
                left out) or "repeat" (a few come twice, see `real`). They are logged, and are others in every epoch.

        Raises:
            OversizedError: A graph is over the budget, and `oversized` is "raise".
            DoesNotFitError: No graph is left, or there are fewer graphs than ranks.
            InputError: An empty dataset, no budget, an invalid argument, or a folder where nothing can be shared.
        """
        self.num_replicas, self.rank = world_and_rank(num_replicas, rank)
        if graphs_per_step is not None and pack == "static":
            max_graphs = graphs_per_batch(graphs_per_step, self.num_replicas, pack, max_graphs)
            graphs_per_step = None
        elif graphs_per_step is not None and not (max_nodes or max_edges or max_line_edges or max_columns or memory):
            # Without a budget a step is one micro-batch of each rank.
            max_graphs = max_graphs or check_count("graphs_per_step", graphs_per_step, 1)
        budget = Budget.make(max_nodes, max_edges, max_line_edges, max_graphs, calibration, memory, max_columns)
        ranks = self.num_replicas, self.rank, num_replicas is not None and rank is not None
        if isinstance(sizes_or_dataset, Mixture):
            weights = sizes_or_dataset.weights if weights is None else weights
            sizes_or_dataset = sizes_or_dataset.sizes
        sizes = measure_as_calibrated(sizes_or_dataset, calibration)
        sizes = sizes if indices is None else subset(sizes, indices)
        draw = make_draw(len(sizes), weights, epoch_size, replacement=replacement)
        if (balance == "time") != (time_model is not None):
            raise InputError("balance='time' and a time_model go together", hint="make one with 'nodebudget tune'")
        steps, seconds, largest = None, None, budget
        if time_model is not None:
            seconds = float(time_model.graph_seconds(sizes).sum())
            if graphs_per_step is not None:
                time_model = of_first_rank(time_model, ranks)
            sizes, balance = sizes.with_column("seconds", time_model.graph_seconds(sizes)), "seconds"
        if graphs_per_step is not None:
            largest, budgets = gather_budgets(budget, ranks, seconds)
            steps = StepConfig(graphs_per_step, last, budgets)
        seed = check_count("seed", seed, 0)
        config = PlanConfig(
            sizes, largest, pack, shuffle, seed, oversized, self.num_replicas, balance, steps, draw, even
        )
        self._seconds, share = seconds, None if share is None else os.fspath(share)
        self._start(PlanProvider(config, share), sizes_or_dataset, ranks_given=ranks[2])

    @property
    def steps(self) -> int:
        """Optimizer steps of the epoch."""
        return int(step_ends(self._progress).sum()) if self._provider.config.steps is not None else len(self)

    @property
    def micro_batches(self) -> int:
        """Batches per optimizer step, over all ranks; another number in a step that was re-planned in its middle."""
        return self.num_replicas * self.accumulate

    @property
    def accumulate(self) -> int:
        """How many batches of this rank make an optimizer step, in which their gradients are summed."""
        return self._progress.accumulate

    def ends_step(self, batch: int) -> bool:
        """Return whether a batch of this rank, by its place in the epoch, is the last one of its optimizer step.

        Raises:
            InputError: There is no such batch.
        """
        batch = check_count("batch", batch, 0)
        if batch >= len(self):
            raise InputError(f"batch {batch}", limit=f"an epoch has {len(self)}", hint="count from 0 in every epoch")
        return bool(self._ends[batch])

    @property
    def _ends(self) -> Any:
        if self._cached_ends[0] is not self._progress:
            self._cached_ends = self._progress, step_ends(self._progress)
        return self._cached_ends[1]

    def loss_weights(self, by: str = "graphs") -> npt.NDArray[np.float64]:
        """Return a factor for the loss of each batch of this rank in the epoch, shape (batches,).

        Where each batch's loss is a mean and is multiplied by its factor, the sum over the micro-batches of a step and
        the mean over ranks, which DistributedDataParallel takes, is the mean over the whole step, and so are gradients.

        Args:
            by: What the loss is a mean over: "graphs", or a column of the sizes, such as "nodes" for the mean over
                atoms of a loss of forces.

        Raises:
            InputError: The sizes have no such column.
        """
        values = np.ones(len(self.sizes)) if by == "graphs" else self.sizes[by]
        return loss_weights(self._progress, self.rank, values)

    def real(self) -> npt.NDArray[np.bool_]:
        """Return which of the graphs that this rank's batches hold are no repetition, shape (graphs of its batches,).

        In the order of the batches. With `even="repeat"` or `last="fill"` leave the others out of a metric, so that
        each graph counts once over all ranks.
        """
        plan = self.plan
        repeats = np.zeros(len(plan.indices), dtype=bool) if plan.repeats is None else plan.repeats
        ranks = np.repeat(np.arange(len(plan)) % self.num_replicas, plan.graphs)
        return np.asarray(~repeats[ranks == self.rank])

    @property
    def shapes(self) -> tuple[dict[str, int], ...]:
        """With `pack="static"`: the shapes (column → size of a padded batch) of all epochs; see `plan.shapes`."""
        return tuple(map(dict, self._provider.config.static.shapes))

    @property
    def shape(self) -> dict[str, int]:
        """With `pack="static"`: the shape that holds every batch, the last of `shapes`."""
        return self.shapes[-1]

    def __repr__(self) -> str:
        return (
            f"NodeBudgetSampler({len(self.sizes)} graphs, {len(self)} batches, {self.budget.describe()}, "
            f"rank {self.rank} of {self.num_replicas})"
        )
