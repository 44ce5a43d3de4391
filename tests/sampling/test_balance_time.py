"""Plans that balance the time of a step instead of its bytes."""

import numpy as np
import pytest
from calibrations import fitted

from nodebudget import NodeBudgetSampler, SizeTable
from nodebudget.calibration.time_model import TimeModel
from nodebudget.errors import InputError

# Time goes by nodes, memory by line-graph edges.
SLOW_NODES = TimeModel({"fixed": 0.01, "per_graph": 0.0, "per_node": 1e-4, "per_line_edge": 1e-9}, 0.0)


def table(count=4000):
    rng = np.random.default_rng(0)
    nodes = rng.integers(2, 60, count)
    edges = (nodes * rng.uniform(4, 20, count)).astype(int)
    return SizeTable.from_counts(nodes, edges, (edges * rng.uniform(3, 20, count)).astype(int))


def seconds(sampler, sizes):
    return np.array([SLOW_NODES.predict_seconds({"nodes": sizes["nodes"][batch].sum()}) for batch in sampler])


def test_time_is_balanced_and_memory_kept():
    sizes = table()
    options = {"calibration": fitted(), "memory": "2GiB", "num_replicas": 4}
    by_time = [NodeBudgetSampler(sizes, rank=r, balance="time", time_model=SLOW_NODES, **options) for r in range(4)]
    by_bytes = [NodeBudgetSampler(sizes, rank=r, **options) for r in range(4)]
    spread = [
        (lambda steps: (steps.max(axis=0) / steps.mean(axis=0) - 1).max())(np.array([seconds(s, sizes) for s in ranks]))
        for ranks in (by_time, by_bytes)
    ]
    assert spread[0] < 0.01 < spread[1]
    assert by_time[0].plan.predicted_bytes.max() <= 2 * 2**30
    assert sorted(i for sampler in by_time for batch in sampler for i in batch) == list(range(len(sizes)))


def test_the_seconds_of_a_batch_are_those_of_its_graphs():
    sizes = table(50)
    whole = SLOW_NODES.predict_seconds({name: sizes[name].sum() for name in ("nodes", "line_edges")})
    assert SLOW_NODES.graph_seconds(sizes).sum() + 0.01 == pytest.approx(whole)


@pytest.mark.parametrize("options", [{"balance": "time"}, {"time_model": SLOW_NODES}])
def test_time_and_its_model_go_together(options):
    with pytest.raises(InputError, match="go together"):
        NodeBudgetSampler(table(50), max_nodes=1000, **options)
