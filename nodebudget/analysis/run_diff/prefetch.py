"""Host memory of prefetched batches: workers × prefetch factor × batch."""

from __future__ import annotations

from typing import Any

from nodebudget.analysis.run_diff.runs import RunConfig
from nodebudget.analysis.shapley import mean_sizes
from nodebudget.datasets.size_table import SizeTable

#: Bytes of a batch of alignn's DGL graphs by size: 92 + 4 floats per atom, two ends and 6 floats per edge (and these
#: floats again as node features of the line graph), two ends and a float per line-graph edge, and lattice, target and
#: counts per graph.
_BATCH_BYTES = {"graphs": 72, "nodes": 384, "edges": 64, "line_edges": 20}

_WORKERS = ("num_workers", "workers", "dataloader_num_workers")
_PREFETCH = "prefetch_factor"

_DEFAULT_PREFETCH = 2  #: PyTorch's default prefetch factor.


def batch_bytes(table: SizeTable, batch_size: int) -> float:
    """Return the host memory of a mean batch, bytes."""
    means = {"graphs": 1.0, **mean_sizes(table)}
    per_graph = sum(count * means.get(name, 0.0) for name, count in _BATCH_BYTES.items())
    return per_graph * min(batch_size, len(table))


def prefetch_bytes(run: RunConfig, setting: str, a: Any, b: Any, batch: float) -> int | None:
    """Return the change in host memory if a data loader setting of run A changes from a to b; None for other settings.

    `batch` is the host memory of a batch, bytes.
    """
    name = setting.rpartition(".")[2].lower()
    if name in _WORKERS:
        change, factor = _count(b, 0) - _count(a, 0), _count(run.setting(_PREFETCH), _DEFAULT_PREFETCH)
    elif name == _PREFETCH:
        change = _count(b, _DEFAULT_PREFETCH) - _count(a, _DEFAULT_PREFETCH)
        factor = _count(run.setting(*_WORKERS), 0)
    else:
        return None
    return round(change * factor * batch)


def _count(value: Any, default: int) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else default
