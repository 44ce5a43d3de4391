"""A monitored run on a page: its memory over the steps, what happened, and how it kept to the prediction."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from nodebudget.calibration.memory_model import CONFIDENCE
from nodebudget.calibration.prediction_interval import PredictionBound
from nodebudget.monitor.drift import WARM_UP
from nodebudget.monitor.log_reader import Run
from nodebudget.monitor.summary import summarize
from nodebudget.report.html.charts import MOST, Axis, Chart, Series, lines, thin
from nodebudget.report.html.words import facts_of, model_and_device
from nodebudget.utils.byte_units import format_bytes

#: What is drawn, the lowest first.
_AMOUNTS = {"reserved": "reserved by PyTorch", "predicted": "predicted peak", "measured": "measured peak"}

#: A capacity over so many times the highest peak is told and not drawn: the peaks would lie on the ground.
_FAR = 3.0

#: So many events are marked in a picture and listed in a table: the first ones.
_MOST_EVENTS = 50

#: Lines of a log that are no event to speak of.
_QUIET = ("epoch",)


def describe_run(run: Run, capacity: int | None = None) -> dict[str, Any]:
    """Return what a page shows of a run, as plain values.

    Args:
        run: As its log has it.
        capacity: Bytes of the device; None for what the log says.
    """
    places = _places(run)
    model, device = model_and_device(run.header)
    events = [event for event in run.events if event.get("event") not in _QUIET]
    shown = events[:_MOST_EVENTS]
    bound = (run.header.get("calibration") or {}).get("bound")
    return {
        **summarize(run, capacity),
        "model": model,
        "device": device,
        "on_cpu": (run.header.get("device") or {}).get("device") == "cpu",
        "facts": facts_of(run.header),
        "ended": run.end is not None,
        "margin": None if bound is None else float(PredictionBound.from_dict(bound).margin(0.0, CONFIDENCE)),
        "series": _series(run, places),
        "off": _off(run, places),
        "events": [{**_event(event), "at": at} for event, at in zip(shown, _located(shown, run, places), strict=True)],
        "more_events": max(len(events) - _MOST_EVENTS, 0),
        "about": [str(event.get("about")) for event in events if event.get("event") == "warning"],
    }


def _places(run: Run) -> list[float]:
    """Return where each step stands: its number, or its place in the log where numbers begin anew."""
    numbers = [float(step["step"]) for step in run.steps]
    rising = all(before < after for before, after in pairwise(numbers))
    return numbers if rising else [float(place) for place in range(1, len(numbers) + 1)]


def _series(run: Run, places: Sequence[float]) -> dict[str, Any]:
    found = {}
    for name in (*_AMOUNTS, "rss"):
        known = [(place, float(step[name])) for place, step in zip(places, run.steps, strict=True) if step[name]]
        found[name] = thin([value for _, value in known], [place for place, _ in known]) if known else None
    return found


def _off(run: Run, places: Sequence[float]) -> dict[str, Any] | None:
    """Return how far measured peaks are from predicted ones, of the steps that are held against them."""
    known = [
        (place, step["measured"] / step["predicted"] - 1)
        for place, step in zip(places, run.steps, strict=True)
        if step["measured"] and step["predicted"] and step["status"] == "done" and step["step"] > WARM_UP
    ]
    return thin([value for _, value in known], [place for place, _ in known]) if known else None


def _event(event: Mapping[str, Any]) -> dict[str, Any]:
    own = {key: value for key, value in event.items() if key not in ("event", "step", "time", "text", "about")}
    return {
        "what": str(event.get("about") or event.get("event")),
        "event": str(event.get("event")),
        "step": int(event["step"]),
        "text": str(event.get("text") or ", ".join(f"{key} {value}" for key, value in own.items())),
    }


def _located(events: Sequence[Mapping[str, Any]], run: Run, places: Sequence[float]) -> list[float]:
    """Return where each event stands among the places of the steps."""
    first = places[0] if places else 0.0
    if run.parts == 1:
        return [max(float(event["step"]), first) for event in events]
    # By the clock: numbers of steps began anew when the run was taken up again.
    times = [float(step["time"]) for step in run.steps]
    before = [bisect_right(times, float(event["time"])) for event in events]
    return [places[count - 1] if count else first for count in before]


def run_charts(values: Mapping[str, Any]) -> list[Chart]:
    """Draw memory over the run, and how far it was from the prediction."""
    charts = [_memory(values)] if any(values["series"].values()) else []
    return charts + ([_drift(values)] if values["off"] else [])


def _memory(values: Mapping[str, Any]) -> Chart:
    shown = {name: values["series"][name] for name in _AMOUNTS if values["series"][name]}
    labels = dict(_AMOUNTS)
    if not {"reserved", "measured"} & shown.keys() and values["series"]["rss"]:
        shown["rss"], labels["rss"] = values["series"]["rss"], "resident set of the process"
    most = max(max(found["high"]) for found in shown.values())
    capacity, notes = values["capacity"], []
    # The memory of the host is no limit of what is predicted for the step alone.
    drawn = bool(capacity) and capacity <= _FAR * most
    if capacity and not drawn:
        notes.append(f"The device has {format_bytes(capacity)}, far above what is drawn.")
    if values["batches"] > MOST:
        notes.append(f"Lines are the highest of each of {MOST} stretches of the run; below: their range.")
    # One range is enough: those of two lie over each other.
    main = "measured" if "measured" in shown else list(shown)[-1]
    series = [entry for name, found in shown.items() for entry in lines(found, name, labels[name], ranges=name == main)]
    if drawn:
        series.insert(0, Series("level", "capacity", "capacity", [], [capacity]))
    most = max(most, capacity if drawn else 0.0)
    return Chart(
        "Memory over the run",
        Axis("step", whole=True),
        Axis("memory", "bytes", low=0.0, high=1.12 * most),
        (*series, *_marks(values)),
        note=" ".join(notes),
        wide=True,
    )


def _marks(values: Mapping[str, Any]) -> list[Series]:
    found = []
    for style, label, kinds in (
        ("oom", "out of memory", ("out of memory",)),
        ("warning", "warning", ("warning",)),
        ("split", "batch split", ("split",)),
    ):
        chosen = [event for event in values["events"] if event["event"] in kinds]
        if chosen:
            titles = [f"step {event['step']}: {event['what']}: {event['text']}" for event in chosen]
            found.append(Series("event", style, label, [event["at"] for event in chosen], [], titles=titles))
    return found


def _drift(values: Mapping[str, Any]) -> Chart:
    off, margin = values["off"], values["margin"] or 0.0
    low, high = 1.25 * min([-margin, *off["low"], -1e-6]), 1.25 * max([margin, *off["high"], 1e-6])
    ends = [off["at"][0], off["at"][-1]]
    band = [Series("band", "bound", f"the calibration's bound, {margin:.2%}", ends, [margin] * 2, [-margin] * 2)]
    return Chart(
        "How far measured peaks are from predicted ones",
        Axis("step", whole=True),
        Axis("measured above predicted", "percent", low=low, high=high),
        (
            *(band if margin and ends[0] < ends[1] else []),
            Series("level", "exact", "", [], [0.0]),
            *lines(off, "measured", "each step"),
        ),
        wide=True,
    )
