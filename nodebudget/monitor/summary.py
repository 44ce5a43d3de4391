"""Statistics of a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nodebudget.monitor.drift import WARM_UP
from nodebudget.monitor.log_reader import Run

_SLOWEST = 5  #: Number of slowest steps in the summary.
_RECENT = 20  #: Number of newest steps that speed and the time left are estimated from.


def summarize(run: Run, capacity: int | None = None) -> dict[str, Any]:
    """Sum up a run; the capacity of the device, bytes, is by default that in the header.

    Of `measured`, `predicted`, `reserved`, `rss`, `step_seconds` and in `sizes` of each size it returns `mean max min
    cv`, or None. `of` is the number of batches of the whole run, `drift` the median of measured / predicted - 1, and
    `waited_share` the share of the time spent on waiting for batches.
    """
    whole = [step for step in run.steps if step["status"] == "done"]
    seconds = _seconds(run.steps)
    names = dict.fromkeys(name for step in whole for name in step["sizes"])
    shown = ("step", "epoch", "seconds", "sizes", "measured", "predicted")
    slowest = sorted(whole, key=lambda step: -step["seconds"])[:_SLOWEST]
    return {
        "status": "running, or killed (no end in the log)" if run.end is None else str(run.end.get("status", "done")),
        "batches": len(run.steps),
        "of": run.header.get("batches"),
        "epochs": sum(event.get("event") == "epoch" for event in run.events),
        "restarts": run.parts - 1,
        "damaged_lines": run.damaged,
        "device": run.header.get("device", {}),
        "model": run.header.get("model"),
        "measured_by": run.header.get("measured_by"),
        "note": run.header.get("note"),
        "seconds": seconds,
        **{name: _spread([step[name] for step in whole]) for name in ("measured", "predicted", "reserved", "rss")},
        "sizes": {name: _spread([step["sizes"].get(name) for step in whole]) for name in names},
        "drift": _drift(whole),
        "retries": sum(step["retries"] or 0 for step in run.steps),
        "graphs_per_second": speed(run),
        "waited_share": sum(step["waited"] or 0.0 for step in run.steps) / seconds if seconds else None,
        "step_seconds": _spread([step["seconds"] for step in whole]),
        "slowest": [{key: step[key] for key in shown} for step in slowest],
        "warnings": [event["text"] for event in run.events if event.get("event") == "warning"],
        "out_of_memory": [event["text"] for event in run.events if event.get("event") == "out of memory"],
        "splits": sum(event.get("event") == "split" for event in run.events),
        "capacity": capacity or run.header.get("device", {}).get("memory"),
        "seconds_left": seconds_left(run),
    }


def speed(run: Run) -> float | None:
    """Return graphs per second over the newest steps, or None where graphs or time are not known."""
    recent = run.steps[-_RECENT:]
    seconds, graphs = _seconds(recent), sum(step["sizes"].get("graphs", 0) for step in recent)
    return float(graphs / seconds) if graphs and seconds else None


def seconds_left(run: Run) -> float | None:
    """Return the time left of the run, or of its epoch; None where the number of batches is not known."""
    total, done = progress_of(run)
    if run.end is not None or total is None or not run.steps:
        return None
    recent = run.steps[-_RECENT:]
    return max(total - done, 0) * _seconds(recent) / len(recent)


def progress_of(run: Run) -> tuple[int | None, int]:
    """Return the number of batches of the run, or of its epoch where that is not known, and how many are done."""
    done = run.steps[-1]["step"] if run.steps else 0
    if run.header.get("batches"):
        return int(run.header["batches"]), done
    epoch = next((event for event in reversed(run.events) if event.get("event") == "epoch"), None)
    if epoch is None or epoch["batches"] is None:
        return None, done
    return int(epoch["batches"]), done - int(epoch["step"])


def _seconds(steps: Sequence[dict[str, Any]]) -> float:
    """Return the time of steps and of waiting for their batches."""
    return float(sum(step["seconds"] + (step["waited"] or 0.0) for step in steps))


def _drift(steps: Sequence[dict[str, Any]]) -> float | None:
    ratios = [
        step["measured"] / step["predicted"] - 1
        for step in steps
        if step["measured"] is not None and step["predicted"] and step["step"] > WARM_UP
    ]
    return float(np.median(ratios)) if ratios else None


def _spread(values: Sequence[float | None]) -> dict[str, float] | None:
    array = np.array([value for value in values if value is not None], dtype=np.float64)
    if not len(array):
        return None
    mean = float(array.mean())
    cv = float(array.std() / mean) if mean else 0.0
    return {"mean": mean, "min": float(array.min()), "max": float(array.max()), "cv": cv}
