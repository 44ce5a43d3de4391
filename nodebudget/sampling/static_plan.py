"""Plans whose batches have a static shape: the maxima of all sizes at once, the same in every epoch."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping

import numpy as np

from nodebudget.datasets.size_table import SizeTable
from nodebudget.errors import DoesNotFitError, InputError
from nodebudget.sampling.budget import Budget
from nodebudget.sampling.packing.batch_grid import Ints
from nodebudget.sampling.packing.items import Column, Items
from nodebudget.sampling.packing.static_shape import EqualBatches, Maxima, find_equal_batches
from nodebudget.utils.checks import check_count
from nodebudget.utils.size_labels import count_sizes

#: Sizes of a padded batch by name: `graphs`, `nodes` and the other columns.
Shape = Mapping[str, int]

#: More batches than the fewest that are tried before graphs per batch may differ, in thousandths.
_MORE = (0, 3, 6, 12, 25)

#: Each padding graph takes a node, and one of them two edges, so that its line graph has an angle that is not straight.
_EDGES = 2

#: Where large graphs fill batches others have up to so many times the mean number of graphs,
_TIMES = 2
#: and columns that do not fill the budget are so many thousandths of their mean.
_WIDE = 1050


class StaticPlan:
    """The shapes of a dataset's batches under a budget.

    With the padding graphs a shape has one graph more than a batch may have, a node more for each graph that a batch
    lacks, and two edges more.

    Args:
        sizes: One row per graph.
        budget: What a batch may hold without padding; memory with padding.
        num_replicas: The number of batches is a multiple of this.

    Attributes:
        shapes: One to three shapes; each is at least as large as the one before, and the last holds every batch.
        equal: Batches of equally many graphs; None where large graphs under maxima keep that from being.

    Raises:
        InputError: A column with a maximum is not of whole numbers.
        DoesNotFitError: No shape that holds the graphs is within the budget.
    """

    def __init__(self, sizes: SizeTable, budget: Budget, num_replicas: int = 1) -> None:
        self._sizes, self._budget = sizes, budget
        inside = budget.columns(sizes)[1]
        chosen = np.flatnonzero(~inside.oversized())
        self._lower_bound = inside.take(chosen).lower_bound()
        self.names = tuple(reversed(_whole_columns(sizes, budget)))
        self._values = tuple(sizes[name][chosen] for name in self.names)
        self._graphs, self._ranks = len(chosen), num_replicas
        self.equal: EqualBatches | None = None
        self._max_graphs = 0
        self._maxima: Maxima = self._find() if self._graphs else ()
        self.shapes = tuple(self._shape(maxima) for maxima in self._maxima)

    def _find(self) -> Maxima:
        """Return the sets of maxima, smallest first."""
        limited = bool(self._budget.maxima) or self._budget.memory is not None
        for more in _MORE if limited else (0,):
            batches = self._lower_bound + self._lower_bound * more // 1000
            batches += -batches % self._ranks
            if batches > self._graphs:
                break
            self._max_graphs = -(-self._graphs // batches)
            # Beyond one per graph: batches with a graph less have a padding graph more, which takes a node.
            values = tuple(
                np.maximum(column - 1, 0) if name == "nodes" else column
                for name, column in zip(self.names, self._values, strict=True)
            )
            none = (None,) * len(values)
            self.equal = find_equal_batches(Items(values, none), batches, lambda sets: self._allowed(sets[-1]))
            if self.equal is not None:
                return self.equal.maxima
        return (self._widest(),)

    def items(self, sizes: SizeTable, chosen: Ints | None) -> Items:
        """Return some graphs of the sizes, with the maxima of the largest shape; None for all."""
        columns: list[Column] = []
        for name in self.names:
            values = sizes[name] if chosen is None else sizes[name][chosen]
            columns.append(np.maximum(values - 1, 0) if name == "nodes" and self.equal is not None else values)
        return Items(tuple(columns), self._maxima[-1], self._max_graphs)

    def shape_numbers(self, graphs: Ints, loads: Callable[[Column], Ints]) -> Ints:
        """Return the number of the smallest shape that holds each batch.

        Args:
            graphs: Graphs of each batch, shape (batches,).
            loads: Sums a column, shape (graphs of the dataset,), over each batch.
        """
        larger = np.zeros(len(graphs), dtype=np.int64)
        for shape in self.shapes[:-1]:
            padding: dict[str, Ints | int] = {"nodes": shape["graphs"] - graphs, "edges": _EDGES}
            over = [loads(self._sizes[name]) > shape[name] - padding.get(name, 0) for name in self.names]
            larger += np.any(over, axis=0)
        return larger

    def _shape(self, maxima: tuple[int, ...]) -> dict[str, int]:
        """Return the shape of batches within some maxima, with their padding graphs."""
        graphs = self._max_graphs + 1
        sizes = dict(zip(self.names, maxima, strict=True))
        padding = {"nodes": graphs, "edges": _EDGES}
        return {"graphs": graphs, **{name: sizes[name] + padding.get(name, 0) for name in reversed(self.names)}}

    def _allowed(self, maxima: tuple[int, ...]) -> bool:
        """Return whether batches of equally many graphs may have these maxima."""
        shape = self._shape(maxima)
        largest = {**shape, "nodes": shape["nodes"] - 1, "edges": shape.get("edges", 0) - _EDGES}
        return all(largest[name] <= maximum for name, maximum in self._budget.maxima.items()) and self._fits(shape)

    def _fits(self, shape: Shape) -> bool:
        """Return whether a step on a batch of this shape is within the memory."""
        model, memory = self._budget.calibration, self._budget.memory
        if model is None or memory is None:
            return True
        return float(model.predict_bytes(**shape)) <= model.max_prediction(memory)

    def _widest(self) -> tuple[int, ...]:
        """Return the largest maxima within the budget that hold every graph, all columns in the data's proportions."""
        totals = [int(values.sum(dtype=np.int64)) for values in self._values]
        largest = [int(values.max(initial=0)) for values in self._values]
        maximums = [self._budget.maxima.get(name) for name in self.names]
        max_graphs = min(self._budget.max_graphs or self._graphs, self._graphs)

        def means(thousandths: int) -> list[int]:
            return [total * thousandths // (1000 * self._graphs) for total in totals]

        def wide(thousandths: int) -> tuple[int, ...]:
            self._max_graphs = min(max_graphs, max(1, _TIMES * thousandths // 1000))
            wider = [mean * _WIDE // 1000 for mean in means(thousandths)]
            return tuple(
                max(mean if limit is None else min(mean, int(limit)), top)
                for mean, limit, top in zip(wider, maximums, largest, strict=True)
            )

        def holds(thousandths: int) -> bool:
            pairs = zip(means(thousandths), maximums, strict=True)
            within = all(limit is None or mean <= limit for mean, limit in pairs)
            return within and self._fits(self._shape(wide(thousandths)))

        best = _last(1000 * max_graphs, holds)
        if not best:
            raise DoesNotFitError(
                f"no static shape holds graphs of up to {count_sizes(dict(zip(self.names, largest, strict=True)))}",
                limit=f"with its padding a batch may take {self._budget.describe()}",
                hint="raise the budget, or leave the largest graphs out of the data",
            )
        return wide(best)


def _last(count: int, holds: Callable[[int], bool]) -> int:
    """Return the last number from 1 to `count` for which a condition that holds up to some number holds, or 0."""
    return bisect_left(range(1, count + 1), True, key=lambda number: not holds(number))


def _whole_columns(sizes: SizeTable, budget: Budget) -> list[str]:
    for name in budget.maxima:
        if sizes[name].dtype.kind != "i":
            raise InputError(
                f"column {name!r} has fractions",
                limit="a static shape is made of whole numbers",
                hint="leave its maximum out, or give it in a smaller unit",
            )
    return [name for name in sizes.columns if sizes[name].dtype.kind == "i"]


def graphs_per_batch(graphs_per_step: int, num_replicas: int, pack: str | None, max_graphs: int | None) -> int:
    """Return the number of graphs that each rank's batch of a step has.

    Raises:
        InputError: The graphs can't be shared equally, there is another maximum, or batches are not static.
    """
    graphs = check_count("graphs_per_step", graphs_per_step, 1)
    if pack != "static":
        raise InputError(f"graphs_per_step with pack={pack!r}", hint="pass pack='static', or max_graphs instead")
    if max_graphs is not None:
        raise InputError("graphs_per_step and max_graphs", limit="both say how many graphs", hint="give one of them")
    if graphs % num_replicas:
        raise InputError(
            f"graphs_per_step is {graphs}", limit=f"{num_replicas} ranks share a step", hint="choose a multiple"
        )
    return graphs // num_replicas
