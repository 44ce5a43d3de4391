"""Which graphs each epoch holds: all, some that are drawn, or all but a few that can't be shared out equally."""

from __future__ import annotations

import numpy as np

from nodebudget.errors import DoesNotFitError
from nodebudget.sampling.packing.batch_grid import Ints
from nodebudget.sampling.packing.reproducible import RandomStream, rotating
from nodebudget.sampling.plan_config import PlanConfig


class EpochContent:
    """The graphs of each epoch.

    Args:
        config: What plans depend on.
        graphs: The graphs that may be trained on, ascending.

    Attributes:
        all: These graphs.
        count: Graphs of an epoch before some are left out or repeated.
        steps: Optimizer steps of an epoch; 1 where there are no steps, and the epoch is packed as a whole.
        extra: How many graphs more an epoch has; below 0 where some are left out.

    Raises:
        DoesNotFitError: No step or no graph is left.
        InputError: Too few graphs can be drawn.
    """

    def __init__(self, config: PlanConfig, graphs: Ints) -> None:
        self._config, self.all, self.count = config, graphs, len(graphs)
        if config.draw is not None:
            self._allowed = np.isin(np.arange(len(config.sizes)), graphs)
            config.draw.check(self._allowed)
            self.count = config.draw.size
        self.steps, self.extra = self._steps_and_extra()

    def _steps_and_extra(self) -> tuple[int, int]:
        """Return the number of optimizer steps, and how many graphs it has more than drawn (or fewer, below 0)."""
        config, count, ranks = self._config, self.count, self._config.num_replicas
        if config.steps is None:
            # The whole epoch is packed as one step.
            extra = {"raise": 0, "drop": -(count % ranks), "repeat": -count % ranks}[config.even]
            if config.draw is None and count + extra > 0:
                return 1, extra
            if count + extra > 0:
                return 1, 0
            raise DoesNotFitError(
                f"{count:,} graphs can't be assigned to {ranks} ranks", limit="even='drop'", hint="use even='repeat'"
            )
        whole, rest = divmod(count, config.steps.graphs)
        steps = whole + (rest > 0 and config.steps.last != "drop")
        if not steps:
            raise DoesNotFitError(
                f"{count:,} graphs make no step",
                limit=f"graphs_per_step is {config.steps.graphs:,}, and smaller steps are dropped",
                hint="give fewer graphs_per_step, or last='keep' or 'fill'",
            )
        return steps, 0 if config.steps.last == "keep" else steps * config.steps.graphs - count

    def graphs(self, epoch: int, attempt: int = 0) -> Ints:
        """Return the graphs of an epoch; those from place `count` on are repeated ones."""
        graphs, extra, seed = self.all, self.extra, self._config.seed
        if self._config.draw is not None:
            graphs = self._config.draw.graphs(self._allowed, RandomStream(seed, epoch, attempt, 2))
        if not extra:
            return graphs
        chosen = rotating(self.count, abs(extra), seed, epoch)
        return np.delete(graphs, chosen) if extra < 0 else np.concatenate([graphs, graphs[chosen]])

    @property
    def one_each(self) -> bool:
        """Whether the graphs can't be shared out equally, so that nearly each fills a batch."""
        return self._config.steps is None and self._config.draw is None

    def epoch_of(self, epoch: int) -> int:
        """Return the epoch whose graphs are taken: the first where all are the same."""
        changes = self._config.shuffle and self._config.pack != "sequential"
        return epoch if changes or self.one_each else 0

    def changed(self, epoch: int) -> tuple[str, Ints]:
        """Return what becomes of graphs that can't be shared out equally, "" where there are none, and which."""
        if not self.extra or self._config.draw is not None:
            return "", self.all[:0]
        chosen = self.all[rotating(self.count, abs(self.extra), self._config.seed, self.epoch_of(epoch))]
        return "left out" if self.extra < 0 else "repeated", chosen
