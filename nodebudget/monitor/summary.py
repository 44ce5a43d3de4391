"""A run in some figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from nodebudget.monitor.drift import WARM_UP
from nodebudget.monitor.log_reader import Run

#: So many of the slowest steps are shown.
_SLOWEST = 5

#: Speed and the time left go by so many of the newest steps.
_RECENT = 20


def summarize(run: Run, capacity: int | None = None) -> dict[str, Any]:
    """Sum up a run.

    Args:
        run: What was read of its log.
        capacity: Bytes of the device; by default what the header says of it.

    Returns:
        `status`, `batches`, `of` (batches of the whole run, or None), `epochs`, `restarts`, `seconds`; `measured`,
        `predicted`, `reserved`, `rss`, `step_seconds` and in `sizes` each size (`mean max min cv`, or None);
        `drift` (median of measured over predicted, less 1), `retries`, `graphs_per_second`, `waited_share` (of the
        time, spent on waiting for batches), `slowest`, `warnings`, `out_of_memory`, `splits`, `capacity`,
        `seconds_left`, `device`, `model`, `measured_by` and `note`.
    """
    whole = [step for step in run.steps if step["status"] == "done"]
    seconds = float(sum(step["seconds"] + (step["waited"] or 0.0) for step in run.steps))
    names = dict.fromkeys(name for step in whole for name in step["sizes"])
    return {
        "status": status_of(run),
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
        "slowest": [_short(step) for step in sorted(whole, key=lambda step: -step["seconds"])[:_SLOWEST]],
        "warnings": [event["text"] for event in run.events if event.get("event") == "warning"],
        "out_of_memory": [event["text"] for event in run.events if event.get("event") == "out of memory"],
        "splits": sum(event.get("event") == "split" for event in run.events),
        "capacity": capacity or run.header.get("device", {}).get("memory"),
        "seconds_left": seconds_left(run),
    }


def status_of(run: Run) -> str:
    """Say how a run ended, as far as its log tells."""
    return "no end in the log: running, or killed" if run.end is None else str(run.end.get("status", "done"))


def speed(run: Run) -> float | None:
    """Return graphs a second over the newest steps, or None where graphs or time are not known."""
    recent = run.steps[-_RECENT:]
    seconds = sum(step["seconds"] + (step["waited"] or 0.0) for step in recent)
    graphs = sum(step["sizes"].get("graphs", 0) for step in recent)
    return float(graphs / seconds) if graphs and seconds else None


def seconds_left(run: Run) -> float | None:
    """Return the time that the rest of the run, or of its epoch, takes; None where that is not known."""
    total, done = progress_of(run)
    if run.end is not None or total is None or not run.steps:
        return None
    recent = run.steps[-_RECENT:]
    seconds = sum(step["seconds"] + (step["waited"] or 0.0) for step in recent)
    return float(max(total - done, 0) * seconds / len(recent))


def progress_of(run: Run) -> tuple[int | None, int]:
    """Return the number of batches of the run, or where that is not known of its epoch, and how many are done."""
    done = run.steps[-1]["step"] if run.steps else 0
    if run.header.get("batches"):
        return int(run.header["batches"]), done
    epoch = next((event for event in reversed(run.events) if event.get("event") == "epoch"), None)
    if epoch is None or epoch["batches"] is None:
        return None, done
    return int(epoch["batches"]), done - int(epoch["step"])


def _drift(steps: Sequence[dict[str, Any]]) -> float | None:
    ratios = [
        step["measured"] / step["predicted"] - 1
        for step in steps
        if step["measured"] is not None and step["predicted"] and step["step"] > WARM_UP
    ]
    return float(np.median(ratios)) if ratios else None


def _spread(values: Sequence[float | None]) -> dict[str, float] | None:
    known = np.array([value for value in values if value is not None], dtype=np.float64)
    if not len(known):
        return None
    mean = float(known.mean())
    measures: dict[str, Callable[[npt.NDArray[np.float64]], Any]] = {"mean": np.mean, "min": np.min, "max": np.max}
    found = {name: float(measure(known)) for name, measure in measures.items()}
    return {**found, "cv": float(known.std() / mean) if mean else 0.0}


def _short(step: dict[str, Any]) -> dict[str, Any]:
    return {key: step[key] for key in ("step", "epoch", "seconds", "sizes", "measured", "predicted")}
