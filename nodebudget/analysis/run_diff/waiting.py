"""Host memory of the batches that a loader's workers make ahead: workers × prefetch factor × batch."""

from __future__ import annotations

from typing import Any

from nodebudget.analysis.run_diff.runs import Run
from nodebudget.analysis.shapley import mean_sizes
from nodebudget.datasets.size_table import SizeTable

#: Bytes that a batch of alignn's DGL graphs has for each of its sizes: 92 + 4 floats an atom, ends and 6 floats an edge
#: (and those floats once more as nodes of the line graph), ends and a float a line-graph edge, and lattice, target and
#: counts a graph.
BATCH_BYTES = {"graphs": 72, "nodes": 384, "edges": 64, "line_edges": 20}

_WORKERS = ("num_workers", "workers", "dataloader_num_workers")
_PREFETCH = "prefetch_factor"

#: PyTorch's default.
_AHEAD = 2


def batch_bytes(table: SizeTable, batch_size: int) -> float:
    """Return the host memory of a mean batch, bytes."""
    mean = {"graphs": 1.0, **mean_sizes(table)}
    graph = sum(count * mean.get(name, 0.0) for name, count in BATCH_BYTES.items())
    return graph * min(batch_size, len(table))


def waiting_bytes(run: Run, setting: str, a: Any, b: Any, batch: float) -> int | None:
    """Return the host memory that B's value of a setting of the loader adds to run A, bytes; None where it is not one.

    Args:
        run: The first run.
        setting: Dotted name.
        a: Its value there; None where it is not set.
        b: The other value.
        batch: Host memory of a batch.
    """
    name = setting.rpartition(".")[2].lower()
    if name in _WORKERS:
        workers, prefetch = (_whole(a, 0), _whole(b, 0)), (_whole(run.setting(_PREFETCH), _AHEAD),) * 2
    elif name == _PREFETCH:
        workers, prefetch = (_whole(run.setting(*_WORKERS), 0),) * 2, (_whole(a, _AHEAD), _whole(b, _AHEAD))
    else:
        return None
    return round((workers[1] * prefetch[1] - workers[0] * prefetch[0]) * batch)


def _whole(value: Any, default: int) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else default
