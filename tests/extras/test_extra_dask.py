"""The extra `dask`: a cluster is an executor. (What counts crystals on it is the extra `structures`.)"""

from __future__ import annotations

import pytest
from apart import need

from nodebudget.datasets.workers import dask_executor
from nodebudget.errors import InputError
from nodebudget.utils.optional_imports import require

need("dask", "distributed")

# What Dask warns of in its own code is not ours to mend.
pytestmark = pytest.mark.filterwarnings("ignore")


def test_a_cluster_works():
    cluster = require("distributed").LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None)
    with cluster, dask_executor(cluster.scheduler_address) as pool:
        assert pool.submit(divmod, 7, 4).result(timeout=60) == (1, 3)


def test_an_address_where_nobody_answers():
    with pytest.raises(InputError, match="no Dask scheduler answers"), dask_executor("nonsense://nowhere"):
        pass
