"""What padding to a static shape costs, beside what it costs in other ways."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from nodebudget.datasets.size_table import SizeTable
from nodebudget.sampling.packing.batch_grid import Ints
from nodebudget.sampling.packing.items import Items
from nodebudget.sampling.packing.ordered import next_fit
from nodebudget.sampling.packing.reproducible import RandomStream, shuffled
from nodebudget.sampling.plan import Plan

#: jraph's example for molecules rounds its budgets up to a multiple of this.
_MULTIPLE = 64


def padding_of_plan(plan: Plan) -> dict[str, Any]:
    """Return what is padded under a plan of `pack="static"`, and in other ways on the same graphs.

    Returns:
        `shapes` (each with `batches`, how many are padded to it, and the sizes of such a batch), and `padding`: way →
        column → what is padded, as a part of the graphs' total. The ways: `static`; `fixed`, shuffled batches of
        as many graphs, padded to the largest of one epoch; and `jraph`, shuffled graphs that fill a batch until the
        next would go over the mean of so many graphs, rounded up to a multiple of 64, and are padded to that.

    Raises:
        InputError: The plan was not made with `pack="static"`.
    """
    shapes, config = plan.config.static.shapes, plan.config
    sizes = config.sizes.take(np.sort(plan.indices))
    batches = np.bincount(plan.shapes, minlength=len(shapes)).tolist()
    order = shuffled(len(sizes), RandomStream(config.seed, plan.epoch))
    graphs = max(shape["graphs"] for shape in shapes) - 1
    names = [name for name in shapes[-1] if name != "graphs"]
    padded = {name: sum(count * shape[name] for count, shape in zip(batches, shapes, strict=True)) for name in names}
    totals = {name: int(sizes[name].sum(dtype=np.int64)) or 1 for name in names}
    return {
        "shapes": [{"batches": count, **shape} for count, shape in zip(batches, shapes, strict=True)],
        "padding": {
            "static": {name: padded[name] / totals[name] - 1 for name in names},
            "fixed": _fixed(sizes, order, min(graphs, len(sizes)), names),
            "jraph": _jraph(sizes, order, graphs, totals),
        },
    }


def _fixed(sizes: SizeTable, order: Ints, graphs: int, names: list[str]) -> dict[str, float]:
    full = len(order) // graphs * graphs
    loads = {name: sizes[name][order[:full]].reshape(-1, graphs).sum(axis=1) for name in names}
    return {name: float(load.max() / max(load.mean(), 1)) - 1 for name, load in loads.items()}


def _jraph(sizes: SizeTable, order: Ints, graphs: int, totals: Mapping[str, int]) -> dict[str, float]:
    values = tuple(sizes[name][order] for name in totals)
    means = [total * graphs // len(order) for total in totals.values()]
    # What jraph refuses is given its own batch: the largest graph and one node or edge of padding.
    maxima = [
        max(_MULTIPLE * (1 + mean // _MULTIPLE) - 1, int(column.max()))
        for mean, column in zip(means, values, strict=True)
    ]
    # Of so many graphs one is padding.
    batches = len(next_fit(Items(values, tuple(maxima), max(graphs - 1, 1)))[1]) - 1
    return {
        name: batches * (maximum + 1) / total - 1 for (name, total), maximum in zip(totals.items(), maxima, strict=True)
    }
